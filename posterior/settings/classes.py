"""The classes that settings name: where they would come from, and which of them may be imported."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from posterior.errors import UserError
from posterior.settings.overlay import Given

OURS = {"posterior", "datamodules", "benchmarks", "lightning_cli"}
LISTED = {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "lpips", "cleanfid", "numpy", "scipy"}
"""Packages that this one needs; classes of theirs may stand in a configuration."""


class Origin(Enum):
    """Where a class comes from, told without importing it."""

    OURS = "ours"
    LISTED = "of a package that this one needs"
    INSTALLED = "of another installed package"
    STANDARD = "of Python itself"
    LOCAL = "a file on the import path, not installed: anybody's code"
    MISSING = "not found"

    @classmethod
    def of(cls, class_path: str) -> Origin:
        """Of the top-level name of a dotted path; a name without dots is looked for among our classes."""
        top, dot, _ = class_path.partition(".")
        if not dot:
            return cls.OURS
        if top in sys.builtin_module_names:
            return cls.STANDARD
        if (file := file_of(top)) is None:
            return cls.STANDARD if top in sys.stdlib_module_names else cls.MISSING
        if top in OURS and file.parent == Path(__file__).parents[1].parent:
            return cls.OURS
        for folder in _installed():
            if folder in file.parents:
                return cls.LISTED if top in LISTED else cls.INSTALLED
        return cls.STANDARD if Path(sysconfig.get_paths()["stdlib"]) in file.parents else cls.LOCAL

    @property
    def trusted(self) -> bool:
        """Whether `check` has nothing to say against it."""
        return self in (Origin.OURS, Origin.LISTED)


def file_of(top: str) -> Path | None:
    """The folder or file of a top-level module, which is not imported."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).absolute()
    return Path(spec.origin).absolute() if spec.origin and spec.origin not in ("built-in", "frozen") else None


def _installed() -> list[Path]:
    found = {*site.getsitepackages(), site.getusersitepackages()}
    found |= {path for name, path in sysconfig.get_paths().items() if name in ("purelib", "platlib")}
    return [Path(path).absolute() for path in found]


IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def named_classes(settings: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every class or function that settings could name: (dotted key, path). Nothing is imported.

    All that stands as a ``class_path``, and all other text that has the form of a path of something importable.
    """
    if isinstance(settings, str):
        if IMPORT_PATH.fullmatch(settings) and Origin.of(settings) is not Origin.MISSING:
            yield key, settings
    elif isinstance(settings, dict):
        path = settings.get("class_path")
        if isinstance(path, str):
            yield key, path
        for name, value in settings.items():
            if name != "class_path":
                yield from named_classes(value, f"{key}.{name}" if key else str(name))
    elif isinstance(settings, list):
        for number, value in enumerate(settings):
            yield from named_classes(value, f"{key}[{number}]")


def refuse_local(class_path: str, key: str, allow_local: bool) -> None:
    """Refuse to import code that nobody has vouched for.

    Args:
        class_path: the class; a `Given` one stands on the command line, whose author knows it.
        key: the setting.
        allow_local: whether ``--allow-local`` is given.

    Raises:
        UserError: saying what would be imported and how to allow it.
    """
    origin = Origin.of(class_path)
    if origin is Origin.LOCAL and not allow_local and not isinstance(class_path, Given):
        raise UserError(
            f"{key}: {class_path} is {Origin.LOCAL.value} ({file_of(class_path.partition('.')[0])}). If you trust it, "
            "say --allow-local, or name the class on the command line"
        )
    if origin is Origin.STANDARD:
        raise UserError(f"{key}: {class_path} is {origin.value}, which no setting can be")


def import_class(class_path: str, base: type | None, key: str) -> tuple[str, Any]:
    """A class (or a function that makes one, such as a classmethod) by its path.

    Args:
        class_path: dotted path; a bare name is looked for among the subclasses of ``base``.
        base: what is expected, or None.
        key: the setting.

    Returns:
        Its full path, and itself.

    Raises:
        UserError: saying which part of the path is not there, with a near name if there is one.
    """
    known = {} if base is None else {path.rpartition(".")[2]: path for path in known_classes(base)}
    parts = class_path.split(".")
    if len(parts) == 1 and class_path in known:
        parts = known[class_path].split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UserError(f"{key}: there is no class {class_path!r}{_instead(class_path, known)}")
    found: Any = None
    for cut in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:cut])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                continue
            raise UserError(f"{key}: {name} needs {error.name}, which is not installed") from error
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{key}: importing {name} fails: {type(error).__name__}: {reason}") from error
        for place, part in enumerate(parts[cut:]):
            if not hasattr(found, part):
                where = ".".join(parts[: cut + place])
                names = (
                    [n for n in vars(found) if not n.startswith("_")] if isinstance(found, (ModuleType, type)) else []
                )
                near = _near(part, names)
                told = f": did you mean {where}.{near}?" if near else _instead(part, known)
                raise UserError(f"{key}: {where} has no {part}{told}")
            found = getattr(found, part)
        return ".".join(parts), found
    raise UserError(f"{key}: there is no module {parts[0]} for {class_path}{_instead(parts[-1], known)}")


def known_classes(base: type) -> list[str]:
    """Paths, as short as they are exported, of the concrete subclasses of ``base`` that are imported."""
    found, open_classes = [], [base]
    while open_classes:
        one = open_classes.pop()
        open_classes += one.__subclasses__()
        if not inspect.isabstract(one) and not one.__name__.startswith("_"):
            found.append(path_of(one))
    return sorted(set(found))


def path_of(cls: type) -> str:
    """The shortest path under which a class can be imported from its package."""
    parts = cls.__module__.split(".")
    for cut in range(1, len(parts)):
        if getattr(sys.modules.get(".".join(parts[:cut])), cls.__name__, None) is cls:
            return ".".join([*parts[:cut], cls.__name__])
    return f"{cls.__module__}.{cls.__name__}"


def _near(name: str, names: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def _instead(name: str, known: dict[str, str]) -> str:
    near = _near(name, list(known))
    if near:
        return f": did you mean {known[near]}?"
    shown = ", ".join(list(known.values())[:12])
    return f"; there are {shown}" if shown else ""
