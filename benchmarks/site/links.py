"""Links of the repository's Markdown, which lead to files, as links of the site."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from posixpath import normpath, relpath
from urllib.parse import quote

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
"""An image or a link: its mark, its text, where it leads."""
FENCE = re.compile(r"^(```.*?^```|    .*?$)", re.MULTILINE | re.DOTALL)
"""Code, in which nothing is a link."""
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "configs/**/*.md")
"""Pages that do not lie in docs/ and are part of the site all the same."""


def outside_pages(root: Path) -> dict[str, str]:
    """Path in the repository -> path on the site, of `OUTSIDE`."""
    found = [path.relative_to(root).as_posix() for pattern in OUTSIDE for path in sorted(root.glob(pattern))]
    return {path: f"project/{path}" for path in found}


def linked_files(root: Path, pages: Collection[str]) -> dict[str, str]:
    """Path in the repository -> path on the site, of files outside docs/ that pages link to and that are no pages.

    Args:
        root: of the repository.
        pages: all pages, from there.
    """
    found = {}
    for page in pages:
        for _, _, target in LINK.findall(FENCE.sub("", (root / page).read_text(encoding="utf-8"))):
            place = in_repository(page, target.partition("#")[0])
            if place and place not in pages and not place.startswith("docs/") and (root / place).is_file():
                found[place] = f"files/{place}"
    return found


def in_repository(page: str, target: str) -> str:
    """Where a link of a page leads, from the repository's root; nothing, if it leads to the web or within the page."""
    if not target or re.match(r"[a-z]+:", target):
        return ""
    return normpath(os.path.join(os.path.dirname(page), target))


def rewritten(markdown: str, page: str, places: Mapping[str, str]) -> str:
    """A page's Markdown with links between places of the site; a link to what is not on it becomes its text.

    Args:
        markdown: of the page.
        page: its path in the repository.
        places: repository -> site, of what lies outside docs/; files in docs/ keep their places.
    """

    def moved(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        file, hash_, anchor = target.partition("#")
        place = in_repository(page, file)
        if not place:
            return found[0]
        site = places.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        if site is None or site == "skeletons":
            return text
        here = os.path.dirname(places.get(page, page.removeprefix("docs/")))
        return f"{mark}[{text}]({quote(relpath(site, here or '.'))}{hash_}{anchor})"

    parts = FENCE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(moved, part) for number, part in enumerate(parts))
