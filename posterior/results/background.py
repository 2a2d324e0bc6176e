"""Work that a thread of its own does, in order, while the run goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class BackgroundWorker:
    """Runs functions one after another in a thread.

    At most ``most_waiting`` wait; then `submit` waits too, so that a slow disk slows the run down and does not fill the
    memory. After the first error nothing more is run: every further `submit` and `close` raises it. The thread is a
    daemon, so that a process that is killed does not wait for it.

    Args:
        most_waiting: functions in the queue, >= 1.
    """

    def __init__(self, most_waiting: int = 2) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(most_waiting)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Run ``work`` after what waits already.

        Raises:
            BaseException: what earlier work has raised.
        """
        self._check()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
            self._thread.start()
        self._queue.put(work)

    def close(self) -> None:
        """Wait until all is done; more may be submitted afterwards.

        Raises:
            BaseException: what the work has raised.
        """
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._error is None:
                try:
                    work()
                except BaseException as error:
                    self._error = error
