"""Rewrites pairs.jsonl and prompts.jsonl of this folder, bit for bit."""

from pathlib import Path

from neurotrace.organism.probes import write

if __name__ == "__main__":
    write("arithmetic", Path(__file__).parent)
