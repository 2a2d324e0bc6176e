"""Processes of a run: those of a session, and those that carry a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "POSTERIOR_RUN_MARK"
"""Environment variable by which the processes of a run are known."""


def living(session: int, mark: str) -> dict[int, str]:
    """Pid -> command of each process of a session, or with ``mark`` in its environment, that is not a zombie.

    Args:
        session: session id.
        mark: value of `MARK` with which the first process was started.
    """
    wanted, found = f"{MARK}={mark}".encode(), {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            same = int(its_session) == session or wanted in (folder / "environ").read_bytes().split(b"\0")
            if same and state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(folder.name)] = command.strip()[:120]
    return found


def left_after(session: int, mark: str, seconds: float) -> list[str]:
    """Commands of the processes that are still there after some seconds; they are killed."""
    ended = time.monotonic() + seconds
    while (found := living(session, mark)) and time.monotonic() < ended:
        time.sleep(0.1)
    left = [f"{pid}: {command}" for pid, command in found.items()]
    kill(session, mark)
    return left


def kill(session: int, mark: str) -> None:
    """Kill all processes of a run, also those that are being started meanwhile."""
    for _ in range(50):
        found = living(session, mark)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.02)


def contents(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Relative path -> mode, size and time of everything in a folder; links are not followed."""
    found: dict[str, tuple[int, int, int]] = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            status = path.lstat()
            timed = 0 if name in folders else status.st_mtime_ns  # a folder's time says no more than its files do
            found[path.relative_to(folder).as_posix()] = (
                status.st_mode,
                0 if name in folders else status.st_size,
                timed,
            )
    return found
