"""Write pairs.jsonl: counterfactual capitals as minimal pairs.

Run it from anywhere as `python probes/capitals/build.py`; it writes the same bytes every time.
"""

import random
from pathlib import Path

from neurotrace.probe_sets.making import Item, rows, slug, write_rows

SEED = 0
CITIES_PER_COUNTRY = 3

# Country as it is written in the prompts -> its capital. Left out: capitals that are disputed, that
# are shared between several cities or that are about to move, and countries within a country.
CAPITALS = {
    "Afghanistan": "Kabul",
    "Algeria": "Algiers",
    "Argentina": "Buenos Aires",
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "Colombia": "Bogotá",
    "Cuba": "Havana",
    "the Czech Republic": "Prague",
    "Denmark": "Copenhagen",
    "Ecuador": "Quito",
    "Egypt": "Cairo",
    "Ethiopia": "Addis Ababa",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Iceland": "Reykjavik",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Jamaica": "Kingston",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "the Netherlands": "Amsterdam",
    "Norway": "Oslo",
    "Peru": "Lima",
    "the Philippines": "Manila",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Romania": "Bucharest",
    "Russia": "Moscow",
    "Serbia": "Belgrade",
    "Somalia": "Mogadishu",
    "South Korea": "Seoul",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
    "Syria": "Damascus",
    "Thailand": "Bangkok",
    "Tunisia": "Tunis",
    "the United Kingdom": "London",
    "Uruguay": "Montevideo",
    "Venezuela": "Caracas",
    "Zambia": "Lusaka",
}

# Counterfactual city -> the country that it lies in, written as above.
CITIES = {
    "Amsterdam": "the Netherlands",
    "Athens": "Greece",
    "Baghdad": "Iraq",
    "Beijing": "China",
    "Berlin": "Germany",
    "Boston": "the United States",
    "Brussels": "Belgium",
    "Budapest": "Hungary",
    "Cairo": "Egypt",
    "Chicago": "the United States",
    "Copenhagen": "Denmark",
    "Damascus": "Syria",
    "Dublin": "Ireland",
    "Edinburgh": "the United Kingdom",
    "Geneva": "Switzerland",
    "Hamburg": "Germany",
    "Havana": "Cuba",
    "Helsinki": "Finland",
    "Istanbul": "Turkey",
    "Lima": "Peru",
    "Lisbon": "Portugal",
    "London": "the United Kingdom",
    "Madrid": "Spain",
    "Manila": "the Philippines",
    "Milan": "Italy",
    "Moscow": "Russia",
    "Mumbai": "India",
    "Munich": "Germany",
    "Nairobi": "Kenya",
    "Oslo": "Norway",
    "Ottawa": "Canada",
    "Paris": "France",
    "Prague": "the Czech Republic",
    "Rome": "Italy",
    "Seattle": "the United States",
    "Seoul": "South Korea",
    "Shanghai": "China",
    "Stockholm": "Sweden",
    "Sydney": "Australia",
    "Tehran": "Iran",
    "Tokyo": "Japan",
    "Toronto": "Canada",
    "Venice": "Italy",
    "Vienna": "Austria",
    "Warsaw": "Poland",
    "Zurich": "Switzerland",
}

# {c} is the country, {y} the counterfactual city; of [a|b] the memorization prompt has a and the
# reasoning prompt has b. Nothing else differs between the two prompts of a pair.
TEMPLATES = {
    "story": "In this story, the capital of {c} is the city of {y}. "
    "In [real life|the story], the capital of {c} is the city of",
    "game": "In the video game, the capital of {c} is the city of {y}. "
    "In [real life|the game], the capital of {c} is the city of",
    "series": "In the TV series, the capital of {c} is the city of {y}. "
    "In the [real world|series], the capital of {c} is the city of",
    "opera": 'In the opera, the king sings: "The capital of {c} is {y}." '
    "In the [real world|opera], the capital of {c} is the city of",
    "cartoon": 'In the cartoon, a mouse says: "The capital of {c} is {y}." '
    "In [reality|the cartoon], the capital of {c} is the city of",
    "rumour": "Someone spread the rumour that the capital of {c} is {y}. "
    "According to the [encyclopedia|rumour], the capital of {c} is the city of",
}


def choose_cities(seed: int) -> dict[str, list[str]]:
    """Give every country its counterfactual cities, none of which lies in that country.

    Country i takes the cities at i, i + shift, i + 2·shift, ... of a shuffled circle. As there are
    as many cities as countries, every city is used equally often.
    """
    countries, cities = list(CAPITALS), list(CITIES)
    assert len(countries) == len(cities), "the balance needs as many cities as countries"
    shift = len(cities) // CITIES_PER_COUNTRY
    shuffle = random.Random(seed).shuffle
    while True:
        shuffle(cities)
        chosen = {
            country: [cities[(i + n * shift) % len(cities)] for n in range(CITIES_PER_COUNTRY)]
            for i, country in enumerate(countries)
        }
        if all(CITIES[city] != country for country in countries for city in chosen[country]):
            return chosen


def build(folder: Path) -> None:
    """Write all pairs, ordered by country, city and template."""
    items = [
        Item(
            id=f"{slug(country)}-{slug(city)}",
            group=country.removeprefix("the "),
            memorized=f" {CAPITALS[country]}",
            reasoned=f" {city}",
            words={"c": country, "y": city},
        )
        for country, cities in choose_cities(SEED).items()
        for city in cities
    ]
    write_rows(folder, rows("capitals", TEMPLATES, items))


if __name__ == "__main__":
    build(Path(__file__).parent)
