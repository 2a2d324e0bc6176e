"""Objects of an experiment's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posterior.errors import UserError
from posterior.settings import Given, conformed, read_settings
from posterior.settings.building import built
from posterior.settings.places import SUFFIXES, named_file
from posterior.shipped import near

__all__ = ["built", "built_from", "settings_at", "settings_of"]


def settings_at(text: str, option: str) -> Any:
    """What a file of settings holds, by its path or shipped name.

    Raises:
        UserError: naming the option, if there is no such file.
    """
    path = named_file(text)
    if path is None:
        raise UserError(f"{option}: the file of settings {text} does not exist{near(text)}")
    return read_settings(path)


def settings_of(text: str, option: str) -> Any:
    """The same; or those of a class, by its name.

    Raises:
        UserError: as `settings_at` does, of what looks like a file.
    """
    if named_file(text) is None and "/" not in text and not text.endswith(SUFFIXES):
        return {"class_path": Given(text)}
    return settings_at(text, option)


def built_from(file: Path, key: str, kind: type, name: str) -> Any:
    """The object that an experiment's file has as ``key``: name.

    Args:
        file: of settings.
        key: a part of it, ``model``.
        kind: what it is.
        name: of the setting.

    Raises:
        UserError: if the file has no such settings, or they do not fit.
    """
    settings = read_settings(file)[key][name]
    return built(conformed({name: settings}, {name: kind}), {name: kind}, str(file))[0]
