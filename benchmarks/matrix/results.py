"""What runs of a matrix have found: means with intervals, paired differences."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.matrix.cells import Cell
from posterior.errors import UserError
from posterior.results.report import read_metrics
from posterior.results.report_folder import Run
from posterior.results.table import HEADINGS

NOT_METRICS = {"id", "sample", "picked"}
COMPARED = ("l2", "psnr", "ssim", "lpips_alex", "lpips_alex_x2", "lpips_vgg")
PAIRED = (*COMPARED, *(f"{name}_of_mean" for name in COMPARED))


@dataclass(frozen=True)
class Result:
    """What a cell has found.

    Args:
        task, sampler, seed: its place.
        config: its settings.
        dir: its folder.
        report: metrics.json.
        values: metric -> image id -> mean over the image's samples; ``METRIC_of_mean``: of their mean.
    """

    task: str
    sampler: str
    seed: int
    config: dict[str, Any]
    dir: Path
    report: dict[str, Any]
    values: dict[str, dict[str, float]]

    @classmethod
    def read(cls, cell: Cell) -> Result | None:
        """Of a cell that has run to its end under its settings; None of any other."""
        folder = cell.dir
        if not cell.ended:
            return None
        try:
            report = read_metrics(folder)
            with (folder / "per_image.csv").open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["sample"].isdigit() or row["sample"] == "mean"]
        except (OSError, UserError):
            return None
        grouped: dict[str, dict[str, list[float]]] = {}
        of_samples = {name for row in rows if row["sample"] != "mean" for name, text in row.items() if text}
        for row in rows:
            for name, text in row.items():
                if name not in NOT_METRICS and text:
                    column = f"{name}_of_mean" if row["sample"] == "mean" and name in of_samples else name
                    grouped.setdefault(column, {}).setdefault(row["id"], []).append(float(text))
        values = {name: {i: float(np.mean(v)) for i, v in by_id.items()} for name, by_id in grouped.items()}
        return cls(cell.task, cell.sampler, cell.seed, cell.config, folder, report, values)

    @classmethod
    def of_run(cls, task: str, sampler: str, seed: int, run: Run) -> Result:
        """Of a run as it is, finished or not; what metrics.json alone knows is left out where there is none."""
        try:
            report = read_metrics(run.folder)
        except UserError:
            report = {"images": run.num_complete, "failed": run.failed, "distances": {}}
        values: dict[str, dict[str, float]] = {}
        of_samples = set(run.summary.get("sample", {}))
        for image in run.images[: run.num_complete]:
            means = image.records.get("mean", {})
            for name in run.metrics:
                if found := image.values(name):
                    values.setdefault(name, {})[image.id] = float(np.mean(found))
                if name in means:
                    column = f"{name}_of_mean" if name in of_samples else name
                    values.setdefault(column, {})[image.id] = float(str(means[name]))
        return cls(task, sampler, seed, run.config(), run.folder, report, values)

    def distance(self, name: str) -> dict[str, float]:
        """FID or KID by feature network."""
        found = self.report.get("distances", {})
        return {network: one[name] for network, one in found.items() if one[name] is not None}


@dataclass(frozen=True)
class Estimate:
    """A mean over images, and half of its 95 % interval by Student's t (None for one image)."""

    mean: float
    half: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        count, half = len(values), None
        if count > 1:
            half = float(scipy.stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1)) / count**0.5
        return cls(float(np.mean(values)), half, count)

    def text(self, signed: bool = False) -> str:
        """Mean +- half width."""
        sign = "+" if signed else ""
        if float(self.mean).is_integer() and not self.half:
            return f"{self.mean:{sign}.0f}"
        return f"{self.mean:{sign}.4g}" + ("" if self.half is None else f" ± {self.half:.2g}")


def groups(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Seeds of the same task and sampler together."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.task, result.sampler), []).append(result)
    return found


def pooled(results: Sequence[Result], name: str) -> dict[str, float]:
    """An image's mean over seeds, for the images that all seeds have."""
    by_seed = [result.values.get(name, {}) for result in results]
    shared = set.intersection(*(set(values) for values in by_seed))
    return {i: float(np.mean([values[i] for values in by_seed])) for i in sorted(shared)}


def differences_of(own: Sequence[Result], base: Sequence[Result], name: str) -> list[float]:
    """On the images that both have, pooled over seeds."""
    ours, theirs = pooled(own, name), pooled(base, name)
    return [ours[i] - theirs[i] for i in ours if i in theirs]


def metric_rows(results: Sequence[Result]) -> list[list[str]]:
    """The table of metrics: head, then a row a task and sampler."""
    names = list(dict.fromkeys(name for result in results for name in result.values))
    networks = {kind: list(dict.fromkeys(n for r in results for n in r.distance(kind))) for kind in ("fid", "kid")}
    head = ["task", "sampler", "images", *(HEADINGS.get(name, name) for name in names)]
    head += [f"{kind.upper()} ({network})" for kind in networks for network in networks[kind]]
    rows = [head]
    for (task, sampler), own in groups(results).items():
        counts = "/".join(sorted({str(result.report["images"]) for result in own}))
        cells = []
        for name in names:
            values = list(pooled(own, name).values())
            cells.append(Estimate.of(values).text() if values else "-")
        for kind, of_kind in networks.items():
            for network in of_kind:
                found = [result.distance(kind).get(network) for result in own]
                known = [value for value in found if value is not None]
                cells.append(f"{np.mean(known):.4g}" if known else "-")
        rows.append([task, sampler, counts + (f" x {len(own)} seeds" if len(own) > 1 else ""), *cells])
    return rows


def paired_rows(results: Sequence[Result]) -> list[list[str]]:
    """Differences to the first sampler of a task on the same images: head and rows."""
    names = [name for name in PAIRED if any(name in result.values for result in results)]
    rows = [["task", "sampler", "beside", *(HEADINGS.get(name, name) for name in names)]]
    grouped = groups(results)
    for (task, sampler), own in grouped.items():
        base_name = next(other for t, other in grouped if t == task)
        if sampler == base_name:
            continue
        cells = []
        for name in names:
            differences = differences_of(own, grouped[task, base_name], name)
            cells.append(Estimate.of(differences).text(signed=True) if differences else "-")
        rows.append([task, sampler, base_name, *cells])
    return rows
