"""Where files of settings, and the files that they name, are looked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

from posterior.errors import UserError
from posterior.hub import HUB
from posterior.listing import RECORD
from posterior.shipped import near, shipped_file

SUFFIXES = (".yaml", ".yml", ".json")
CONVERTED = "from_dps.yaml"
"""The settings that are made of those of the DPS code, in a run's folder; written before there is a record."""
STARTED_IN = "started_in"
"""Key of record.json: the working directory that the paths of the run's settings start from."""


class Beside(str):
    """Text in a file of settings that is the path of something there, relative to that file.

    A setting that takes a path takes `path`, which means the same from the working directory; to any other it is text.
    """

    path: str


def real(path: Path) -> Path:
    """Without links."""
    return Path(os.path.realpath(path))


def exists(path: Path) -> bool:
    """Whether there is something; never raises, whatever the text of the path."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is a file; never raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def placed(path: Path) -> str:
    """A path from the working directory: relative to it, if it is below; else from the root."""
    text = os.path.abspath(path)
    if not (os.path.exists(text) and os.path.samefile(text, path)):  # a link stands before `..`
        text = os.path.realpath(path)
    below = os.path.relpath(text)
    return text if below.split(os.sep)[0] == os.pardir else below


def start_of(path: Path) -> Path:
    """The folder that paths in a file of settings are relative to: its own.

    What a run has written into its folder (config.yaml) has the paths that it was started with: those are relative to
    the working directory of that start, which record.json says.
    """
    record = path.parent / RECORD
    if path.name != CONVERTED and (path.name != "config.yaml" or not is_file(record)):
        return path.parent
    try:
        return Path(json.loads(record.read_text(encoding="utf-8"))[STARTED_IN])
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, of version 0.2.0, or damaged
        return Path()


def beside(text: str, folder: Path) -> str:
    """Text in a file of settings, marked if it is the path of something there relative to the folder."""
    if not text or os.path.isabs(text) or not exists(folder / text):
        return text
    found = Beside(text)
    found.path = placed(folder / text)
    return found


def named_file(text: str, folder: Path = Path()) -> Path | None:
    """The file of settings that some text names, or None if it names none.

    With the ending .yaml (.yml, .json): the file relative to ``folder``, or to the working directory. Else, and with or
    without ``configs/`` and ``.yaml``, the one that ships under this name, unless there is something else of the name.

    Args:
        text: a value of a setting.
        folder: of the file that says so.
    """
    if text.startswith(f"{HUB}//"):
        return Path(text)
    whole = text.endswith(SUFFIXES)
    shipped = shipped_file(text)
    if not whole and shipped is None:
        return None
    for place in (folder, Path()):
        path = place / (text if whole else f"{text}.yaml")
        if is_file(path):
            return path
        if exists(place / text):
            return None
    return shipped


def config_file(text: str) -> Path:
    """The file that ``--config`` names: a path (its .yaml may be left out), or the name of one that ships.

    Raises:
        UserError: if there is neither, with names like it.
    """
    for path in (Path(text), Path(f"{text}.yaml")):
        if is_file(path):
            return path
    if (shipped := shipped_file(text)) is not None:
        return shipped
    if exists(Path(text)):
        return Path(text)  # reading it will say what it is instead
    raise UserError(f"file of settings {text} does not exist{near(text)}")
