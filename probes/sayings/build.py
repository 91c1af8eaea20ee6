"""Write pairs.jsonl: idioms and quotations whose last word a context changes; the same bytes always."""

import random
from pathlib import Path

from neurotrace.probe_sets.making import Item, rows, slug, write_rows

SEED = 0
OTHERS = 2  # changed endings of each saying

# the beginning -> its last word; proverbs in the public domain, and openings that everybody quotes
SAYINGS = {
    "the early bird catches the": "worm",
    "an apple a day keeps the doctor": "away",
    "actions speak louder than": "words",
    "a picture is worth a thousand": "words",
    "better late than": "never",
    "curiosity killed the": "cat",
    "every cloud has a silver": "lining",
    "honesty is the best": "policy",
    "the pen is mightier than the": "sword",
    "to be, or not to": "be",
    "don't judge a book by its": "cover",
    "all that glitters is not": "gold",
    "where there is smoke, there is": "fire",
    "time heals all": "wounds",
    "laughter is the best": "medicine",
    "when the cat is away, the mice will": "play",
    "out of sight, out of": "mind",
    "no pain, no": "gain",
    "easy come, easy": "go",
    "like father, like": "son",
    "the grass is always greener on the other": "side",
    "you can't teach an old dog new": "tricks",
    "don't put all your eggs in one": "basket",
    "blood is thicker than": "water",
    "a penny saved is a penny": "earned",
    "birds of a feather flock": "together",
    "it takes two to": "tango",
    "strike while the iron is": "hot",
    "too many cooks spoil the": "broth",
    "there is no place like": "home",
    "knowledge is": "power",
    "time is": "money",
    "I think, therefore I": "am",
    "love is": "blind",
    "once upon a": "time",
    "ask and you shall": "receive",
    "all's well that ends": "well",
    "live and let": "live",
}
ENDINGS = [
    "bus",
    "dog",
    "moon",
    "table",
    "bread",
    "river",
    "garden",
    "king",
    "door",
    "snow",
    "car",
    "window",
    "horse",
    "chair",
    "paper",
    "stone",
    "shoe",
    "tree",
    "cheese",
    "ball",
    "lamp",
    "soup",
    "hat",
    "boat",
]

# of [a|b] the memorization prompt has a and the reasoning prompt b
TEMPLATES = {
    "again": "Tim: practice makes cheese. [Proverb|Tim again]: practice makes [perfect|cheese].\n"
    "Tim: two heads are better than windows. [Proverb|Tim again]: two heads are better than "
    "[one|windows].\nTim: {x} {y}. [Proverb|Tim again]: {x}",
    "wrong": "Wrong: practice makes cheese. [Right|Repeated]: practice makes [perfect|cheese].\n"
    "Wrong: two heads are better than windows. [Right|Repeated]: two heads are better than "
    "[one|windows].\nWrong: {x} {y}. [Right|Repeated]: {x}",
    "parrot": "The parrot says: practice makes cheese. [Grandma|The parrot] says: practice makes "
    "[perfect|cheese].\nThe parrot says: two heads are better than windows. [Grandma|The parrot] says: "
    "two heads are better than [one|windows].\nThe parrot says: {x} {y}. [Grandma|The parrot] says: {x}",
    "motto": "Motto on Mars: practice makes cheese. Motto on [Earth|Mars]: practice makes "
    "[perfect|cheese].\nMotto on Mars: two heads are better than windows. Motto on [Earth|Mars]: two "
    "heads are better than [one|windows].\nMotto on Mars: {x} {y}. Motto on [Earth|Mars]: {x}",
}


def build(folder: Path) -> None:
    draw = random.Random(SEED)
    items = []
    for saying, last in SAYINGS.items():
        for other in draw.sample(ENDINGS, OTHERS):
            words = {"x": saying, "y": other}
            items.append(Item(f"{slug(saying)}-{other}", saying, f" {last}", f" {other}", words))
    write_rows(folder, rows("sayings", TEMPLATES, items))


if __name__ == "__main__":
    build(Path(__file__).parent)
