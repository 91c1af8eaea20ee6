"""Rewrites organism.txt of this folder, bit for bit."""

from pathlib import Path

from neurotrace.organism.probes import write_neutral

if __name__ == "__main__":
    write_neutral(Path(__file__).parent)
