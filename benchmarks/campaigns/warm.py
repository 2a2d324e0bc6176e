"""Commands in processes that a warm one forks, as if newly started: importing takes seconds a time."""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks.campaigns.forked import Forked, as_interpreter, begin_anew, exit_status, fork_second

ROOT = Path(__file__).parents[2]
LOADED = ("lightning_cli", "datamodules", "posterior.callbacks", "benchmarks.matrix.matrix", "benchmarks.matrix.report")


class Warm:
    """The warm process; it is started by the first command. Where a run has two processes, it forks both."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def start(
        self, command: Sequence[str], cwd: Path, out: Path, err: Path, env: Mapping[str, str] | None = None
    ) -> Forked:
        """What ``subprocess.Popen([sys.executable, *command], start_new_session=True)`` would give.

        Args:
            command: a script and its arguments, or ``-m``, a module and its arguments.
            cwd: where to run it.
            out, err: files of its standard output and error.
            env: the whole environment; None: this process's.
        """
        asked = {"command": list(command), "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
        return Forked(self._answer(asked | {"out": str(out), "err": str(err)}), self._answer)

    def run(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """What ``subprocess.run([sys.executable, *command], capture_output=True, text=True)`` would give.

        Args:
            command, cwd, env: as for `start`.
            timeout: in seconds, after which it is killed.

        Raises:
            subprocess.TimeoutExpired: if it was.
        """
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            process = self.start(command, cwd, out, err, env)
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise subprocess.TimeoutExpired(command, timeout, out.read_bytes(), err.read_bytes()) from error
            return subprocess.CompletedProcess(list(command), status, out.read_text(), err.read_text())

    def _answer(self, asked: Any) -> Any:
        """Of the warm process: the number of the process of a command; the exit status of the process of a number."""
        if self.process is None:
            start = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
            self.process = subprocess.Popen(start, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        """End the warm process."""
        if self.process is not None:
            self.process.communicate()


def serve() -> None:
    """Answer each line of standard input: fork the process of a command, or say the exit status of a number."""
    torch.set_num_threads(1)
    for name in LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # objects of this process are not touched by collections in the others
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            told = exit_status(asked)
        else:
            told = os.fork()
            if told == 0:
                _child(asked)
        print(json.dumps(told), flush=True)


def _child(asked: dict[str, Any]) -> NoReturn:
    status = 70
    try:
        begin_anew(Path(asked["cwd"]), Path(asked["out"]), Path(asked["err"]))
        os.environ.clear()
        os.environ.update(asked["env"])
        first, *rest = asked["command"]
        module = first == "-m"
        places = [asked["cwd"] if module else str(Path(first).absolute().parent)]
        places += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:] = [*places, *sys.path[1:]]
        sys.argv = rest if module else [first, *rest]

        def program() -> object:
            if module:
                return runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
            return runpy.run_path(first, run_name="__main__")

        fork_second(program)
        status = as_interpreter(program)
    finally:
        os._exit(status)
