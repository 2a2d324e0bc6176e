"""The files of settings that ship with this program, by name: ``demo/super_resolution_kinetic``."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from posterior.errors import UserError
from posterior.files import say

HERE = Path(__file__).parent
CONFIGS = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"
"""A wheel has them inside this package; a checkout has them beside it."""
WIDTH = 118
USAGE = """\
posterior-sampling configs               the files of settings that ship, by folder
posterior-sampling configs show NAME     one of them

A name stands wherever a file of settings may: posterior-sampling predict --config demo/super_resolution_kinetic"""


@functools.cache
def shipped() -> dict[str, Path]:
    """Name -> file, sorted; a name is the path below configs/ without its ending."""
    found = sorted(CONFIGS.rglob("*.yaml"))
    return {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in found}


def bare(text: str) -> str:
    """A name without ``configs/`` before it and ``.yaml`` behind it."""
    return text.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")


def shipped_file(text: str) -> Path | None:
    """The shipped file of a name, with or without ``configs/`` and ``.yaml``; None if there is none."""
    return shipped().get(bare(text))


def near(text: str) -> str:
    """What might have been meant, as the end of a message; nothing if nothing is like it."""
    name = bare(text)
    last = name.rpartition("/")[2]
    alike = [known for known in shipped() if known.rpartition("/")[2] == last]
    alike += difflib.get_close_matches(name, [known for known in shipped() if known not in alike], n=3, cutoff=0.7)
    return f": did you mean {' or '.join(alike[:3])}?" if alike else ""


def about(path: Path) -> str:
    """A file in one line: the first line of the comment that it begins with, or the class that it names."""
    text = path.read_text(encoding="utf-8")
    line = next(iter(text.splitlines()), "")
    if line.startswith("#"):
        return line.lstrip("# ").rstrip()
    return line.partition("class_path: ")[2].rpartition(".")[2]


def listing() -> str:
    """All of them, a line each, under the folder that they stand in."""
    width = max((len(name.rpartition("/")[2]) for name in shipped()), default=0)
    lines: list[str] = []
    before = None
    for name, path in shipped().items():
        folder, _, last = name.rpartition("/")
        if folder != before:
            lines += ["", f"{folder}/"] if lines else [f"{folder}/"]
        before = folder
        line = f"  {last:{width}}  {about(path)}"
        lines.append(line if len(line) <= WIDTH else f"{line[: WIDTH - 3].rstrip()}...")
    return "\n".join(lines)


def configs(arguments: Sequence[str]) -> None:
    """The command: list what ships, or print one.

    Raises:
        UserError: if the arguments are others, or no file has the name.
    """
    match list(arguments):
        case []:
            say(listing())
        case ["-h" | "--help"]:
            say(USAGE)
        case ["show", name] if not name.startswith("-"):
            path = shipped_file(name)
            if path is None:
                told = near(name) or ": posterior-sampling configs lists them"
                raise UserError(f"no file of settings {name!r} ships{told}")
            say(path.read_text(encoding="utf-8").rstrip("\n"))
        case _:
            raise UserError(f"configs {' '.join(arguments)}: it is `configs`, or `configs show NAME`")


def main(arguments: Sequence[str]) -> None:
    """What the console script does; whatever is wrong is one line, and the exit status 2."""
    try:
        configs(arguments)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
