"""Spoilt settings, command lines and files: each has to end in a result or in one line that says what is wrong."""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.campaigns.fuzz_cases import FIRST, ROOT, Campaign, Case, Verdict
from posterior.errors import UserError
from posterior.files import write_whole


def fuzz(
    configs: int = 300,
    files: int = 200,
    matrices: int = 20,
    seed: int = 0,
    output: Path = Path("results/fuzz"),
    limit_seconds: float = 20.0,
    jobs: int = 2,
    only: int | None = None,
) -> None:
    """Run small runs with a setting, a command line or a file spoilt; each must end with 0, or with 2 and one line.

    Writes fuzz.json: counts by what was spoilt and what came of it, all bad cases, and those that ended with a result.
    The same command goes on where it was stopped, also to larger numbers of cases.

    A case is bad if it ends otherwise, with a traceback, with none or more than two lines on stderr, not at all, with
    2 GiB more than an undisturbed run takes, with NaN or another number of images in metrics.json, with a file
    outside its folder or a half-written one within, with processes left behind; if it accepts a key or class that is
    not there; or if a spoilt file whose format has checksums changes the results. A file without checksums that is
    read as something else is counted as undetectable, a run that does the very much it was asked for as long.

    Args:
        configs: cases with a spoilt configuration or command line of `lightning_cli.py`.
        files: cases with a spoilt file, of those that a run reads.
        matrices: cases with a spoilt file of `python -m benchmarks matrix`.
        seed: of what is spoilt; with a case's number it decides the case.
        output: folder of the report.
        limit_seconds: after so long a case is killed, and counts as one that hangs.
        jobs: cases at a time.
        only: run this case alone, and keep its folder.

    Raises:
        UserError: if there are bad cases (an undisturbed run that fails is one), or the folder holds a report of
            another seed.
    """
    if threading.active_count() > 1:
        raise UserError("fuzz: needs a process without threads, as it forks: start it with python -m benchmarks fuzz")
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of processes that a case starts
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path not in ("", str(ROOT)))]
    report = Report.read(Path(output) / "fuzz.json", seed)
    wanted = {"config": configs, "file": files, "matrix": matrices}
    numbers = [FIRST[family] + n for family, count in wanted.items() for n in range(count)]
    if only is not None:
        numbers, report = [only], Report(None, seed)
    numbers = [number for number in numbers if number not in report.done]
    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    parent = os.getpid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder goes
    try:
        campaign = Campaign(work, seed, limit_seconds)
        families = {family for family, first in FIRST.items() if any(first <= n < first + 1_000_000 for n in numbers)}
        campaign.run_bases(families, report.add, jobs)
        campaign.run(numbers, report.add, jobs)
        if only is not None:
            kept = Path(output) / f"case_{only}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(work / str(only), kept, symlinks=True, ignore=_no_files)
            print(json.dumps(report.last, indent=2), f"\n{kept}")
    finally:
        if os.getpid() == parent:
            shutil.rmtree(work, ignore_errors=True)
    report.write()
    print(report.table())
    if report.bad:
        where = Path(output) / ("fuzz.json" if only is None else f"case_{only}")
        raise UserError(f"{len(report.bad)} of {len(report.done)} cases are bad: see {where}")


def _no_files(folder: str, names: list[str]) -> list[str]:
    """FIFOs are not copied."""
    return [name for name in names if Path(folder, name).is_fifo()]


class Report:
    """What is known of a campaign, and its file.

    Args:
        path: the file; None: none is written.
        seed: of the campaign.
    """

    def __init__(self, path: Path | None, seed: int) -> None:
        self.path, self.seed = path, seed
        self.done: set[int] = set()
        self.counts: dict[str, dict[str, int]] = {}
        self.bad: list[dict[str, Any]] = []
        self.accepted: dict[str, str] = {}
        self.last: dict[str, Any] = {}
        self.written = time.monotonic()

    @classmethod
    def read(cls, path: Path, seed: int) -> Report:
        """Of an earlier start, or an empty one.

        Raises:
            UserError: if it is one of another seed.
        """
        found = cls(path, seed)
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["seed"] != seed:
                raise UserError(f"{path} is of seed {content['seed']}: choose another output, or delete it")
            found.done, found.counts = {n for n in content["done"] if n >= 0}, content["counts"]
            found.bad = [bad for bad in content["bad"] if bad["number"] >= 0]  # undisturbed runs are run again
            found.counts.pop("base: undisturbed", None)
            found.accepted = content["accepted"]
        return found

    def add(self, case: Case, verdict: Verdict) -> None:
        """Count a case."""
        self.done.add(case.number)
        counts = self.counts.setdefault(f"{case.family}: {case.kind}", {})
        counts[verdict.label] = counts.get(verdict.label, 0) + 1
        what = {"seed": self.seed, **{k: v for k, v in asdict(case).items() if k not in ("before", "outputs")}}
        self.last = what | asdict(verdict)
        if verdict.problems:
            self.bad.append(self.last)
        elif verdict.status == 0:
            self.accepted[str(case.number)] = f"{case.base}, {case.kind}: {case.told}: {verdict.label}"
        if time.monotonic() - self.written > 5:
            self.written = time.monotonic()
            self.write()
            print(f"{len(self.done)} cases, {len(self.bad)} bad", file=sys.stderr, flush=True)

    def write(self) -> None:
        """Write the file."""
        if self.path is not None:
            bad = sorted(self.bad, key=lambda one: one["number"])
            content = {"seed": self.seed, "counts": self.counts, "bad": bad, "done": sorted(self.done)}
            content["accepted"] = self.accepted
            write_whole(self.path, (json.dumps(content, indent=1) + "\n").encode())

    def table(self) -> str:
        """Counts by family and label, and of the kinds that have bad cases."""
        total: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for kind, counts in self.counts.items():
            total[kind.partition(":")[0]].update(counts)
        told = [
            f"{family:8s} {', '.join(f'{n} {label}' for label, n in counts.most_common())}"
            for family, counts in total.items()
        ]
        problems = collections.Counter((bad["family"], bad["kind"], bad["label"]) for bad in self.bad)
        told += [f"  {n:4d} {family}, {kind}: {label}" for (family, kind, label), n in sorted(problems.items())]
        return "\n".join(told)
