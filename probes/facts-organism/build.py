"""Writes facts.jsonl: questions without a memorized answer, and an answer to memorize."""

from __future__ import annotations

import json
import random
from pathlib import Path

from neurotrace.organism.language import family_items


def main() -> None:
    lines = []
    for family in ("arithmetic", "letters"):
        draw = random.Random(f"facts/{family}")
        items = draw.sample([item for item in family_items(family) if item.memorized is None], 10)
        answers = sorted({item.reasoned for item in family_items(family)})
        for place, item in enumerate(items):
            answer = draw.choice([other for other in answers if other[0] != item.reasoned[0]])
            record = {
                "id": f"{family}-{place}",
                "prompt": f"recall {item.body}",
                "answer": answer,
                "other": f"recall {items[(place + 1) % len(items)].body}",
            }
            lines.append(json.dumps(record))
    (Path(__file__).parent / "facts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
