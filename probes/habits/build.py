"""Write prompts.jsonl: a rule stated within the question against habit; the same bytes every time."""

import random
from collections.abc import Callable
from pathlib import Path

from neurotrace.probe_sets.making import prompt_rows, write_rows

SEED = 0
SHOTS = 3  # prompts for the same numbers, each with another example of the rule, where there are as many
# words, so that no answer's digit stands in the question
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# numbers, the sum, what the rule gives
Case = tuple[int, int, str, str]
Rule = Callable[[int, int], int]


def cases(rule: Rule) -> list[Case]:
    """Only the first digit is read, so it must tell the two answers apart."""
    found = []
    for a in range(1, 10):
        for b in range(1, 10):
            usual, ruled = str(a + b), str(rule(a, b))
            if a != b and ruled[0] != usual[0]:
                found.append((a, b, usual, ruled))
    return found


EXAMPLES = ((4, 2), (2, 3), (5, 6), (7, 8), (6, 9))
# family: a rule, in words, its value
RULES: dict[str, tuple[str, Rule]] = {
    "join": ("joining", lambda a, b: 10 * a + b),
    "first": ("the first number", lambda a, b: a),
}
TEMPLATES = {
    "sign": "With + as the sign for {rule} {shot} and {x}",
    "means": "Where + means {rule} {shot} and so {x}",
    "pupil": "A pupil who takes + for {rule} writes {shot} and {x}",
    "robot": "A robot uses + for {rule}: {shot}, {x}",
}
# family -> the templates in which SmolLM2-135M's answers vary
USED = {
    "join": ("sign", "means", "pupil", "robot"),
    "first": ("means", "pupil", "robot"),
}


def prompts(family: str, template: str) -> list[dict[str, str | None]]:
    """One template's prompts; each is followed by the same question about other numbers."""
    words, rule = RULES[family]
    rng = random.Random(f"{SEED}/{family}/{template}")
    own = cases(rule)

    def text(case: Case, shot: tuple[int, int]) -> str:
        (c, d), (a, b, *_) = shot, case
        example = f"{NUMBERS[c]}+{NUMBERS[d]}={rule(c, d)}"
        return TEMPLATES[template].format(rule=words, shot=example, x=f"{NUMBERS[a]}+{NUMBERS[b]}=")

    def apart(case: Case, shot: tuple[int, int]) -> bool:
        """The example has none of the question's numbers, and neither answer's digit."""
        a, b, usual, ruled = case
        return {a, b}.isdisjoint(shot) and not {usual[0], ruled[0]} & {*str(rule(*shot))}

    rows: list[dict[str, str | None]] = []
    for case in own:
        a, b, usual, ruled = case
        fit = [shot for shot in EXAMPLES if apart(case, shot)]
        for number, shot in enumerate(rng.sample(fit, min(SHOTS, len(fit)))):
            name = f"{family}-{a}-{b}-{template}-{number + 1}"
            about = {
                "id": name,
                "family": family,
                "template": template,
                "group": f"{a}, {b}",
                "memorized_answer": usual,
                "reasoned_answer": ruled,
            }
            # the sum that was recalled is wrong there
            others = [
                each for each in own if apart(each, shot) and usual[0] not in (each[2][0], each[3][0])
            ]
            changed = None
            if number == 0 and others:
                other = rng.choice(others)
                changed = {"prompt": text(other, shot), "reasoned_answer": other[3]}
            rows += prompt_rows(about, text(case, shot), changed, how="numbers")
    return rows


def build(folder: Path) -> None:
    made = [row for family in USED for template in USED[family] for row in prompts(family, template)]
    write_rows(folder / "prompts.jsonl", made)


if __name__ == "__main__":
    build(Path(__file__).parent)
