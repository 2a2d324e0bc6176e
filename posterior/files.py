"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from posterior.errors import UserError

log = logging.getLogger(__name__)


def say(text: str) -> None:
    """Print a line for whoever listens; a closed or full standard output is no failure of a run, whose files count."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)  # so that the interpreter's last flush does not complain either


def below(folder: Path, *parts: str) -> Path:
    """A path below a folder.

    Raises:
        UserError: if the parts lead out of it, or to the folder itself.
    """
    path = folder.joinpath(*parts)
    inside = os.path.relpath(os.path.normpath(path), os.path.normpath(folder))
    if inside == os.curdir or inside.split(os.sep)[0] == os.pardir or os.path.isabs(inside):
        raise UserError(f"{'/'.join(parts)!r} leads out of {folder}, where alone a run may write")
    return path


def forget_partial(folder: Path) -> None:
    """Remove what `write_whole` left half done when its process was killed; nobody else may be writing."""
    for path in folder.rglob(".*.partial"):
        path.unlink(missing_ok=True)


class FolderLock:
    """Keeps a second run out of a folder; it is gone with its process.

    Args:
        folder: is made if need be.
        patience: seconds to wait for one that is being left (worker processes outlive a killed run by moments).
    """

    NAME = ".lock"

    def __init__(self, folder: Path, patience: float = 15.0) -> None:
        self.folder, self.patience = folder, patience
        self._file: IO[bytes] | None = None

    def take(self) -> None:
        """Raises:
        UserError: if another process is at work in the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / self.NAME
        if path.exists() and not path.is_file():  # opening a pipe would wait
            raise UserError(f"{path} is no file: remove it")
        self._file = path.open("ab")
        deadline = time.monotonic() + self.patience
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    self.leave()
                    raise UserError(f"another process is at work in {self.folder}: wait for it, or stop it") from error
                time.sleep(0.2)
            except OSError as error:
                log.warning("%s: this file system has no locks (%s): start only one run in it", path, error.strerror)
                return

    def leave(self) -> None:
        """Let others in, also while a forked process still has the file open."""
        if self._file is not None:
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and its folder if need be; it appears whole or not at all, and nothing is left of a failure.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # several ranks may write the same file
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Around writes into a run's folder: a full disk is a `UserError` that says what to do.

    Raises:
        UserError: for no space left, or no quota.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left for {folder}: make room and start the same command again; images whose records are in the "
            "journal are complete and are kept"
        ) from error
