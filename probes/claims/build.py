"""Write prompts.jsonl: two claims in one sentence, and a question about one of them; always the same bytes.

Relations, facts, templates and invented subjects are those of the set `conflicts`.
"""

import random
import runpy
from pathlib import Path

from neurotrace.probe_sets.making import prompt_rows, slug, write_rows

SEED = 0
CONFLICTS = runpy.run_path(str(Path(__file__).parent.parent / "conflicts" / "build.py"))
RELATIONS, TEMPLATES, MENTION = (CONFLICTS[name] for name in ("RELATIONS", "TEMPLATES", "MENTION"))
CLAIMS = 3  # for each subject, each beside a claim about another subject
# family -> the templates in which SmolLM2-135M's answers vary
USED = {
    "capital": ("suppose", "sign"),
    "language": ("suppose", "game"),
    "country": ("suppose", "game", "sign", "robot"),
}


def text(
    statement: str,
    template: str,
    claims: list[tuple[str, str]],
    place: int,
    about: str,
    known: str,
    *,
    known_first: bool,
) -> str:
    """One prompt: claims (subject, answer), the asked one at `place`, whose subject is `about`."""
    before, after = TEMPLATES[template]
    named = [(about if number == place else s, v) for number, (s, v) in enumerate(claims)]
    said = [f"{statement.format(s=s)} {v}" for s, v in named]
    middle = [before.format(claim=f"{said[0]} and {said[1]}"), MENTION.format(answer=known)]
    asked = after.format(statement=statement.format(s=about))
    return " ".join([*(middle[::-1] if known_first else middle), asked])


def prompts(family: str) -> list[dict[str, str | None]]:
    """A family's prompts by template and subject, each followed by its renamed version."""
    table, statement, invented, _ = RELATIONS[family]
    rows: list[dict[str, str | None]] = []
    for template in USED[family]:
        rng = random.Random(f"{SEED}/{family}/{template}")
        for number, (subject, known) in enumerate(table.items()):
            others = CONFLICTS["others_of"](table, subject)
            for claim, (claimed, beside) in enumerate(_pairs_of(rng, others)):
                unasked = rng.choice(
                    [s for s in table if s != subject and table[s] not in (known, claimed)]
                )
                place, known_first = rng.randrange(2), rng.random() < 0.5
                claims = [(unasked, beside)]
                claims.insert(place, (subject, claimed))
                own, renamed = (
                    text(statement, template, claims, place, about, known, known_first=known_first)
                    for about in (subject, invented[number % len(invented)])
                )
                name = f"{family}-{slug(subject)}-{slug(claimed)}-{template}"
                about = {
                    "id": name,
                    "family": family,
                    "template": template,
                    "group": subject.removeprefix("the "),
                    "memorized_answer": f" {known}",
                    "reasoned_answer": f" {claimed}",
                }
                rows += prompt_rows(about, own, {"prompt": renamed} if claim == 0 else None)
    return rows


def _pairs_of(rng: random.Random, answers: list[str]) -> list[tuple[str, str]]:
    """For each claim its answer and that of the claim beside it, all of them different."""
    drawn = rng.sample(answers, 2 * CLAIMS)
    return [*zip(drawn[:CLAIMS], drawn[CLAIMS:], strict=True)]


def build(folder: Path) -> None:
    write_rows(folder / "prompts.jsonl", [row for family in USED for row in prompts(family)])


if __name__ == "__main__":
    build(Path(__file__).parent)
