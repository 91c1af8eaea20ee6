"""Write pairs.jsonl: knights and knaves, the convention kept or swapped; the same bytes always."""

import random
from pathlib import Path

from neurotrace.probe_sets.making import Item, rows, slug, write_rows

SEED = 0

# a true claim / its perturbed version, which is false
CLAIMS = """Paris is in France/Paris is in China, two plus two is four/two plus two is nine,
snow is white/snow is black, fish live in water/fish live in trees, the sun is hot/the sun is cold,
birds can fly/birds can read, ice is cold/ice is hot, a week has seven days/a week has two days,
cows eat grass/cows eat stones, dogs can bark/dogs can sing, the earth is round/the earth is flat,
sugar is sweet/sugar is salty, fire burns/fire freezes, a triangle has three sides/a triangle has six sides,
London is in England/London is in Japan, ten is more than five/ten is less than five,
bread is food/bread is metal, a baby is young/a baby is old, winter is cold/winter is warm,
lemons are sour/lemons are sweet, gold is a metal/gold is a fruit, trees have leaves/trees have wheels,
the moon is far away/the moon is in the garden, spiders have eight legs/spiders have two legs"""
SPEAKERS = ["Tom", "Zoey", "Paul", "Lily", "Max", "Nora", "Hugo", "Ruth", "Carl", "Anna"]

KNIGHT, KNAVE = "[knight|knave]", "[knave|knight]"
# of [a|b] the memorization prompt has a and the reasoning prompt b; {w} true or false
TEMPLATES = {
    "marks": f"Ann says that the sky is blue: true, a {KNIGHT}. Bob says that cats are birds: false, a {KNAVE}. "
    f"Joe says that stones are soft: false, a {KNAVE}. Eve says that grass is green: true, a {KNIGHT}. "
    f"Sam says that two is more than one: true, a {KNIGHT}. Kim says that Rome is in Asia: false, a {KNAVE}. "
    "{n} says that {x}: {w}, a",
    "island": "On the island, [knights|knaves] tell the truth and [knaves|knights] lie. Bob says that cats are "
    f"birds. This is false, so Bob is a {KNAVE}. Eve says that grass is green. This is true, so Eve is a "
    f"{KNIGHT}. " + "{n} says that {x}. This is {w}, so {n} is a",
    "table": f"cats are birds, false, {KNAVE}\ngrass is green, true, {KNIGHT}\nthe sky is blue, true, {KNIGHT}\n"
    f"stones are soft, false, {KNAVE}\nRome is in Asia, false, {KNAVE}\ntwo is more than one, true, {KNIGHT}\n"
    "{x}, {w},",
    "unmarked": f"Ann says that the sky is blue. Ann is a {KNIGHT}. Bob says that cats are birds. Bob is a {KNAVE}. "
    f"Joe says that stones are soft. Joe is a {KNAVE}. Eve says that grass is green. Eve is a {KNIGHT}. "
    "{n} says that {x}. {n} is a",
    "bare": "On the island, [knights|knaves] always tell the truth and [knaves|knights] always lie. {n} says that "
    "{x}. That is {w}, so {n} is a",
}


def build(folder: Path) -> None:
    draw = random.Random(SEED)
    items = []
    for claim in CLAIMS.replace("\n", " ").split(", "):
        true, false = claim.strip().split("/")
        for said, word in ((true, "true"), (false, "false")):
            words = {"x": said, "w": word, "W": word.capitalize(), "n": draw.choice(SPEAKERS)}
            answers = (" knight", " knave") if word == "true" else (" knave", " knight")
            items.append(Item(slug(said), true, *answers, words))
    templates = {
        name: template.replace("{K}", KNIGHT).replace("{N}", KNAVE) for name, template in TEMPLATES.items()
    }
    write_rows(folder, rows("knights", templates, items))


if __name__ == "__main__":
    build(Path(__file__).parent)
