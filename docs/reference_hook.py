"""Fills reference.md with every public name when the site is built."""

from typing import Any

import neurotrace


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri != "reference.md":
        return markdown
    parts = [markdown]
    for module, names in neurotrace._HOME.items():
        parts.append(f"## {module}\n")
        for name in names:
            parts.append(f"::: neurotrace.{module}.{name}\n")
    return "\n".join(parts)
