"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posterior.errors import UserError


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
