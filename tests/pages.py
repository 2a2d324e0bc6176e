"""The pages of the repository, and the commands that stand on them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.md")])
PROGRAM = r"(?:\.venv/bin/)?(?:posterior-sampling|python -m benchmarks|python lightning_cli\.py)"
LINE = re.compile(rf"^ *{PROGRAM} +([a-z].*)$", re.MULTILINE)
"""A command on a line of its own; one within a sentence may be a part of one, and its name alone is looked up."""
SHIPPED = re.compile(r"\bconfigs/([\w/]+)\.yaml\b")
"""The long name of a file of settings that ships, and within it the short one."""


@dataclass(frozen=True)
class Command:
    """A command as a page has it.

    Args:
        page: the first that has it.
        words: the name, and the options.
    """

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"


def commands(page: Path) -> list[Command]:
    """All that stand on a page, in their order."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [Command(page, tuple(shlex.split(line, comments=True))) for line in LINE.findall(text)]


def distinct() -> list[Command]:
    """Of all pages but the history of changes, each once: short and long names of settings are one."""
    found = [one for page in PAGES if page.name != "CHANGELOG.md" for one in commands(page)]
    return list({SHIPPED.sub(r"\1", shlex.join(one.words)): one for one in reversed(found)}.values())[::-1]
