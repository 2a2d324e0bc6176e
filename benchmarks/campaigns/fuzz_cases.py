"""The fuzzer's cases: how each is made, run and judged."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import os
import random
import re
import runpy
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

import lightning_cli
from benchmarks.campaigns.forked import Ended, Task, run_all
from benchmarks.campaigns.fuzz_bases import Base, bases
from benchmarks.campaigns.mutations import (
    PATHS,
    STRANGE,
    Mutation,
    dumped,
    spoil_file,
    spoilt_command,
    spoilt_setting,
    spoilt_text,
    spoilt_tree,
    strange_files,
)
from benchmarks.campaigns.processes import contents
from posterior.settings import conformed

ROOT = Path(__file__).parents[2]
FIRST = {"config": 0, "file": 1_000_000, "matrix": 2_000_000}
"""Number of the first case of each family."""
MOST_MEMORY = 2048.0
"""MiB beyond an undisturbed run."""
CHECKED = {".png", ".zip", ".npz", ".pt"}
"""Formats with checksums: what is broken in them can be found."""
CELL = re.compile(r"\[\d+/\d+\] |\w+ / \w+ / seed ")
"""Lines of a matrix's progress, and of each of its cells that fails: they do not count."""
NEVER = {"unknown key", "unknown class", "no module", "command: unknown option"}
"""What must never end with 0."""
COUNTING = {"limit", "root", "path", "start", "count", "key", "class_path", "init_args", "data"}
"""Settings that decide how many images there are."""


@dataclass
class Case:
    """One run with something spoilt.

    Args:
        number, family, base: which.
        kind, told: what was spoilt.
        command: arguments of lightning_cli.py, or of ``python -m benchmarks``.
        outputs: folders that it may write into.
        counted: whether the number of images must be the undisturbed run's.
        lasts: whether it may be asked for very much, itself or by defaults, and then go on and on.
        file: the spoilt file, relative to the folder that it runs in.
        before: what was there before.
    """

    number: int
    family: str
    base: str
    kind: str
    told: str
    command: list[str]
    outputs: set[str] = field(default_factory=lambda: {"out"})
    counted: bool = True
    lasts: bool = False
    file: str = ""
    before: dict[str, tuple[int, int, int]] = field(default_factory=dict)


@dataclass
class Verdict:
    """What came of a case.

    Args:
        status: exit status; -n: killed by signal n; None: by the time limit.
        label: in a word; one of `problems` or ``result``, ``refused``, ``long``, ``harmless``, ``undetectable``.
        lines: on stderr, those not blank.
        traceback: whether stderr has one.
        seconds, memory: time, and MiB beyond the undisturbed run.
        outside: files outside the run's folder that came, went or changed.
        partial, left: ``*.partial`` files and processes that are left.
        problems: why the case is bad.
        stderr: its first lines.
    """

    status: int | None
    label: str
    lines: int
    traceback: bool
    seconds: float
    memory: float
    outside: list[str]
    partial: list[str]
    left: list[str]
    problems: list[str]
    stderr: str


Add = Callable[[Case, Verdict], None]
"""What takes the verdicts."""


class Campaign:
    """Makes cases, runs them and judges them.

    Args:
        work: folder for their files.
        seed: of the campaign.
        limit: seconds a case may take.
    """

    def __init__(self, work: Path, seed: int, limit: float) -> None:
        self.work, self.seed, self.limit = work, seed, limit
        self.bases = bases()
        self.memory: dict[str, float] = {}
        self.broken: set[str] = set()

    def run_bases(self, families: set[str], add: Add, jobs: int) -> None:
        """Run the undisturbed runs, and load the modules that they turn out to need; one that fails is a bad case."""
        wanted = {"matrix"} if families == {"matrix"} else set(self.bases) - ({"matrix"} - families)
        names = [name for name in self.bases if name in wanted]
        for again in (False, True):
            chosen = [(n, name) for n, name in enumerate(names) if self.bases[name].resumed or not again]
            for task, ended in run_all([self._base_task(n, name, again) for n, name in chosen], jobs):
                name = names[-1 - task.number]
                self.memory.setdefault(name, ended.memory)
                problems = self.counted(task.folder / "out", name) if ended.status == 0 else []
                if ended.status != 0 or ended.left or problems:
                    case = Case(task.number, "base", name, "undisturbed", "", self.command(self.bases[name]))
                    case.before = contents(task.folder)
                    verdict = self.judge(case, ended, task.folder)
                    verdict.problems, verdict.label = [*verdict.problems, "undisturbed", *problems], "undisturbed"
                    add(case, verdict)
                    self.broken.add(name)
        for listed in self.work.glob("*/modules"):
            for module in listed.read_text().split():
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
        for name in names:
            if self.bases[name].command == "predict":
                know_settings(self.bases[name].config)

    def _base_task(self, number: int, name: str, again: bool) -> Task:
        base, folder = self.bases[name], self.work / name / "tree"
        command = self.command(base)

        def call() -> None:
            known = set(sys.modules)
            if not again:
                base.files(folder / "inputs")
            try:
                run(command)
            finally:
                (folder.parent / "modules").write_text(
                    "\n".join(module for module in sys.modules if module not in known)
                )

        if not again:
            for inner in ("inputs", "home", "tmp"):
                (folder / inner).mkdir(parents=True)
            (folder / "config.yaml").write_bytes(dumped(base.config))
        return Task(-1 - number, call, folder, 120.0)

    @staticmethod
    def command(base: Base) -> list[str]:
        """The undisturbed run's."""
        return [base.command, "--config", "config.yaml"]

    def run(self, numbers: list[int], add: Add, jobs: int) -> None:
        """Run cases, and hand over what came of them."""
        cases: dict[int, Case] = {}

        def tasks() -> Iterator[Task]:
            for number in numbers:
                case = self.case(number)
                if case.base in self.broken:
                    shutil.rmtree(self.work / str(number))
                    continue
                cases[number] = case
                folder = self.work / str(number) / "tree"
                long = partial(at_work, folder / "out") if case.lasts else lambda pid: False
                yield Task(number, partial(run, case.command), folder, self.limit, long)

        for task, ended in run_all(tasks(), jobs):
            add(cases[task.number], self.judge(cases.pop(task.number), ended))
            if len(numbers) > 1:
                shutil.rmtree(task.folder.parent, ignore_errors=True)

    def case(self, number: int) -> Case:
        """Make a case and its folder."""
        family = max((f for f in FIRST if FIRST[f] <= number), key=lambda f: FIRST[f])
        rng = random.Random(f"{self.seed}/{number}")
        among = [n for n, base in self.bases.items() if (n == "matrix") == (family == "matrix")]
        name = rng.choice([n for n in among if family == "file" or not self.bases[n].resumed])
        base, folder = self.bases[name], self.work / str(number) / "tree"
        shutil.copytree(self.work / name / "tree" / "inputs", folder / "inputs", symlinks=True)
        if base.resumed:
            shutil.copytree(self.work / name / "tree" / "out", folder / "out", symlinks=True)
        for inner in ("home", "tmp"):
            (folder / inner).mkdir()
        strange_files(folder / "strange")
        if family == "file":
            case = self._spoilt_file(number, name, folder, rng)
        else:
            case = self._spoilt_config(number, family, name, folder, rng)
        case.before = contents(folder)
        return case

    def _spoilt_file(self, number: int, name: str, folder: Path, rng: random.Random) -> Case:
        base, inputs = self.bases[name], folder / "inputs"
        (folder / "config.yaml").write_bytes(text := dumped(base.config))
        there = [path for path in sorted((folder / "out" if base.resumed else inputs).rglob("*")) if path.is_file()]
        if not base.resumed:  # those that the settings name, on their own or by a folder
            named = [path for path in inputs.iterdir() if path.relative_to(folder).as_posix().encode() in text]
            there = [path for path in there if any(path.is_relative_to(one) for one in named)]
        roots = [self.work / other / "tree" / "inputs" for other in self.bases]
        others = [path for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
        path = rng.choice(there)
        kind, told = spoil_file(path, there + others, rng)
        where = path.relative_to(folder).as_posix()
        return Case(number, "file", name, f"{path.suffix} {kind}", f"{where}: {told}", self.command(base), file=where)

    def _spoilt_config(self, number: int, family: str, name: str, folder: Path, rng: random.Random) -> Case:
        base = self.bases[name]
        training = base.command == "fit"
        if family == "matrix":
            ways: list[Callable[[], Mutation]] = [lambda: spoilt_tree(base.config, rng)] * 3
        else:
            ways = [lambda: spoilt_setting(base.config, training, rng)] * 7
            ways += [lambda: spoilt_command(base.config, base.command, training, rng)] * 2
        mutation = rng.choice([*ways, *[lambda: spoilt_text(base.config, rng)] * (1 + (family != "matrix"))])()
        (folder / "config.yaml").write_bytes(mutation.text)
        command = [*self.command(base), *mutation.options] if mutation.command is None else mutation.command
        counted = not (
            mutation.place and COUNTING & {mutation.place[-1], mutation.place[0] if len(mutation.place) == 1 else None}
        )
        return Case(
            *(number, family, name, mutation.kind, mutation.told, command),
            outputs={"out", *_outputs(mutation)},
            counted=counted and "help" not in mutation.kind,
            lasts=mutation.kind not in PATHS and STRANGE not in mutation.told,
        )

    def judge(self, case: Case, ended: Ended, folder: Path | None = None) -> Verdict:
        """Look at what a case has left."""
        folder = folder or self.work / str(case.number) / "tree"
        error = (folder.parent / "stderr").read_text(encoding="utf-8", errors="replace")
        lines = [
            line for line in error.splitlines() if line.strip() and not (case.family == "matrix" and CELL.match(line))
        ]
        after = contents(folder)
        changed = [path for path in {*case.before, *after} if case.before.get(path) != after.get(path)]
        outside = sorted(path for path in changed if path in case.before or not _within(path, case.outputs))
        outside = [path for path in outside if not _within(path, {"out"})]
        cut = [path for path in after if path.endswith(".partial")]
        traceback = "Traceback (most recent call last)" in error
        memory = ended.memory - self.memory[case.base]
        killed = ended.status is None
        found = {
            "hang": killed and not ended.long,
            "traceback": traceback,
            "signal": ended.status is not None and ended.status < 0,
            "status": not killed and ended.status not in (0, 2) and not traceback,
            "says nothing": ended.status == 2 and not lines,
            "many lines": ended.status == 2 and len(lines) > 2 and not traceback,
            "memory": memory > MOST_MEMORY,
            "outside": bool(outside),
            "partial": bool(cut) and not killed,
            "processes left": bool(ended.left),
        }
        problems = [name for name, there in found.items() if there]
        label = "long" if ended.long else "refused" if ended.status == 2 else "result"
        if ended.status == 0:
            special = (
                "help" in case.kind
                or "fast_dev_run" in case.told
                or case.command[:1] not in (["predict"], ["fit"], ["matrix"])
            )
            problems += ["accepted"] if case.family == "config" and case.kind in NEVER else []
            problems += [] if special else self.counted(folder, case.base, case)
            if case.file:
                label = self.compared(case, folder)
                problems += ["silent"] if label == "silent" else []
        return Verdict(
            status=ended.status,
            label=problems[0] if problems else label,
            lines=len(lines),
            traceback=traceback,
            seconds=round(ended.seconds, 2),
            memory=round(memory),
            outside=outside[:10],
            partial=cut,
            left=ended.left,
            problems=problems,
            stderr="\n".join(line[:300] for line in (lines if len(lines) < 9 else [*lines[:3], "...", *lines[-5:]])),
        )

    def counted(self, folder: Path, name: str, case: Case | None = None) -> list[str]:
        """What is wrong with the numbers of a run that ended with 0."""
        base, problems = self.bases[name], []
        places = [folder] if case is None else [folder / output for output in case.outputs]
        folders = [place for place in places if os.path.isdir(place)]  # False of a name that is too long
        found = [path for place in folders for path in place.rglob("metrics.json") if path.is_file()]
        if base.command == "fit":
            there = any(
                path.name == "prior.safetensors" for path in folder.rglob("*.safetensors") if "inputs" not in path.parts
            )
            return [] if there else ["no result"]
        if not found:
            return ["no result"]
        for path in found:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                complete, failed = content["images"], content["failed"]
            except (ValueError, KeyError, TypeError):
                problems.append("no metrics")
                continue
            if not all(math.isfinite(number) for number in _numbers(content)):
                problems.append("not finite")
            wanted = 3 if base.images is None else base.images
            gone = case is not None and case.kind.endswith(" folder")  # no longer a file: one fewer
            allowed = {wanted, wanted - gone}
            if failed or (complete not in allowed and (case is None or case.counted)):
                problems.append("count")
        return problems

    def compared(self, case: Case, folder: Path) -> str:
        """Whether a spoilt file has changed the results of a run that ended with 0, and could have been found out."""
        path, resumed = folder / case.file, self.bases[case.base].resumed
        if (
            path.suffix == ".png"
            and not resumed
            and path.is_file()
            and not path.is_symlink()
            and not intact_png(path.read_bytes())
        ):
            return "silent"
        ours, theirs = (results(root / "out") for root in (folder, self.work / case.base / "tree"))
        if ours == theirs:
            return "harmless"
        other = case.kind.endswith((" another file", " folder"))
        return "silent" if path.suffix in CHECKED and not resumed and not other else "undetectable"


def run(command: list[str]) -> None:
    """What the command line does."""
    if command[:1] == ["matrix"]:
        sys.argv = ["benchmarks", *command]
        runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)
    else:
        sys.argv = [str(ROOT / "lightning_cli.py"), *command]  # with which Lightning starts other processes
        lightning_cli.main(command)


def know_settings(config: dict[str, Any]) -> None:
    """Read settings of `predict` as a run does, so that the parsers of their classes are there for all cases."""
    lightning_cli.quiet()
    cli, options, parts = lightning_cli.COMMANDS["predict"]
    asked = {"subcommand": "predict", "predict": conformed(config, parts)}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli(**options(lightning_cli.RunStarted()), args=asked, print_only=True, auto_configure_optimizers=False)


def at_work(output: Path, pid: int) -> bool:
    """Whether a process has begun its run, and computes."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return any(output.rglob("config.yaml")) and sum(map(int, times)) / os.sysconf("SC_CLK_TCK") > 2


def results(output: Path) -> dict[str, bytes]:
    """The files that hold a run's numbers: samples, truths, weights."""
    names = ("samples/**/*.npy", "images/**/truth.png", "prior.safetensors")
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for name in names
        for path in output.glob(name)
        if path.is_file()
    }


def intact_png(content: bytes) -> bool:
    """Whether all chunks up to the last one are there and meet their checksums; True if it is no PNG."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return True
    at = 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4])
        kind, body, end = content[at + 4 : at + 8], content[at + 8 : at + 8 + length], at + 8 + length
        if int.from_bytes(content[end : end + 4]) != zlib.crc32(kind + body) or len(content) < end + 4:
            return False
        if kind == b"IEND":
            return True
        at = end + 4
    return False


def _within(path: str, folders: set[str]) -> bool:
    return any(folder == "." or path == folder or path.startswith(f"{folder}/") for folder in folders)


def _outputs(mutation: Mutation) -> Iterator[str]:
    """The folders that the spoilt settings name as the run's own, with those above them."""
    named: list[Any] = [
        option.partition("=")[2] for option in mutation.options if option.startswith(("--output.dir=", "--dps."))
    ]
    named += mutation.options[1::2] + (mutation.command or [])[1:]
    with contextlib.suppress(Exception, RecursionError):
        config = yaml.safe_load(mutation.text)
        named += [config.get("dir"), config.get("output", {}).get("dir")]
    for name in named:
        if isinstance(name, (str, int, float)) and str(name).strip():
            path = os.path.normpath(str(name))
            yield path
            yield from (str(parent) for parent in Path(path).parents if str(parent) != ".")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value
