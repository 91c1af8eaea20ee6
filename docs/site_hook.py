"""When the site is built: every public name into reference.md, and every page into the contents."""

from importlib import import_module
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
    packages = dict.fromkeys(module.partition(".")[0] for module in neurotrace._HOME)
    for package in packages:
        says = (import_module(f"neurotrace.{package}").__doc__ or "").partition("\n")[0]
        parts.append(f"## {package}\n\n{says}\n")
        for module, names in neurotrace._HOME.items():
            if module.partition(".")[0] == package:
                parts += [f"::: neurotrace.{module}.{name}\n" for name in names]
    return "\n".join(parts)
