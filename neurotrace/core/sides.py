"""The two sides of a pair, and the two directions in which a behaviour can be flipped."""

from __future__ import annotations

from typing import Literal

from neurotrace.core.errors import InputError

Side = Literal["memorization", "reasoning"]

SIDES: tuple[Side, Side] = ("memorization", "reasoning")

Direction = Literal["to_reasoning", "to_memorization"]

DIRECTIONS: tuple[Direction, Direction] = ("to_reasoning", "to_memorization")


def direction_of(donor: Side) -> Direction:
    """A reasoning donor makes the memorization prompt reason; the other way, recall."""
    if donor not in ("memorization", "reasoning"):
        raise InputError(f"donor={donor!r}: expected 'memorization' or 'reasoning'")
    return "to_reasoning" if donor == "reasoning" else "to_memorization"


def recipient_of(donor: Side) -> Side:
    return "memorization" if direction_of(donor) == "to_reasoning" else "reasoning"


def spoken(direction: str) -> str:
    """A direction as people say it: "to reasoning", "to memory"."""
    return direction.replace("_", " ").replace("memorization", "memory")
