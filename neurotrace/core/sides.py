"""The two sides of a pair, and the two directions in which an answer can be flipped.

L = logit(memorized) - logit(reasoned): a flip to reasoning lowers it, a flip to memory raises it.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

from neurotrace.core.errors import InputError

Side = Literal["memorization", "reasoning"]
SIDES: tuple[Side, Side] = ("memorization", "reasoning")


class Direction(str, Enum):
    """The direction of a flip. Equal to its text: ``Direction("to_reasoning") == "to_reasoning"``.

    Every parameter `direction` accepts the text as well.
    """

    TO_REASONING = "to_reasoning"
    TO_MEMORIZATION = "to_memorization"

    @property
    def donor(self) -> Side:
        """The side of the intended behaviour: a patch takes its values from there."""
        return "reasoning" if self is Direction.TO_REASONING else "memorization"

    @property
    def recipient(self) -> Side:
        """The side whose run is changed."""
        return "memorization" if self is Direction.TO_REASONING else "reasoning"

    @property
    def sign(self) -> float:
        """Sign of the intended change of L."""
        return -1.0 if self is Direction.TO_REASONING else 1.0

    @classmethod
    def from_donor(cls, donor: str) -> Direction:
        """The direction for which `donor` gives the values; `InputError` for other words."""
        if donor not in SIDES:
            raise InputError(f"donor={donor!r}: expected 'memorization' or 'reasoning'")
        return cls.TO_REASONING if donor == "reasoning" else cls.TO_MEMORIZATION

    @classmethod
    def _missing_(cls, value: object) -> Direction:
        raise InputError(f"direction={value!r}: expected {' or '.join(DIRECTIONS)}")

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __repr__(self) -> str:
        return repr(self.value)


DIRECTIONS: tuple[Direction, Direction] = (Direction.TO_REASONING, Direction.TO_MEMORIZATION)


def spoken(direction: str) -> str:
    """A direction in prose: "to reasoning", "to memory"."""
    return direction.replace("_", " ").replace("memorization", "memory")
