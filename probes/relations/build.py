"""Write pairs.jsonl: counterfactual facts of three relations; the same bytes every time."""

import random
from pathlib import Path

from neurotrace.probe_sets.making import Item, rows, slug, write_rows

SEED = 0
OTHERS = 1  # counterfactual answers of each thing

CONTINENTS = {
    "Africa": "Algeria Cameroon Ethiopia Ghana Kenya Libya Morocco Nigeria Somalia Tanzania Uganda Zambia",
    "Asia": "Afghanistan Bangladesh Cambodia China India Iran Iraq Japan Mongolia Nepal Pakistan Vietnam",
    "Europe": "Austria Belgium Denmark Finland France Germany Greece Hungary Norway Poland Spain Sweden",
}
COLOURS = {
    "red": "blood, a tomato, a strawberry, a cherry, a fire engine",
    "yellow": "a banana, a lemon, butter, the yolk of an egg, a canary",
    "green": "grass, a cucumber, spinach, a pea, a frog",
    "white": "snow, salt, flour, a swan, rice",
    "black": "coal, tar, a raven, soot, ink",
    "brown": "chocolate, coffee, soil, bark, a bear",
    "blue": "the sky, the sea, a sapphire, a blueberry",
    "pink": "a flamingo, a pig",
    "orange": "a carrot, a pumpkin",
}
OPPOSITES = (
    "hot cold, big small, black white, up down, happy sad, fast slow, day night, good bad, "
    "rich poor, hard soft, strong weak, young old, light dark, early late, left right, "
    "open closed, wet dry, high low, long short, north south, east west, love hate, "
    "war peace, full empty, true false, clean dirty, inside outside, first last, win lose, "
    "male female"
)

# of [a|b] the memorization prompt has a and the reasoning prompt b; {x} the thing, {y} the other answer
CONTINENT = {
    "game": "In the game, Italy is in Africa. In [real life|the game], Italy is in [Europe|Africa].\n"
    "In the game, {x} is in {y}. In [real life|the game], {x} is in",
    "mouse": "A mouse says that Egypt is in Asia. [Really|To the mouse], Egypt is in [Africa|Asia].\n"
    "A mouse says that {x} is in {y}. [Really|To the mouse], {x} is in",
    "map": "Old map: Korea, Europe. [True map|Old map again]: Korea, [Asia|Europe].\n"
    "Old map: {x}, {y}. [True map|Old map again]: {x},",
    "novel": "In the novel, Ukraine is a country in Asia. [On Earth|In the novel], Ukraine is a country in "
    "[Europe|Asia].\nIn the novel, {x} is a country in {y}. [On Earth|In the novel], {x} is a country in",
}
COLOUR = {
    "cartoon": "In the cartoon, cotton is purple. In [real life|the cartoon], cotton is [white|purple].\n"
    "In the cartoon, {x} is {y}. In [real life|the cartoon], {x} is",
    "paint": "Painted: milk, purple. [Natural|Painted]: milk, [white|purple].\n"
    "Painted: a rose, gray. [Natural|Painted]: a rose, [red|gray].\n"
    "Painted: {x}, {y}. [Natural|Painted]: {x},",
    "planet": "On the planet Zog, ivy is purple. On [Earth|Zog], ivy is [green|purple].\n"
    "On the planet Zog, {x} is {y}. On [Earth|Zog], {x} is",
    "film": "In the film, a rose is gray. In [nature|the film], a rose is [red|gray].\nIn the film, ivy is purple. In [nature|the film], ivy is [green|purple].\nIn the film, {x} is {y}. In [nature|the film], {x} is",
}
OPPOSITE = {
    "mouse": 'In the cartoon, a mouse says: "The opposite of {x} is {y}." '
    "In [reality|the cartoon], the opposite of {x} is",
    "story": "In this story, the opposite of {x} is {y}. In [real life|the story], the opposite of {x} is",
    "rumour": "Someone spread the rumour that the opposite of {x} is {y}. According to the [dictionary|rumour], the opposite of {x} is",
    "opera": 'In the opera, the king sings: "The opposite of {x} is {y}." In the [real world|opera], the opposite of {x} is',
}


def items(facts: dict[str, str], answers: list[str], draw: random.Random) -> list[Item]:
    """Each thing with some of the other answers."""
    made = []
    for thing, true in facts.items():
        others = [answer for answer in answers if answer not in (true, thing)]
        for other in draw.sample(others, OTHERS):
            words = {"x": thing, "y": other}
            made.append(Item(f"{slug(thing)}-{slug(other)}", thing, f" {true}", f" {other}", words))
    return made


def build(folder: Path) -> None:
    draw = random.Random(SEED)
    continents = {c: where for where, all_ in CONTINENTS.items() for c in all_.split()}
    colours = {thing: c for c, all_ in COLOURS.items() for thing in all_.split(", ")}
    opposites = dict(pair.split() for pair in OPPOSITES.split(", "))
    write_rows(
        folder,
        [
            *rows("continent", CONTINENT, items(continents, list(CONTINENTS), draw)),
            *rows("colour", COLOUR, items(colours, list(COLOURS), draw)),
            *rows("opposite", OPPOSITE, items(opposites, list(opposites.values()), draw)),
        ],
    )


if __name__ == "__main__":
    build(Path(__file__).parent)
