"""Write prompts.jsonl: what a text claims against what a model knows, in five relations.

Run it from anywhere as `python probes/conflicts/build.py`; it writes the same bytes every time.
"""

import random
from pathlib import Path

from neurotrace.probe_sets.making import prompt_rows, slug, write_rows

SEED = 0

# What is known, subject -> answer, subjects as they are written in the prompts.
CAPITALS = {
    "Afghanistan": "Kabul",
    "Argentina": "Buenos Aires",
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "China": "Beijing",
    "Cuba": "Havana",
    "the Czech Republic": "Prague",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Hungary": "Budapest",
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
    "Russia": "Moscow",
    "South Korea": "Seoul",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
    "Syria": "Damascus",
    "Thailand": "Bangkok",
    "the United Kingdom": "London",
}
LANGUAGES = {
    "Argentina": "Spanish",
    "Australia": "English",
    "Austria": "German",
    "Brazil": "Portuguese",
    "China": "Chinese",
    "Colombia": "Spanish",
    "Cuba": "Spanish",
    "the Czech Republic": "Czech",
    "Denmark": "Danish",
    "Egypt": "Arabic",
    "Finland": "Finnish",
    "France": "French",
    "Germany": "German",
    "Greece": "Greek",
    "Hungary": "Hungarian",
    "Iran": "Persian",
    "Iraq": "Arabic",
    "Israel": "Hebrew",
    "Italy": "Italian",
    "Japan": "Japanese",
    "Mexico": "Spanish",
    "the Netherlands": "Dutch",
    "Norway": "Norwegian",
    "Peru": "Spanish",
    "Poland": "Polish",
    "Portugal": "Portuguese",
    "Russia": "Russian",
    "Saudi Arabia": "Arabic",
    "South Korea": "Korean",
    "Spain": "Spanish",
    "Sweden": "Swedish",
    "Thailand": "Thai",
    "Turkey": "Turkish",
    "Ukraine": "Ukrainian",
    "the United Kingdom": "English",
    "Vietnam": "Vietnamese",
}
COUNTRIES = {
    "Alexandria": "Egypt",
    "Barcelona": "Spain",
    "Bordeaux": "France",
    "Casablanca": "Morocco",
    "Chicago": "the United States",
    "Delhi": "India",
    "Dubai": "the United Arab Emirates",
    "Florence": "Italy",
    "Frankfurt": "Germany",
    "Geneva": "Switzerland",
    "Glasgow": "Scotland",
    "Hamburg": "Germany",
    "Hanoi": "Vietnam",
    "Istanbul": "Turkey",
    "Johannesburg": "South Africa",
    "Karachi": "Pakistan",
    "Krakow": "Poland",
    "Kyoto": "Japan",
    "Lagos": "Nigeria",
    "Liverpool": "England",
    "Lyon": "France",
    "Manchester": "England",
    "Marseille": "France",
    "Melbourne": "Australia",
    "Milan": "Italy",
    "Montreal": "Canada",
    "Mumbai": "India",
    "Munich": "Germany",
    "Naples": "Italy",
    "Osaka": "Japan",
    "Shanghai": "China",
    "Sydney": "Australia",
    "Toronto": "Canada",
    "Vancouver": "Canada",
    "Venice": "Italy",
    "Zurich": "Switzerland",
}
MAKERS = {
    "Alexa": "Amazon",
    "Android": "Google",
    "Chrome": "Google",
    "Excel": "Microsoft",
    "Gmail": "Google",
    "Java": "Oracle",
    "Photoshop": "Adobe",
    "PowerPoint": "Microsoft",
    "Windows": "Microsoft",
    "YouTube": "Google",
    "the 747": "Boeing",
    "the Accord": "Honda",
    "the Barbie doll": "Mattel",
    "the Beetle": "Volkswagen",
    "the Camry": "Toyota",
    "the Civic": "Honda",
    "the Corolla": "Toyota",
    "the Corvette": "Chevrolet",
    "the Galaxy phone": "Samsung",
    "the Game Boy": "Nintendo",
    "the Kindle": "Amazon",
    "the Macintosh": "Apple",
    "the Model S": "Tesla",
    "the Model T": "Ford",
    "the Mustang": "Ford",
    "the Pentium processor": "Intel",
    "the PlayStation": "Sony",
    "the Prius": "Toyota",
    "the Switch console": "Nintendo",
    "the ThinkPad": "Lenovo",
    "the Walkman": "Sony",
    "the Wii": "Nintendo",
    "the Xbox": "Microsoft",
    "the iPad": "Apple",
    "the iPhone": "Apple",
    "the iPod": "Apple",
}
OPPOSITES = {
    "always": "never",
    "begin": "end",
    "big": "small",
    "black": "white",
    "day": "night",
    "early": "late",
    "fast": "slow",
    "first": "last",
    "friend": "enemy",
    "full": "empty",
    "good": "bad",
    "happy": "sad",
    "hard": "soft",
    "high": "low",
    "hot": "cold",
    "increase": "decrease",
    "inside": "outside",
    "left": "right",
    "life": "death",
    "light": "dark",
    "long": "short",
    "love": "hate",
    "male": "female",
    "near": "far",
    "north": "south",
    "old": "young",
    "open": "closed",
    "positive": "negative",
    "rich": "poor",
    "strong": "weak",
    "success": "failure",
    "true": "false",
    "up": "down",
    "war": "peace",
    "wet": "dry",
    "win": "lose",
}

# Subjects that nobody knows anything about: what a renamed prompt asks for.
PLACES = ("Zorvania", "Belmoria", "Kestovia", "Quandria", "Trellania", "Ostrakia")
TOWNS = ("Tarkonda", "Velmsted", "Ordinsk", "Quelloria", "Brascova", "Hintaru")
GADGETS = ("the Zendrix", "the Ploomer", "the Kivvo", "the Trasken", "the Wobbit", "the Quarlo")
INVENTED = ("blorp", "snave", "trimple", "quandle", "frisk", "plunth")

# family -> what is known, the statement up to its answer, invented subjects, and the templates in
# which SmolLM2-135M's answers vary from item to item, with the number of counterfactual claims for
# each subject: more where one outcome is rare
RELATIONS = {
    "capital": (
        CAPITALS,
        "the capital of {s} is the city of",
        PLACES,
        {"suppose": 2, "game": 2, "pupil": 2, "rumour": 2},
    ),
    "language": (
        LANGUAGES,
        "the people of {s} speak",
        PLACES,
        {"suppose": 2, "game": 2, "sign": 2, "story": 3},
    ),
    "country": (
        COUNTRIES,
        "the city of {s} is in the country of",
        TOWNS,
        {"pupil": 2, "series": 2, "story": 2, "lie": 3},
    ),
    "maker": (
        MAKERS,
        "{s} is made by the company",
        GADGETS,
        {"suppose": 2, "game": 3, "story": 2, "robot": 2},
    ),
    "opposite": (
        OPPOSITES,
        "the opposite of {s} would be",
        INVENTED,
        {"suppose": 3, "game": 3, "sign": 2, "lie": 2},
    ),
}

# {claim} is the statement with the counterfactual answer, {statement} the same without an answer
TEMPLATES = {
    "suppose": ("Suppose that {claim}.", "Then {statement}"),
    "game": ("In the game, {claim}.", "In the game, {statement}"),
    "pupil": ("A pupil wrote that {claim}.", "The teacher said that {statement}"),
    "sign": ("A sign says that {claim}.", "So {statement}"),
    "rumour": ("Someone spread the rumour that {claim}.", "According to the encyclopedia, {statement}"),
    "series": ("In the TV series, {claim}.", "In the real world, {statement}"),
    "story": ("In this story, {claim}.", "In real life, {statement}"),
    "lie": ("Tom lied that {claim}.", "The truth is that {statement}"),
    "robot": ("The robot believes that {claim}.", "The robot answers that {statement}"),
}
MENTION = "Anna mentioned {answer}."


def text(statement: str, template: str, claimed: str, known: str, *, known_first: bool) -> str:
    """Return one prompt; it names both answers once, in the order asked for."""
    before, after = TEMPLATES[template]
    sentences = [before.format(claim=f"{statement} {claimed}"), MENTION.format(answer=known)]
    if known_first:
        sentences.reverse()
    return " ".join([*sentences, after.format(statement=statement)])


def others_of(table: dict[str, str], subject: str) -> list[str]:
    """Answers that begin with another letter than the subject's own, and are not the subject."""
    first = table[subject].split()[-1][0]
    return [v for v in sorted(set(table.values())) if v.split()[-1][0] != first and v != subject]


def prompts(family: str) -> list[dict[str, str | None]]:
    """Return a family's prompts by template and subject; the first claim's renamed version follows it."""
    table, statement, invented, templates = RELATIONS[family]
    rows: list[dict[str, str | None]] = []
    for template, claims in templates.items():
        rng = random.Random(f"{SEED}/{family}/{template}")
        for number, (subject, known) in enumerate(table.items()):
            others = others_of(table, subject)
            known_first = rng.random() < 0.5
            for claim, claimed in enumerate(rng.sample(others, claims)):
                name = f"{family}-{slug(subject)}-{slug(claimed)}-{template}"
                known_first = not known_first
                about = {
                    "id": name,
                    "family": family,
                    "template": template,
                    "group": subject.removeprefix("the "),
                    "memorized_answer": f" {known}",
                    "reasoned_answer": f" {claimed}",
                }
                own, renamed = (
                    text(statement.format(s=s), template, claimed, known, known_first=known_first)
                    for s in (subject, invented[number % len(invented)])
                )
                rows += prompt_rows(about, own, {"prompt": renamed} if claim == 0 else None)
    return rows


def build(folder: Path) -> None:
    write_rows(folder / "prompts.jsonl", [row for family in RELATIONS for row in prompts(family)])


if __name__ == "__main__":
    build(Path(__file__).parent)
