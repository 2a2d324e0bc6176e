"""What a command says: results, remarks, how far it is; ``--quiet``; colours on a terminal alone."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from posterior.files import say

WIDTH = 80
"""Columns that a table may have."""
BAR = 12
"""Columns of a bar."""
LONGEST = 600.0
"""Seconds between two lines of a log, at most."""

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_part: ContextVar[bool] = ContextVar("part", default=False)


@contextmanager
def quietly(wanted: bool = True) -> Iterator[None]:
    """Within it nothing is said but warnings, errors and the place of the results, if that is wanted."""
    before = _quiet.set(wanted or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(before)


@contextmanager
def part_of_more() -> Iterator[None]:
    """Around a run of many in one command: where it is is a remark, not the place of the command's results."""
    before = _part.set(True)
    try:
        yield
    finally:
        _part.reset(before)


def is_quiet() -> bool:
    """Whether nothing shall be said that can be left out."""
    return _quiet.get()


def say_result(text: str) -> None:
    """Print a line of the results, unless `quietly`."""
    if not is_quiet():
        say(text)


def say_place(text: str) -> None:
    """Print where the results are, also `quietly`; a part of more says nothing then."""
    if not (is_quiet() and _part.get()):
        say(text)


def remark(text: str) -> None:
    """A line on standard error for those who wait, unless `quietly`."""
    if not is_quiet():
        print(text, file=sys.stderr, flush=True)


def redraws(stream: IO[str]) -> bool:
    """Whether lines of a stream can be drawn over: it is a terminal, and TERM is not ``dumb``."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def duration(seconds: float) -> str:
    """In words: 40 s, 12 min, 7.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Status:
    """How far a command is, on standard error: bars that are redrawn on a terminal, lines at some moments in a log.

    The moments of a log: ``first`` seconds after the start, each time after twice as long, at last every `LONGEST`
    seconds. No carriage return is printed there. NO_COLOR (any text) takes the colours from a terminal; TERM=dumb makes
    it a log. One made within `quietly` says nothing.

    Args:
        first: seconds, >= 0.
    """

    def __init__(self, first: float = 20.0) -> None:
        self.quiet, self.wait, self.last = is_quiet(), first, time.monotonic()
        self.live: Progress | None = None
        self.tasks: list[TaskID] = []
        if redraws(sys.stderr) and not self.quiet:
            words = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
            console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
            self.live = Progress(BarColumn(BAR), words, console=console)
            self.live.start()
            atexit.register(self.close)  # whatever ends the command: the cursor comes back

    def tell(self, *lines: tuple[float | None, str], end: bool = False) -> None:
        """Lines with the share that is done, in [0, 1] (None: unknown); a log has them as one line, if it is due.

        Args:
            lines: as many each time.
            end: the last ones, which a log has at once.
        """
        if self.quiet:
            return
        if self.live is not None:
            self._draw(self.live, lines)
        elif end or time.monotonic() - self.last > self.wait:
            self.last, self.wait = time.monotonic(), min(2 * self.wait, LONGEST)
            remark("; ".join(text for _, text in lines))

    def _draw(self, live: Progress, lines: Sequence[tuple[float | None, str]]) -> None:
        while len(self.tasks) < len(lines):
            self.tasks.append(live.add_task("", total=None))
        for task, (share, text) in zip(self.tasks, lines, strict=False):
            live.update(task, description=text, total=None if share is None else 1.0, completed=share or 0.0)

    def close(self) -> None:
        """Leave the bars as they are."""
        if self.live is not None:
            self.live.stop()
            self.live = None
            atexit.unregister(self.close)
