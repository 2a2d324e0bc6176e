"""What MkDocs calls while it builds the site (mkdocs.yml names this file)."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from benchmarks.site import cards, links, mathematics, reference, sources

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = re.compile(r"(gallery|reference)/")
FONT = f"theme/{mathematics.FONT}"


@functools.cache
def moved() -> dict[str, str]:
    """Path in the repository -> path on the site, of pages and linked files that do not lie in docs/."""
    outside = links.outside_pages(ROOT)
    pages = [*outside, *(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))]
    return outside | links.linked_files(ROOT, pages)


def slug(text: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation: pages that are made here come in, those that are not there yet go out."""
    moved.cache_clear()
    config.mdx_configs["toc"]["slugify"] = slug
    try:
        found = cards.cards(DOCS)
    except ValueError as error:
        raise PluginError(str(error)) from error
    made: dict[str, list[Any]] = {
        "gallery/samplers": [{card.title: card.page} for card in found if card.kind == "sampler"],
        "gallery/tasks": [{card.title: card.page} for card in found if card.kind == "task"],
        "reference": [{title: reference.address(name)} for name, title in reference.PACKAGES.items()],
        "project": list(links.outside_pages(ROOT).values()),
    }
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    config.nav = list(completed(config.nav or [], made, there))
    return config


def completed(items: list[Any], made: dict[str, list[Any]], there: set[str]) -> Iterator[Any]:
    """Items of the navigation with the groups that are made in the place of their names, without absent pages."""
    for item in items:
        if isinstance(item, dict):
            ((title, inner),) = item.items()
            if isinstance(inner, list):
                if kept := list(completed(inner, made, there)):
                    yield {title: kept}
            elif inner in made:
                yield {title: made[inner]}
            elif inner in there:
                yield item
        elif item in there:
            yield item


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here, those outside docs/, the files that pages link to, and the font."""
    found, known = cards.cards(DOCS), cards.numbers(DOCS)
    homes = reference.homes(ROOT)
    shown: dict[str, list[cards.Card]] = {}
    for card in found:
        name = card.settings["class"]
        shown.setdefault(name, []).append(card)
        if name not in homes:
            raise PluginError(f"docs/gallery/cards.yaml: {card.name}: no package exports {name}")
        place = f"{reference.address(homes[name])}#{homes[name]}.{name}"
        files.append(File.generated(config, card.page, content=cards.page(card, known, place)))
    for package in reference.PACKAGES:
        content = reference.page(ROOT, package, shown)
        files.append(File.generated(config, reference.address(package), content=content))
    for place, site in moved().items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / place)))
    files.append(File.generated(config, FONT, abs_src_path=str(mathematics.font())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files become links between pages, formulas MathML; the gallery gets its cards, a page its code.

    Raises:
        PluginError: if code that the page names is not there.
    """
    uri = page.file.src_uri
    if GENERATED.match(uri):
        return markdown
    here = {site: place for place, site in moved().items()}.get(uri, f"docs/{uri}")
    markdown = mathematics.rendered(links.rewritten(markdown, here, moved()))
    if uri == "gallery.md":
        for kind in ("sampler", "task"):
            shown = [card for card in cards.cards(DOCS) if card.kind == kind]
            markdown = markdown.replace(cards.MARK.format(kind=kind), cards.grid(shown))
    try:
        return sources.included(markdown, ROOT)
    except (OSError, ValueError) as error:
        raise PluginError(f"{here}: {error}") from error
