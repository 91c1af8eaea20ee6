"""When the site is built: every public name into reference.md, and every page into the contents."""

from typing import Any

import neurotrace


def on_files(files: Any, config: Any) -> Any:
    listed = str(config.nav)
    pages = [file.src_uri for file in files.documentation_pages()]
    config.nav += [page for page in pages if page not in listed]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri != "reference.md":
        return markdown
    parts = [markdown]
    for module, names in neurotrace._HOME.items():
        parts.append(f"## {module}\n")
        for name in names:
            parts.append(f"::: neurotrace.{module}.{name}\n")
    return "\n".join(parts)
