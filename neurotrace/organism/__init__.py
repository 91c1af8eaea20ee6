"""The built-in model organisms: small transformers whose two behaviours are known.

Importing this package loads no torch. `language` generates the text, `training` the weights;
`mixture` makes organisms with experts, which are trained when asked for and not packaged.

May import: nothing of ours.
"""

from pathlib import Path

NAMES = ("organism", "organism-natural")


def folder(name: str) -> Path:
    """The folder with the weights, tokenizer and card of a packaged organism."""
    if name not in NAMES:
        raise ValueError(f"no organism named {name!r}; there are {', '.join(NAMES)}")
    return Path(__file__).parent / "weights" / name
