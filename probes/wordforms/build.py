"""Write pairs.jsonl: irregular forms against forms that a stated rule gives; the same bytes always."""

import re
from pathlib import Path

from neurotrace.probe_sets.making import Item, rows, write_rows

VERBS = (
    "go went, take took, eat ate, see saw, write wrote, give gave, think thought, buy bought, "
    "teach taught, speak spoke, break broke, run ran, come came, begin began, drink drank, "
    "ring rang, find found, get got, tell told, sell sold, feel felt, keep kept, sleep slept, "
    "leave left, lose lost, make made, meet met, send sent, spend spent, stand stood, "
    "win won, wear wore, steal stole, choose chose, catch caught, fight fought"
)
NOUNS = (
    "foot feet, tooth teeth, mouse mice, child children, man men, woman women, goose geese, "
    "wolf wolves, leaf leaves, knife knives, half halves, thief thieves, calf calves, "
    "life lives, city cities, baby babies, story stories, party parties, country countries, "
    "family families, berry berries, spy spies"
)

# of [a|b] the memorization prompt has a and the reasoning prompt b; {x} the word, {d} its regular form
PAST = {
    "did": "know, [knew|did know]; drive, [drove|did drive]; sing, [sang|did sing]; {x},",
    "did-rule": 'In Robot, the past tense is always made with "did". [In English|In Robot]: know, '
    "[knew|did know]; sing, [sang|did sing]; {x},",
    "robots": 'Robots put "did" before the verb. [People|Robots] say: today I know, yesterday I '
    "[knew|did know]; today I sing, yesterday I [sang|did sing]; today I {x}, yesterday I",
    "ed": "know: [knew|knowed]; drive: [drove|drived]; sing: [sang|singed]; fall: [fell|falled]; "
    "grow: [grew|growed]; fly: [flew|flied]; {x}:",
    "ed-children": 'Small children say "{d}". [Adults|Children] say: today I know, yesterday I '
    "[knew|knowed]; today I sing, yesterday I [sang|singed]; today I {x}, yesterday I",
}
PLURAL = {
    "many": "loaf, [loaves|many loaf]; shelf, [shelves|many shelf]; wife, [wives|many wife]; {x},",
    "many-rule": 'In Robot, the plural is always made with "many". [In English|In Robot]: loaf, '
    "[loaves|many loaf]; wife, [wives|many wife]; {x},",
    "twice": "loaf, [loaves|loaf loaf]; shelf, [shelves|shelf shelf]; wife, [wives|wife wife]; {x},",
    "twice-rule": "In Robot, the plural is the word said twice. [In English|In Robot]: loaf, "
    "[loaves|loaf loaf]; wife, [wives|wife wife]; {x},",
    "s": "loaf: [loaves|loafs]; shelf: [shelves|shelfs]; wife: [wives|wifes]; louse: [lice|louses]; "
    "lady: [ladies|ladys]; {x}:",
    "s-rule": "Rule: always add -s. [Without the rule|By the rule]: loaf, [loaves|loafs]; wife, "
    "[wives|wifes]; ox, [oxen|oxs]; {x},",
}


def ed(verb: str) -> str:
    return verb + ("d" if verb.endswith("e") else "ed")


def made(family: str, templates: dict[str, str], words: str, answers: dict[str, str]) -> list[dict]:
    """Rows; `answers` is, for the first word of a template's name, the reasoned answer's pattern."""
    found = []
    for name, template in templates.items():
        for entry in words.split(", "):
            base, irregular = entry.split()
            pattern = answers[re.split("-", name)[0]]
            reasoned = " " + pattern.format(x=base, d=ed(base))
            item = Item(base, base, f" {irregular}", reasoned, {"x": base, "d": ed(base)})
            found += rows(family, {name: template}, [item])
    return found


def build(folder: Path) -> None:
    past = {"did": "did {x}", "robots": "did {x}", "ed": "{d}"}
    plural = {"many": "many {x}", "twice": "{x} {x}", "s": "{x}s"}
    write_rows(folder, [*made("past", PAST, VERBS, past), *made("plural", PLURAL, NOUNS, plural)])


if __name__ == "__main__":
    build(Path(__file__).parent)
