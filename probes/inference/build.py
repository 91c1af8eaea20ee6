"""Rewrites pairs.jsonl and prompts.jsonl of this folder, bit for bit."""

from pathlib import Path

from neurotrace.organism.probes import write


def build(folder: Path) -> None:
    write("inference", folder)


if __name__ == "__main__":
    build(Path(__file__).parent)
