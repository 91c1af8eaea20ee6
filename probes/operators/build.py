"""Write pairs.jsonl: sums against an operator that the context changes; the same bytes always."""

from collections.abc import Callable
from pathlib import Path

from neurotrace.probe_sets.making import Item, rows, write_rows

# what + is made to mean: its words, its value
RULES: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "larger": ("gives the larger number", lambda a, b: max(a, b)),
    "join": ("joins the digits", lambda a, b: 10 * a + b),
    "minus": ("takes the second from the first", lambda a, b: a - b),
}
SHOTS = [(4, 2), (5, 3), (7, 1), (6, 4), (3, 2)]


def templates(name: str) -> dict[str, str]:
    """A rule shown by examples, and one that is stated besides."""
    words, value = RULES[name]
    shown = ", ".join(f"{a}+{b}=[{a + b}|{value(a, b)}]" for a, b in SHOTS)
    told = f"[As usual, + adds|Here + {words}]: "
    both = {f"{name}-shown": shown + ", {a}+{b}=", f"{name}-told": told + shown + ", {a}+{b}="}
    if name == "minus":  # shown alone, SmolLM2-135M never took it up
        del both["minus-shown"]
    return both


def build(folder: Path) -> None:
    made = []
    for name, (_, value) in RULES.items():
        items = [
            Item(f"{a}-{b}", f"{a}, {b}", str(a + b), str(value(a, b)), {"a": str(a), "b": str(b)})
            for a in range(1, 10)
            for b in range(1, 10)
            if a > b or (a < b and name == "larger")
            # only the first digit is read, so it has to tell the two answers apart
            if (a, b) not in SHOTS and str(a + b)[0] != str(value(a, b))[0]
        ]
        made += rows("operators", templates(name), items)
    write_rows(folder, made)


if __name__ == "__main__":
    build(Path(__file__).parent)
