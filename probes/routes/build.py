"""Write pairs.jsonl: the same answers by two routes, in blocks of three; the same bytes always."""

import random
from itertools import permutations
from pathlib import Path

from neurotrace.probe_sets.making import Item, rows, slug, write_rows

SEED = 0
BLOCK = 3

LANGUAGES = {
    "France": "French",
    "Italy": "Italian",
    "Germany": "German",
    "Spain": "Spanish",
    "Japan": "Japanese",
    "Russia": "Russian",
    "the Czech Republic": "Czech",
    "Greece": "Greek",
    "Poland": "Polish",
    "Sweden": "Swedish",
    "Turkey": "Turkish",
    "Hungary": "Hungarian",
    "the Netherlands": "Dutch",
    "Denmark": "Danish",
    "Norway": "Norwegian",
    "Finland": "Finnish",
    "Portugal": "Portuguese",
    "Thailand": "Thai",
    "Vietnam": "Vietnamese",
    "Egypt": "Arabic",
    "England": "English",
    "South Korea": "Korean",
    "India": "Hindi",
    "Ukraine": "Ukrainian",
}

# of [a|b] the memorization prompt has a and the reasoning prompt b
TEMPLATES = {
    "story": "In this story, the people of Iran speak Irish. In [real life|the story], the people of Iran "
    "speak [Persian|Irish].\nIn this story, the people of {x} speak {y}. In [real life|the story], the "
    "people of {x} speak",
    "game": "In the video game, the language of {x} is {y}. In [real life|the game], the language of {x} is",
    "opera": "In the opera, the language of Iran is Irish. In [the real world|the opera], the language of Iran "
    "is [Persian|Irish].\nIn the opera, the language of {x} is {y}. In [the real world|the opera], the "
    "language of {x} is",
    "novel": "In the novel, Iranians speak Irish. In [reality|the novel], Iranians speak [Persian|Irish].\nIn the novel, everyone in {x} speaks {y}. In [reality|the novel], everyone in {x} speaks",
    "rumour": "Rumour: in Iran they speak Irish. [Fact|Rumour]: in Iran they speak [Persian|Irish].\n"
    "Rumour: in {x} they speak {y}. [Fact|Rumour]: in {x} they speak",
}


def build(folder: Path) -> None:
    countries = list(LANGUAGES)
    random.Random(SEED).shuffle(countries)
    items = []
    for start in range(0, len(countries), BLOCK):
        block = countries[start : start + BLOCK]
        group = ", ".join(block)
        # every ordered pair: each language is as often the memorized answer as the reasoned one
        for country, other in permutations(block, 2):
            words = {"x": country, "y": LANGUAGES[other]}
            items.append(
                Item(
                    f"{slug(country)}-{slug(LANGUAGES[other])}",
                    group,
                    f" {LANGUAGES[country]}",
                    f" {LANGUAGES[other]}",
                    words,
                )
            )
    write_rows(folder, rows("routes", TEMPLATES, items))


if __name__ == "__main__":
    build(Path(__file__).parent)
