"""Write prompts.jsonl: a rule stated within the question against habit; the same bytes every time."""

import random
from collections.abc import Callable
from pathlib import Path

from neurotrace.probe_sets.making import write_rows

SEED = 0
SHOT = (4, 2)

# numbers, the sum, what the rule gives
Case = tuple[int, int, str, str]


def cases(rule: Callable[[int, int], int]) -> list[Case]:
    """Only the first digit is read, so it must tell the two answers apart."""
    found = []
    for a in range(1, 10):
        for b in range(1, 10):
            usual, ruled = str(a + b), str(rule(a, b))
            if (a, b) != SHOT and a != b and ruled[0] != usual[0]:
                found.append((a, b, usual, ruled))
    return found


# family: a rule, in words, its value, an example
RULES: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "larger": ("the larger of two numbers", max),
    "first": ("the first number", lambda a, b: a),
    "join": ("joining", lambda a, b: 10 * a + b),
}
TEMPLATES = {
    "sign": "With + as the sign for {rule} {shot} and {x}",
    "means": "Where + means {rule} {shot} and so {x}",
    "pupil": "A pupil who takes + for {rule} writes {shot} and {x}",
}
# family -> the templates in which SmolLM2-135M's answers vary
USED = {"larger": ("means", "pupil"), "first": ("pupil",), "join": ("sign", "means")}


def prompts(family: str, template: str) -> list[dict[str, str | None]]:
    """One template's prompts; each is followed by the same question about other numbers."""
    words, rule = RULES[family]
    rng = random.Random(f"{SEED}/{family}/{template}")
    shot = f"{SHOT[0]}+{SHOT[1]}={rule(*SHOT)}"

    def text(a: int, b: int) -> str:
        return TEMPLATES[template].format(rule=words, shot=shot, x=f"{a}+{b}=")

    rows: list[dict[str, str | None]] = []
    for a, b, usual, ruled in (own := cases(rule)):
        name = f"{family}-{a}-{b}-{template}"
        row = {
            "id": name,
            "family": family,
            "template": template,
            "group": f"{a}, {b}",
            "prompt": text(a, b),
            "memorized_answer": usual,
            "reasoned_answer": ruled,
            "perturbs": None,
            "perturbation": None,
        }
        rows.append(row)
        # the sum that was recalled is wrong there
        others = [case for case in own if usual[0] not in (case[2][0], case[3][0])]
        c, d, _, again = rng.choice(others)
        about = {"id": f"{name}-numbers", "perturbs": name, "perturbation": "numbers"}
        rows.append(row | about | {"prompt": text(c, d), "reasoned_answer": again})
    return rows


def build(folder: Path) -> None:
    made = [row for family in USED for template in USED[family] for row in prompts(family, template)]
    write_rows(folder / "prompts.jsonl", made)


if __name__ == "__main__":
    build(Path(__file__).parent)
