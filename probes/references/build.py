"""Write prompts.jsonl: questions that mean nothing without their context; the same bytes every time.

Relations, facts and invented subjects are those of the set `conflicts`.
"""

import random
import runpy
from pathlib import Path

from neurotrace.probe_sets.making import prompt_rows, slug, write_rows

SEED = 0
CONFLICTS = runpy.run_path(str(Path(__file__).parent.parent / "conflicts" / "build.py"))

# family -> what the subject is, the statement up to its answer, the claim in other words
RELATIONS = {
    "capital": (
        "the country {s}",
        "the capital of that country is the city of",
        "its government sits in the city of {claimed}",
        "Anna has been to {known}.",
    ),
    "country": (
        "the city of {s}",
        "that city is in the country of",
        "it lies in the middle of {claimed}",
        "Anna has been to {known}.",
    ),
}
TEMPLATES = {
    "pupil": ("A pupil wrote that {claim}.", "The teacher said that {statement}"),
    "sign": ("A sign says that {claim}.", "So {statement}"),
    "story": ("In this story, {claim}.", "In real life, {statement}"),
}
INTRODUCED = "This is about {subject}."
# family -> the templates in which SmolLM2-135M's answers vary
USED = {"capital": ("pupil", "story"), "country": ("sign", "story")}
CLAIMS = 2  # for each subject


def text(family: str, template: str, subject: str, claimed: str, known: str, *, known_first: bool) -> str:
    """One prompt; it names both answers once, in the order asked for."""
    what, statement, claim, mention = RELATIONS[family]
    before, after = TEMPLATES[template]
    middle = [before.format(claim=claim.format(claimed=claimed)), mention.format(known=known)]
    if known_first:
        middle.reverse()
    about = INTRODUCED.format(subject=what.format(s=subject))
    return " ".join([about, *middle, after.format(statement=statement)])


def prompts(family: str) -> list[dict[str, str | None]]:
    """A family's prompts by template and subject; the first claim's renamed version follows it."""
    table, _, invented, _ = CONFLICTS["RELATIONS"][family]
    rows: list[dict[str, str | None]] = []
    for template in USED[family]:
        rng = random.Random(f"{SEED}/{family}/{template}")
        for number, (subject, known) in enumerate(table.items()):
            others = CONFLICTS["others_of"](table, subject)
            known_first = rng.random() < 0.5
            for claim, claimed in enumerate(rng.sample(others, CLAIMS)):
                known_first = not known_first
                name = f"{family}-{slug(subject)}-{slug(claimed)}-{template}"
                about = {
                    "id": name,
                    "family": family,
                    "template": template,
                    "group": subject.removeprefix("the "),
                    "memorized_answer": f" {known}",
                    "reasoned_answer": f" {claimed}",
                }
                own, renamed = (
                    text(family, template, s, claimed, known, known_first=known_first)
                    for s in (subject, invented[number % len(invented)])
                )
                rows += prompt_rows(about, own, {"prompt": renamed} if claim == 0 else None)
    return rows


def build(folder: Path) -> None:
    write_rows(folder / "prompts.jsonl", [row for family in USED for row in prompts(family)])


if __name__ == "__main__":
    build(Path(__file__).parent)
