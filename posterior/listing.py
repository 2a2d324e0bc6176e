"""The one lister of inputs: which files of a folder, zip or single path a run takes, and which it leaves out."""

from __future__ import annotations

import functools
import os
import zipfile
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from posterior import ids
from posterior.errors import UserError

RECORD = "record.json"
"""In the folder of a run (of `predict` or `fit`): what it is made of. Its pictures are results, not inputs."""
MOST_DEEP = 64


class NothingFound(UserError):
    """A folder or zip without a file of the kind that was asked for."""


@dataclass(frozen=True)
class Member:
    """A file within a zip; named like a path of it."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def open(self) -> IO[bytes]:
        """The file, to be read."""
        return _archive(self.archive, os.getpid()).open(self.name)


File = Path | Member


@dataclass(frozen=True)
class Listing:
    """Inputs that were found.

    Args:
        files: id -> file, in natural order of ids; an id is the relative path without extension.
        left_out: what else is there, counted by kind.
    """

    files: dict[str, File]
    left_out: Counter[str] = field(default_factory=Counter)

    def told(self) -> str:
        """In one line: how many were taken, and what was left out."""
        others = ", ".join(f"{count} {kind}" for kind, count in sorted(self.left_out.items(), key=_most)[:8])
        taken = f"{len(self.files)} file{'s' if len(self.files) != 1 else ''} taken"
        return f"{taken}; left out: {others}" if others else taken


def _most(counted: tuple[str, int]) -> tuple[int, str]:
    return -counted[1], counted[0]


def list_files(root: Path, extensions: Collection[str], what: str) -> Listing:
    """Files with one of the extensions in a folder and its subfolders, in a .zip, or ``root`` itself.

    Left out: hidden names (``.ipynb_checkpoints``, ``._x.png``), what macOS adds to zips, other extensions, the folders
    of runs (a run never takes its own results), a folder or file that a link leads to for a second time.

    Args:
        root: folder, zip or file.
        extensions: lower case, with the dot.
        what: of the files, for messages: "image".

    Raises:
        UserError: if root is missing or is the folder of a run, a folder cannot be read, two files share an id, or a
            path in a zip leads out of it.
        NothingFound: if there is no such file.
    """
    kinds = ", ".join(sorted(extensions))
    try:
        is_folder, is_file = root.is_dir(), root.is_file()
    except (OSError, ValueError) as error:
        raise UserError(f"{what} folder {root} cannot be read ({getattr(error, 'strerror', error)})") from error
    left_out: Counter[str] = Counter()
    if is_folder:
        if is_run(root):
            raise UserError(f"{what} folder {root} is the folder of a run: name the folder of its inputs")
        found = list(files_below(root, left_out))
        place = f"{what} folder {root}"
    elif is_file and root.suffix.lower() == ".zip":
        found = list(_zipped(root, left_out))
        place = f"zip {root}"
    elif is_file:
        found, place = [(root.name, root)], f"{root}"
    else:
        kind = "does not exist" if not os.path.lexists(root) else "is neither a folder nor a file, or a link to nothing"
        raise UserError(f"{what} folder {root} {kind}" if root.suffix.lower() != ".zip" else f"zip {root} {kind}")
    files: dict[str, File] = {}
    for name, file in sorted(found, key=lambda pair: ids.natural(pair[0])):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix not in extensions:
            left_out[suffix if 1 < len(suffix) <= 10 and suffix.isprintable() else "without extension"] += 1
            continue
        image_id = ids.of_name(name)
        if image_id in files:
            raise UserError(f"{files[image_id]} and {file} have the same {what} id {image_id!r}: rename one")
        files[image_id] = file
    if not files:
        others = Listing({}, left_out).told().partition("; ")[2]
        raise NothingFound(f"{place} holds no {what} file ({kinds})" + (f"; {others}" if others else ""))
    return Listing(dict(sorted(files.items(), key=lambda pair: ids.natural(pair[0]))), left_out)


def is_run(folder: Path) -> bool:
    """Whether a folder holds what a run of ours has left."""
    if (folder / RECORD).is_file():
        return True
    journal = folder / "journal"
    return journal.is_dir() and any(name.endswith(".jsonl") for name in os.listdir(journal))


def files_below(root: Path, left_out: Counter[str]) -> Iterator[tuple[str, File]]:
    """(relative path, file) of everything that counts, folder by folder; links are followed, but nowhere twice."""
    folders, files = {_key(root.stat())}, set[tuple[int, int]]()
    waiting: list[tuple[str, Path]] = [("", root)]
    links: deque[tuple[str, Path]] = deque()  # after all real folders, so that a link never takes their place
    while waiting or links:
        if not waiting:
            name, path = links.popleft()
            try:
                key = _key(path.stat())
            except OSError:  # reading it will say so, if it has the name of an input
                yield name, path
                continue
            if path.is_dir():
                waiting += _entered(f"{name}/", path, key, folders, left_out)
            elif key in files:
                left_out["link to a file that counts already"] += 1
            else:
                files.add(key)
                yield name, path
            continue
        prefix, folder = waiting.pop()
        try:
            device = folder.stat().st_dev
            with os.scandir(folder) as entries:
                content = sorted(entries, key=lambda entry: entry.name)
            for entry in content:
                path, name = folder / entry.name, f"{prefix}{entry.name}"
                if entry.name.startswith("."):
                    left_out["hidden"] += 1
                elif entry.is_symlink():
                    links.append((name, path))
                elif entry.is_dir():
                    waiting += _entered(f"{name}/", path, _key(entry.stat(follow_symlinks=False)), folders, left_out)
                else:
                    files.add((device, entry.inode()))
                    yield name, path
        except OSError as error:
            raise UserError(
                f"folder {folder} cannot be read ({error.strerror}): make it readable, or take it out of {root}"
            ) from error


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _entered(
    prefix: str, folder: Path, key: tuple[int, int], folders: set[tuple[int, int]], left_out: Counter[str]
) -> list[tuple[str, Path]]:
    """A folder that is still to be read, or none, noting why."""
    if key in folders:
        left_out["folder that counts already"] += 1
    elif prefix.count("/") > MOST_DEEP:
        left_out["folder too deep"] += 1
    elif is_run(folder):
        left_out["folder of a run"] += 1
    else:
        folders.add(key)
        return [(prefix, folder)]
    return []


def _zipped(root: Path, left_out: Counter[str]) -> Iterator[tuple[str, File]]:
    try:
        with zipfile.ZipFile(root) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except Exception as error:  # a damaged directory raises many things
        raise UserError(f"{root} cannot be read as a zip ({' '.join(str(error).split())})") from error
    for name in names:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts:
            raise UserError(f"zip {root}: a file in it is called {name!r}, which leads out of it")
        if "__MACOSX" in parts or any(part.startswith(".") for part in parts):
            left_out["hidden"] += 1
        else:
            yield name, Member(root, name)


@functools.lru_cache(maxsize=8)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """An open archive; one a process, since workers must not share a file's position."""
    return zipfile.ZipFile(path)
