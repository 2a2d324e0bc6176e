"""What settings name, by content: files, folders, and code that is not ours."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from posterior.listing import is_run
from posterior.settings.classes import Origin, named_classes

SIZE = 16
INPUTS = {".png", ".jpg", ".jpeg", ".npy", ".npz", ".h5", ".hdf5", ".zip", ".pt", ".pth", ".safetensors"}
"""Endings of files that count in a folder; tables and reports of ours may come and go there."""


class Folders(Enum):
    """What of a folder's files counts."""

    NONE = "nothing"
    NAMES = "names and sizes"
    CONTENT = "names and contents"


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
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        top = name.partition(".")[0]
        if name != "__main__" and file and (top in tops or _local(top)) and Path(file).is_file():
            found[name] = _of_file(file, *_stamp(Path(file)))
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
        yield key, Path(value)


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
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(n for n in inner if not n.startswith(".") and not is_run(Path(folder) / n))
        for name in sorted(names):
            path = Path(folder) / name
            if not name.startswith(".") and path.suffix.lower() in INPUTS and path.is_file():
                stamp = _stamp(path)
                told = _of_file(str(path), *stamp) if counts is Folders.CONTENT else stamp[0]
                whole.update(f"{path.relative_to(root).as_posix()} {told}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
