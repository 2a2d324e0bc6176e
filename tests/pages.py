"""The pages of the repository, and the commands that stand on them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.md")])
PROGRAM = r"(?:\.venv/bin/)?(?:posterior-sampling|python -m benchmarks|python lightning_cli\.py)"
LINE = re.compile(rf"^ *{PROGRAM} +([a-z].*)$", re.MULTILINE)
"""A command on a line of its own."""
WITHIN = re.compile(rf"`(?:[A-Z_]+=\S+ )?{PROGRAM}\s+([a-z][^`]*\s--[^`]*)`")
"""A command with options within a sentence; of one without, the name alone is looked up."""
BLOCK = re.compile(r"```.*?```", re.DOTALL)
CARDS = ROOT / "docs" / "gallery" / "cards.yaml"
SHIPPED = re.compile(r"\bconfigs/([\w/]+)\.yaml\b")
"""The long name of a file of settings that ships, and within it the short one."""


@dataclass(frozen=True)
class Command:
    """A command as a page has it.

    Args:
        page: the first that has it.
        words: the name, and the options.
        within: it stands within a sentence.
    """

    page: Path
    words: tuple[str, ...]
    within: bool = False

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"


def commands(page: Path) -> list[Command]:
    """All that stand on a page, in their order."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [Command(page, tuple(shlex.split(line, comments=True))) for line in LINE.findall(text)]


def within(page: Path) -> list[Command]:
    """Those with options within the sentences of a page, in their order."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    return [Command(page, tuple(shlex.split(found)), within=True) for found in WITHIN.findall(text)]


def cards() -> list[Command]:
    """That of each card of the gallery."""
    kinds = yaml.safe_load(CARDS.read_text(encoding="utf-8")).values()
    return [Command(CARDS, tuple(shlex.split(card["run"])[1:])) for cards in kinds for card in cards.values()]


def distinct() -> list[Command]:
    """Of all pages but the history of changes, and of the gallery, each once.

    Short and long names of settings are one; what stands on a line of its own comes before what a sentence has.
    """
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    lines = [one for page in pages for one in commands(page)]
    found = [*lines, *cards(), *(one for page in pages for one in within(page))]
    return list({SHIPPED.sub(r"\1", shlex.join(one.words)): one for one in reversed(found)}.values())[::-1]
