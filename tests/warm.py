"""Commands in processes that a warm one forks, as if newly started: importing takes seconds a time."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks.campaigns.forked import as_interpreter

LOADED = ("lightning_cli", "datamodules", "posterior.callbacks", "benchmarks.matrix.matrix", "benchmarks.matrix.report")


class Warm:
    """The warm process; it is started by the first command.

    Args:
        root: folder of the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process: subprocess.Popen[str] | None = None

    def run(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """What ``subprocess.run([sys.executable, *command], capture_output=True, text=True)`` would give.

        Args:
            command: a script and its arguments, or ``-m``, a module and its arguments.
            cwd: where to run it.
            env: the whole environment; None: this process's.
            timeout: in seconds, after which it is killed.

        Raises:
            subprocess.TimeoutExpired: if it was.
        """
        if self.process is None:
            start = [sys.executable, "-c", "from tests.warm import serve; serve()"]
            self.process = subprocess.Popen(
                start, cwd=self.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            asked = {"command": list(command), "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
            self.process.stdin.write(json.dumps(asked | {"out": str(out), "err": str(err), "timeout": timeout}) + "\n")
            self.process.stdin.flush()
            status = json.loads(self.process.stdout.readline())
            if status is None:
                raise subprocess.TimeoutExpired(list(command), timeout, out.read_bytes(), err.read_bytes())
            return subprocess.CompletedProcess(list(command), status, out.read_text(), err.read_text())

    def end(self) -> None:
        """End the warm process."""
        if self.process is not None:
            self.process.communicate()


def serve() -> None:
    """Fork a process for each line of standard input, and say its exit status."""
    torch.set_num_threads(1)
    for name in LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(asked)
        print(json.dumps(_ended(pid, asked["timeout"])), flush=True)


def _ended(pid: int, timeout: float) -> int | None:
    late = time.monotonic() + timeout
    while time.monotonic() < late:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _child(asked: dict[str, Any]) -> NoReturn:
    status = 70
    try:
        os.setsid()
        for descriptor, path in enumerate(("/dev/null", asked["out"], asked["err"])):
            opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT, 0o644)
            os.dup2(opened, descriptor)
            os.close(opened)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        tempfile.tempdir = None
        first, *rest = asked["command"]
        module = first == "-m"
        places = [asked["cwd"] if module else str(Path(first).absolute().parent)]
        places += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:] = [*places, *sys.path[1:]]
        if module:
            sys.argv = rest
            status = as_interpreter(lambda: runpy.run_module(rest[0], run_name="__main__", alter_sys=True))
        else:
            sys.argv = [first, *rest]
            status = as_interpreter(lambda: runpy.run_path(first, run_name="__main__"))
    finally:
        os._exit(status)
