"""What settings name, by content: files, folders, and code that is not ours."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from posterior.listing import files_below
from posterior.settings.classes import Origin, file_of, named_classes
from posterior.settings.places import Beside

SIZE = 16
INPUTS = {".png", ".jpg", ".jpeg", ".npy", ".npz", ".h5", ".hdf5", ".zip", ".pt", ".pth", ".safetensors"}
"""Endings of files that count in a folder; tables and reports of ours may come and go there."""


class Folders(Enum):
    """What of a folder's files counts."""

    NONE = "nothing"
    NAMES = "names and sizes"
    CONTENT = "names and contents of inputs"
    ALL = "names and contents of all"


def file_digests(settings: Any, key: str = "", folders: Folders = Folders.CONTENT) -> dict[str, str]:
    """Digest of every file that settings name, by dotted key: of its content, never its time.

    Args:
        settings: resolved settings.
        key: where they stand.
        folders: how a folder counts that a setting names.
    """
    return {name: digest for name, path in _paths(settings, key) if (digest := _digest(path, folders)) is not None}


def code_digests(settings: Any) -> dict[str, str]:
    """Digest of every module of code that is neither ours nor of a package that this one needs.

    Those of the classes that settings name, and of what else has been imported from files that are not installed: the
    helpers that such a class imports. (Of our own code the package's version is noted.)
    """
    tops = {path.partition(".")[0] for _, path in named_classes(settings) if not Origin.of(path).trusted}
    if not tops:  # what else this process has imported is no part of the run
        return {}
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        top = name.partition(".")[0]
        if name != "__main__" and file and (top in tops or _local(top)) and Path(file).is_file():
            found[name] = _of_file(file, *_stamp(Path(file)))
    return found


def module_digests(settings: Any) -> dict[str, str]:
    """Digest of the code around every class that settings name and that is not ours, without importing it.

    Of a module that is one file, all modules beside it (it may import them); of a package, all its modules.
    """
    found = {}
    for _, path in named_classes(settings):
        top = path.partition(".")[0]
        if not Origin.of(path).trusted and (place := file_of(top)) is not None:
            files = place.rglob("*.py") if place.is_dir() else place.parent.glob("*.py")
            told = [f"{file.name} {_of_file(str(file), *_stamp(file))}" for file in sorted(files)]
            found[top] = hashlib.blake2b("\n".join(told).encode(), digest_size=SIZE).hexdigest()
    return found


@functools.cache
def _local(top: str) -> bool:
    return Origin.of(f"{top}.x") is Origin.LOCAL


def _paths(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _paths(item, f"{key}[{number}]")
    elif isinstance(value, (str, Path)) and value and "\n" not in (text := str(value)) and "\0" not in text:
        yield key, Path(value.path if isinstance(value, Beside) else value)


def _digest(path: Path, folders: Folders) -> str | None:
    try:
        if path.is_file():
            return _of_file(str(path), *_stamp(path))
        if folders is not Folders.NONE and path.is_dir():
            return _of_folder(path, folders)
    except (OSError, ValueError):
        return None
    return None


def _stamp(path: Path) -> tuple[int, int, int]:
    """What tells within this process that a file has not been written again since it was read."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


@functools.lru_cache(maxsize=4096)
def _of_file(path: str, *stamp: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=SIZE)).hexdigest()


def _of_folder(root: Path, counts: Folders) -> str:
    whole = hashlib.blake2b(digest_size=SIZE)
    for name, path in sorted(files_below(root, Counter()), key=lambda pair: pair[0]):
        if isinstance(path, Path) and path.is_file() and (counts is Folders.ALL or path.suffix.lower() in INPUTS):
            stamp = _stamp(path)
            told = stamp[0] if counts is Folders.NAMES else _of_file(str(path), *stamp)
            whole.update(f"{name} {told}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
