"""Functions that run in forked processes of a warm one, as if the interpreter had been started for each."""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from benchmarks.campaigns.processes import MARK, kill, left_after
from posterior import shell

MEMORY = 6 * 2**30
"""Address space that a process may take beyond what it begins with, in bytes."""

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


@dataclass(frozen=True)
class Task:
    """A function for a process of its own.

    Args:
        number: its name.
        call: the function.
        folder: the folder to run in; ``stdout`` and ``stderr`` are written beside it.
        seconds: time limit.
        long: whether the process of this number does what it was asked for, so that one may stop waiting; asked after
            ``patience`` and at the limit.
        patience: seconds.
    """

    number: int
    call: Callable[[], object]
    folder: Path
    seconds: float
    long: Callable[[int], bool] = field(default=lambda pid: False)
    patience: float = 8.0


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Args:
        status: as a shell has it, with -n for signal n; None: it was killed at its time limit.
        long: it was killed before, as it did what it was asked for.
        seconds, memory: time, and the largest resident memory in MiB.
        left: commands of the processes that it left behind.
    """

    status: int | None
    long: bool
    seconds: float
    memory: float
    left: list[str]


def run_all(tasks: Iterable[Task], jobs: int) -> Iterator[tuple[Task, Ended]]:
    """Run each task in a process of its own, some at a time; in the order in which they end."""
    waiting, running = iter(tasks), dict[int, tuple[Task, float, bool]]()
    gc.collect()
    gc.freeze()  # objects of this process are not touched by collections in the others
    while True:
        while len(running) < jobs and (task := next(waiting, None)) is not None:
            running[_fork(task)] = (task, time.monotonic(), False)
        if not running:
            return
        time.sleep(0.005)
        for pid, (task, begun, asked) in list(running.items()):
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            seconds = time.monotonic() - begun
            late, long = seconds > task.seconds, False
            if not ended and (late or (seconds > task.patience and not asked)):
                long = task.long(pid)
                running[pid] = (task, begun, True)
            if not ended and not late and not long:
                continue
            if not ended:
                kill(pid, mark(task))
                _, status, usage = os.wait4(pid, 0)
            del running[pid]
            code = os.waitstatus_to_exitcode(status) if ended else None
            left = left_after(pid, mark(task), seconds=3.0) if ended else []
            yield task, Ended(code, long, seconds, usage.ru_maxrss / 1024, left)


def mark(task: Task) -> str:
    """By which the task's processes are known."""
    return f"{os.getpid()}-{task.number}"


def _fork(task: Task) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    parent = mark(task)
    pid = os.fork()
    if pid == 0:
        _child(task, parent)
    return pid


def _child(task: Task, marked: str) -> NoReturn:
    """The process of a task: its end is the interpreter's, but for the parent's objects, which are not finalised."""
    status = 70
    try:
        begin_anew(task.folder, *(task.folder.parent / name for name in ("stdout", "stderr")))
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        os.environ[MARK] = marked
        for name, folder in [("HOME", "home"), ("TMPDIR", "tmp"), ("TORCH_HOME", "home/torch")]:
            os.environ[name] = str(task.folder / folder)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
        status = as_interpreter(task.call)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def begin_anew(folder: Path, out: Path, err: Path) -> None:
    """Make this forked process begin as a program does: with a session, standard streams and signals of its own.

    Args:
        folder: its working folder.
        out, err: files of its standard output and error.
    """
    os.setsid()
    for descriptor, path in enumerate((Path(os.devnull), out, err)):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(folder)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def exit_status(pid: int) -> int | None:
    """Of a child, -n for signal n; None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


@dataclass
class Forked:
    """A forked process, with what is used here and by Lightning of `subprocess.Popen`.

    Args:
        pid: its number.
        ask: its parent, for its `exit_status`.
        returncode: the last answer.
    """

    pid: int
    ask: Callable[[int], int | None] = exit_status
    returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        if self.returncode is None:
            self.returncode = self.ask(self.pid)
        return self.returncode

    def wait(self, timeout: float = 600.0) -> int:
        """The exit status, once it is there.

        Raises:
            subprocess.TimeoutExpired: if it is not, after so many seconds.
        """
        late = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > late:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork_second(call: Callable[[], object]) -> None:
    """Fork the second process of a run that Lightning may launch from this one, in place of an interpreter.

    It waits for its environment, and ends where this process ends without having launched it.

    Args:
        call: the program, which is this process's too.
    """
    from pytorch_lightning.strategies.launchers import subprocess_script

    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        _second(reading, call)
    os.close(reading)

    def launched(command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> Forked:
        with os.fdopen(writing, "w") as pipe:
            json.dump(env, pipe)
        return Forked(pid)

    setattr(subprocess_script, "subprocess", SimpleNamespace(Popen=launched))  # noqa: B010


def _second(pipe: int, call: Callable[[], object]) -> NoReturn:
    from pytorch_lightning.utilities import rank_zero
    from torchmetrics.utilities import prints

    status = 70
    try:
        with os.fdopen(pipe) as told:
            environment = told.read()
        if environment:
            os.environ.clear()
            os.environ.update(json.loads(environment))
            for module in (rank_zero, prints):  # which look at it when they are imported
                vars(module)["rank_zero_only"].rank = int(os.environ["LOCAL_RANK"])
            status = as_interpreter(call)
    finally:
        os._exit(status)


def as_interpreter(call: Callable[[], object]) -> int:
    """The exit status of a program that is this call; what the interpreter prints is printed."""
    shell.MAIN = os.getpid()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False  # of an object of the parent
    status = _status(call)
    for last in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]
        try:
            last()
        except BaseException:
            traceback.print_exc()
            status = status or 120
    return status


def _status(call: Callable[[], object]) -> int:
    try:
        call()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
