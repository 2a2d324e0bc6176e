"""Objects of an experiment's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posterior.settings import conformed, read_settings
from posterior.settings.building import built

__all__ = ["built", "built_from"]


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
