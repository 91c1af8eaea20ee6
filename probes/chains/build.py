"""Write pairs.jsonl: conclusions from two stated steps against what is so; the same bytes always."""

import random
from pathlib import Path

from neurotrace.probe_sets.making import Item, rows, slug, write_rows

SEED = 0
OTHERS = 2  # other places, other materials, of each thing

# city: country, language
CITIES = {
    "Paris": ("France", "French"),
    "Rome": ("Italy", "Italian"),
    "Berlin": ("Germany", "German"),
    "Madrid": ("Spain", "Spanish"),
    "Tokyo": ("Japan", "Japanese"),
    "Moscow": ("Russia", "Russian"),
    "Beijing": ("China", "Chinese"),
    "London": ("England", "English"),
    "Athens": ("Greece", "Greek"),
    "Warsaw": ("Poland", "Polish"),
    "Stockholm": ("Sweden", "Swedish"),
    "Ankara": ("Turkey", "Turkish"),
    "Budapest": ("Hungary", "Hungarian"),
    "Amsterdam": ("the Netherlands", "Dutch"),
    "Copenhagen": ("Denmark", "Danish"),
    "Cairo": ("Egypt", "Arabic"),
    "Bangkok": ("Thailand", "Thai"),
    "Hanoi": ("Vietnam", "Vietnamese"),
    "Milan": ("Italy", "Italian"),
    "Munich": ("Germany", "German"),
}
# small, middle, large; every animal in one line only
ANIMALS = """mouse dog elephant, ant cat whale, bee horse ship, rat pig rhino, fly wolf truck,
frog lion mountain, spider cow train, snail sheep giraffe, beetle fox bus, worm goat hippo,
flea rabbit camel, moth tiger castle, cricket bear tower, wasp duck car, hen boy house, egg girl tree"""
COLOURS = {
    "blood": "red",
    "a tomato": "red",
    "a strawberry": "red",
    "a banana": "yellow",
    "a lemon": "yellow",
    "grass": "green",
    "spinach": "green",
    "a frog": "green",
    "snow": "white",
    "salt": "white",
    "a swan": "white",
    "coal": "black",
    "tar": "black",
    "a raven": "black",
    "chocolate": "brown",
    "the sky": "blue",
    "the sea": "blue",
    "a carrot": "orange",
    "a flamingo": "pink",
}
MATERIALS = ["wax", "glass", "wood", "sugar", "paper", "wool", "clay", "silk"]

# of [a|b] the memorization prompt has a and the reasoning prompt b
CITY = {
    "story": "In the story, Lisbon lies in Iran. In [real life|the story], people in Lisbon speak [Portuguese|Persian].\nIn the story, Prague lies in Israel. In [real life|the story], people in Prague speak [Czech|Hebrew].\nIn the story, {x} lies in {c}. In [real life|the story], people in {x} speak",
    "movie": "In the movie, Lisbon is a city of Iran. In [reality|the movie], the language of Lisbon is [Portuguese|Persian].\nIn the movie, {x} is a city of {c}. In [reality|the movie], the language of {x} is",
    "moved": "Lisbon is moved to Iran. [Before|After] the move, it spoke [Portuguese|Persian].\n{x} is moved to {c}. [Before|After] the move, it spoke",
    "plain": "In the movie, {x} is the capital of {c}. In [reality|the movie], the language of {x} is",
}
ORDER = {
    "biggest": "In the story, the {b} is bigger than the {c}, and the {a} is bigger than the {b}. "
    "In [real life|the story], the biggest of the three is the",
    "shot": "In the story, the pea is bigger than the plum, and the plum is bigger than the melon. In "
    "[real life|the story], the biggest is the [melon|pea].\nIn the story, the {a} is bigger than the {b}, "
    "and the {b} is bigger than the {c}. In [real life|the story], the biggest is the",
    "heavier": "In the game, the pea is heavier than the plum, and the plum is heavier than the melon. In "
    "[real life|the game], the heaviest is the [melon|pea].\nIn the game, the {a} is heavier than the {b}, "
    "and the {b} is heavier than the {c}. In [real life|the game], the heaviest is the",
    "back": "In the dream, the plum is bigger than the melon, and the pea is bigger than the plum. [Awake|In the "
    "dream], the biggest is the [melon|pea].\nIn the dream, the {b} is bigger than the {c}, and the {a} is "
    "bigger than the {b}. [Awake|In the dream], the biggest is the",
}
MATERIAL = {
    "story": "In the story, cotton is made of tin, and tin is purple. In [real life|the story], the color of cotton is [white|purple].\nIn the story, {x} is made of {m}, and {m} is {y}. In [real life|the story], the color of {x} is",
    "back": "In the cartoon, tin is purple, and cotton is made of tin. In [real life|the cartoon], the color of cotton is [white|purple].\nIn the cartoon, {m} is {y}, and {x} is made of {m}. In [real life|the cartoon], the color of {x} is",
    "planet": "On the planet Zog all tin is purple, and ivy is made of tin. On [Earth|Zog], you see ivy in [green|purple].\nOn the planet Zog all {m} is {y}, and {x} is made of {m}. On [Earth|Zog], you see {x} in",
    "painted": "Milk was filled into a purple glass. [Pure|Through the glass], milk looks [white|purple].\nA tomato was put behind a gray window. [Pure|Through the window], it looks [red|gray].\n{X} was put behind a {y} window. [Pure|Through the window], it looks",
}


def build(folder: Path) -> None:
    draw = random.Random(SEED)
    city = []
    for name, (_, language) in CITIES.items():
        places = sorted({place for place in CITIES.values() if place[1] != language})
        for country, other in draw.sample(places, OTHERS):
            words = {"x": name, "c": country}
            city.append(Item(f"{slug(name)}-{slug(other)}", name, f" {language}", f" {other}", words))
    order = []
    for line in ANIMALS.replace("\n", " ").split(", "):
        a, b, c = line.split()
        order.append(Item(f"{a}-{b}-{c}", line.strip(), f" {c}", f" {a}", {"a": a, "b": b, "c": c}))
    material = []
    for thing, true in COLOURS.items():
        others = sorted({colour for colour in COLOURS.values() if colour != true})
        for other, stuff in zip(draw.sample(others, OTHERS), draw.sample(MATERIALS, OTHERS), strict=True):
            words = {"x": thing, "X": thing[0].upper() + thing[1:], "m": stuff, "y": other}
            material.append(Item(f"{slug(thing)}-{stuff}-{other}", thing, f" {true}", f" {other}", words))
    write_rows(
        folder,
        [
            *rows("chain-city", CITY, city),
            *rows("chain-order", ORDER, order),
            *rows("chain-material", MATERIAL, material),
        ],
    )


if __name__ == "__main__":
    build(Path(__file__).parent)
