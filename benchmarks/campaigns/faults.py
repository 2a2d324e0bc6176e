"""A run that is disturbed at any moment: it leaves no process, and the same command finishes it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaigns.forked import Forked
from benchmarks.campaigns.fuzz_bases import bases, pictures
from benchmarks.campaigns.mutations import dumped
from benchmarks.campaigns.processes import MARK, contents, kill, left_after, living
from benchmarks.campaigns.warm import Warm
from posterior.errors import UserError
from posterior.files import write_whole

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds after which no process may be left of a run that was killed."""
ENDS = {
    "kill first": (-signal.SIGKILL,),
    "kill second": (0, 1, 2, -signal.SIGTERM, -signal.SIGKILL),
    "SIGSTOP": (0,),
    "SIGINT": (130, -signal.SIGINT),
    "SIGTERM": (143, -signal.SIGTERM),
    "SIGHUP": (129, -signal.SIGHUP),
    "full disk": (2,),
    "reader gone": (0, 2, 141, -signal.SIGPIPE),
    "no stdout": (0,),
}
"""Disturbance -> exit statuses of the first process that are in order; 0 is too, where it came too late."""
KINDS = [f"{count} {fault}" for count in (1, 2) for fault in ENDS if (count, fault) != (1, "kill second")]
UNTOUCHED = {"SIGSTOP", "reader gone", "no stdout"}
"""Those that a run may outlive."""
CLOSED = -100
"""In place of a descriptor: none is open."""
Process = subprocess.Popen[bytes] | Forked
"""The first one of a run."""
PROGRESS = ("resuming: ", "Seed set to ", "Initializing distributed: ")

SHIM = '''"""No space below a folder once it holds so many bytes: for machines on which nothing can be mounted."""
import builtins, errno, io, os
folder, most = os.environ["FULL_FOLDER"], int(os.environ["FULL_BYTES"])
plain, low = io.open, os.open
def check(path, writes):
    if writes and isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(folder):
        used = sum(os.path.getsize(os.path.join(p, n)) for p, _, names in os.walk(folder) for n in names)
        if used > most:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
def opened(file, mode="r", *args, **kwargs):
    check(file, set(mode) & set("wax+"))
    return plain(file, mode, *args, **kwargs)
def low_opened(path, flags, *args, **kwargs):
    check(path, flags & (os.O_WRONLY | os.O_RDWR))
    return low(path, flags, *args, **kwargs)
io.open = builtins.open = opened
os.open = low_opened
'''


@dataclass
class Verdict:
    """What came of a disturbed run.

    Args:
        number, kind, moment: which run; its disturbance; when, in seconds from the start.
        status: of the first process; None: it had to be killed.
        applied: whether it came before the run's end.
        again: status of the same command afterwards, undisturbed.
        stderr: its last lines.
        left, partial, outside: processes, ``*.partial`` files, and files outside the run's folder.
        problems: why the case is bad.
    """

    number: int
    kind: str
    moment: float
    status: int | None = None
    applied: bool = True
    again: int | None = None
    stderr: str = ""
    left: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def faults(
    moments: int = 20,
    seed: int = 0,
    output: Path = Path("results/faults"),
    kinds: list[str] | None = None,
    earliest: float = 0.0,
    latest: float = 1.0,
    forked: list[int] | None = None,
) -> None:
    """Disturb small runs of `predict` at random moments; then the same command has to finish them.

    A disturbance is a signal to the first process, to the second, or (SIGINT and SIGHUP, as a terminal sends them) to
    all; a full disk; or a stdout that is closed. Writes faults.json, and goes on where it was stopped.

    Args:
        moments: of each kind of disturbance.
        seed: of the moments.
        output: folder of the report.
        kinds: number of processes and disturbance, e.g. "2 kill second"; None: all.
        earliest, latest: moments, as fractions of the time that an undisturbed run takes, start-up included.
        forked: numbers of processes of which also the runs that are disturbed are forked from one that has imported
            everything, so that no moment lies in the imports; the runs that finish them are so always. A disturbance
            that wants an interpreter of its own (no stdout, for one) gets one.

    Raises:
        UserError: if there are bad cases, an undisturbed run fails, or a kind is unknown.
    """
    chosen = KINDS if kinds is None else kinds
    if unknown := set(chosen) - set(KINDS):
        raise UserError(f"faults: there is no {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    path = Path(output) / "faults.json"
    known: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"seed": seed, "cases": []}
    )
    if known["seed"] != seed:
        raise UserError(f"{path} is of seed {known['seed']}: choose another output, or delete it")
    found = {(case["kind"], case["number"]): case for case in known["cases"]}
    work, warm = Path(tempfile.mkdtemp(prefix="faults-")), Warm()
    try:
        command = [sys.executable, "-c", "import matplotlib.font_manager"]  # which keeps a list of fonts
        subprocess.run(command, env=os.environ | {"MPLCONFIGDIR": str(work / "fonts")}, check=True)
        first = {count: warm if count in (forked or []) else None for count in {int(kind[0]) for kind in chosen}}
        references = {count: Reference.made(work, count, first[count]) for count in sorted(first)}
        for number in range(moments):
            for kind in chosen:
                if (kind, number) in found:
                    continue
                fraction = random.Random(f"{seed}/{kind}/{number}").uniform(earliest, latest)
                count = int(kind[0])
                verdict = disturbed(work / "case", number, kind, fraction, references[count], first[count], warm)
                found[kind, number] = asdict(verdict)
                write_whole(path, (json.dumps({"seed": seed, "cases": list(found.values())}, indent=1) + "\n").encode())
                told = ", ".join(verdict.problems) or "in order"
                print(f"{kind}, after {verdict.moment:.2f} s: {told}", file=sys.stderr, flush=True)
    finally:
        warm.end()
        shutil.rmtree(work, ignore_errors=True)
    bad = [case for case in found.values() if case["problems"]]
    for kind in KINDS:
        of_kind = [case for case in found.values() if case["kind"] == kind]
        counts = Counter(problem for case in of_kind for problem in case["problems"])
        if of_kind:
            problems = ", ".join(f"{n} {problem}" for problem, n in counts.most_common()) or "all in order"
            print(f"{kind:14s} {len(of_kind):4d} cases: {problems}")
    if bad:
        raise UserError(f"{len(bad)} of {len(found)} disturbed runs are bad: see {path}")


@dataclass
class Run:
    """A run's folder and command.

    Args:
        folder: where it stands: inputs, the run's folder ``out``, and what it must leave alone.
        count: number of processes.
    """

    folder: Path
    count: int

    @classmethod
    def prepared(cls, folder: Path, count: int) -> Run:
        """A new folder with pictures and configuration."""
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("inputs", "home", "tmp", "out"):
            (folder / name).mkdir(parents=True)
        pictures(folder / "inputs", [f"{letter}/{number}" for letter in "ab" for number in range(4)])
        config = bases()["langevin"].config
        config["model"]["sampler"]["init_args"]["schedule"]["init_args"] = {"growth": 0.01, "num_levels": 600}
        config["data"]["init_args"]["root"] = str(folder / "inputs" / "images")
        config["output"]["dir"] = str(folder / "out")
        (folder / "config.yaml").write_bytes(dumped(config))
        return cls(folder, count)

    @property
    def mark(self) -> str:
        """By which its processes are known."""
        return f"{os.getpid()}-{self.folder}"

    def command(self) -> list[str]:
        """As one types it, after the interpreter."""
        command = [str(ROOT / "lightning_cli.py"), "predict", "--config", "config.yaml"]
        return command + (["--trainer.devices", "2", "--trainer.strategy", "ddp"] if self.count > 1 else [])

    def start(self, warm: Warm | None = None, stdout: int | None = None, **environment: str) -> Process:
        """Start it in a session of its own; stderr goes into a file beside the folder.

        Args:
            warm: forks it, if nothing below is given; None: an interpreter is started.
            stdout: a descriptor, or `CLOSED`; None: what it says is dropped.
            environment: what it needs beyond a run's own.
        """
        own = {"HOME": "home", "TMPDIR": "tmp", "TORCH_HOME": "home/torch"}
        environ = os.environ | {name: str(self.folder / inner) for name, inner in own.items()} | environment
        environ |= {
            MARK: self.mark,
            "MPLCONFIGDIR": str(self.folder.with_name("fonts")),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if warm is not None and stdout is None and not environment:
            return warm.start(self.command(), self.folder, Path(os.devnull), self.stderr, environ)
        command, out = [sys.executable, *self.command()], subprocess.DEVNULL if stdout is None else stdout
        if stdout == CLOSED:
            command, out = ["sh", "-c", 'exec "$@" >&-', "sh", *command], subprocess.DEVNULL
        with self.stderr.open("wb") as file:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=file,
                start_new_session=True,
            )

    @property
    def stderr(self) -> Path:
        """What the last start has said."""
        return self.folder.with_name(self.folder.name + ".stderr")

    def said(self) -> list[str]:
        """The lines on stderr but for progress."""
        lines = self.stderr.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.strip() and not line.startswith(PROGRESS) and " images done" not in line]


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its numbers, time and size on disk."""

    samples: dict[str, np.ndarray]
    means: dict[str, Any]
    seconds: float
    size: int

    @classmethod
    def made(cls, work: Path, count: int, warm: Warm | None) -> Reference:
        """Run it, by `Run.start`.

        Raises:
            UserError: if it fails.
        """
        run = Run.prepared(work / f"undisturbed{count}", count)
        process, begun = run.start(warm), time.monotonic()
        if process.wait(timeout=600) != 0:
            raise UserError(f"faults: the undisturbed run of {count} processes fails: {' '.join(run.said())}")
        seconds = time.monotonic() - begun
        size = sum(path.stat().st_blocks * 512 for path in (run.folder / "out").rglob("*") if path.is_file())
        return cls(*numbers(run.folder / "out"), seconds, size)


def numbers(output: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Samples by file, and means but for those of seconds."""
    folder = output / "samples"
    samples = {path.relative_to(folder).as_posix(): np.load(path) for path in sorted(folder.rglob("*.npy"))}
    content = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    means = {
        f"{kind} {name}": value["mean"]
        for kind, values in content["metrics"].items()
        for name, value in values.items()
        if name != "seconds"
    }
    return samples, means | {"images": content["images"], "failed": len(content["failed"])}


def disturbed(
    folder: Path, number: int, kind: str, fraction: float, reference: Reference, first: Warm | None, again: Warm
) -> Verdict:
    """Start a run (by ``first``), disturb it, look at what is left, and start it again."""
    fault = kind[2:]
    run = Run.prepared(folder, int(kind[0]))
    before = contents(folder)
    verdict = Verdict(number, kind, fraction * reference.seconds)
    size = int(fraction * reference.size) if fault == "full disk" else None
    with small_disk(folder / "out", size) as room:
        reading, writing = os.pipe() if fault == "reader gone" else (-1, -1)
        stdout = {"reader gone": writing, "no stdout": CLOSED}.get(fault)
        process = run.start(first, stdout, **room)
        if writing >= 0:
            os.close(writing)
        try:
            disturb(run, process, fault, verdict, reading)
            patience = PATIENCE + (reference.seconds if fault in UNTOUCHED or fault == "full disk" else 0)
            with contextlib.suppress(subprocess.TimeoutExpired):
                verdict.status = process.wait(timeout=patience)
            verdict.left = left_after(process.pid, run.mark, patience if verdict.status is not None else 0)
            said = run.said()
            make_room(folder / "out")
            judge_end(verdict, fault, said)
            verdict.again = run.start(again).wait(timeout=PATIENCE + 10 * reference.seconds)
        except subprocess.TimeoutExpired:
            verdict.problems.append("again: hangs")
        finally:
            kill(process.pid, run.mark)
            process.wait()
        judge_again(verdict, run, reference, before)
    return verdict


def disturb(run: Run, process: Process, fault: str, verdict: Verdict, reading: int) -> None:
    """Wait for the moment and do it."""
    ended = time.monotonic() + verdict.moment
    while time.monotonic() < ended and process.poll() is None:
        time.sleep(0.005)
    target: int | None = process.pid
    while fault == "kill second" and process.poll() is None and (target := second(process.pid, run.mark)) is None:
        time.sleep(0.01)
    if reading >= 0:
        os.close(reading)
    verdict.applied = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        if fault in ("kill first", "kill second") and target is not None:
            os.kill(target, signal.SIGKILL)
        elif fault == "SIGTERM":
            process.terminate()
        elif fault in ("SIGINT", "SIGHUP"):
            os.killpg(process.pid, signal.Signals[fault])
        elif fault == "SIGSTOP":
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep(2)
            os.killpg(process.pid, signal.SIGCONT)


def second(session: int, mark: str) -> int | None:
    """Pid of the process that the first one has launched."""
    for pid in living(session, mark):
        with contextlib.suppress(OSError):
            if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
    return None


def judge_end(verdict: Verdict, fault: str, said: list[str]) -> None:
    """How the disturbed run has ended."""
    verdict.stderr = "\n".join(line[:300] for line in said[-8:])
    allowed = ENDS[fault] if verdict.applied and fault != "full disk" else (0, *ENDS[fault])
    if verdict.left or verdict.status is None:
        verdict.problems.append("processes left")
    elif verdict.status not in allowed:
        verdict.problems.append(f"status {verdict.status}")
    if any("Traceback (most recent call last)" in line for line in said):
        verdict.problems.append("traceback")
    most = int(verdict.kind[0]) if fault == "full disk" else 1  # each process has its own files
    if fault in ("SIGINT", "full disk") and verdict.status not in (0, None) and not 1 <= len(said) <= most:
        verdict.problems.append(f"{len(said)} lines on stderr")


def judge_again(verdict: Verdict, run: Run, reference: Reference, before: dict[str, tuple[int, int, int]]) -> None:
    """What the folder holds after the same command again."""
    after = contents(run.folder)
    outside = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    verdict.outside = sorted(path for path in outside if path != "out" and not path.startswith("out/"))
    verdict.partial = sorted(path for path in after if path.endswith(".partial"))
    verdict.problems += ["outside"] * bool(verdict.outside) + ["partial"] * bool(verdict.partial)
    if verdict.again != 0:
        verdict.problems.append(f"again: status {verdict.again}")
        verdict.stderr += "\nagain:\n" + "\n".join(line[:300] for line in run.said()[-8:])
        return
    samples, means = numbers(run.folder / "out")
    if samples.keys() != reference.samples.keys() or means.keys() != reference.means.keys():
        verdict.problems.append("again: other images or metrics")
        return
    if any(not np.allclose(samples[name], reference.samples[name], rtol=0, atol=1e-6) for name in samples):
        verdict.problems.append("again: other samples")
    for name, value in reference.means.items():
        other = means[name]
        if other != value and (None in (value, other) or abs(other - value) > 1e-6 * max(1, abs(value))):
            verdict.problems.append(f"again: another {name}")


@contextlib.contextmanager
def small_disk(folder: Path, size: int | None) -> Iterator[dict[str, str]]:
    """A file system of ``size`` bytes at a folder; what a run's environment needs for it, where none can be mounted."""
    if size is None:
        yield {}
        return
    command = ["mount", "-t", "tmpfs", "-o", f"size={max(8192, size)}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    if mounted:
        try:
            yield {}
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
        return
    shim = folder.parent.with_name("shim")
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(SHIM, encoding="utf-8")
    yield {"PYTHONPATH": str(shim), "FULL_FOLDER": str(folder), "FULL_BYTES": str(size)}


def make_room(folder: Path) -> None:
    """Make the small file system larger."""
    if folder.is_mount():
        subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], capture_output=True, check=True)
