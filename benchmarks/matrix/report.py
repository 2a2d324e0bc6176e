"""The tables of a matrix of runs, and its page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.matrix.cells import Cell
from benchmarks.tools import html
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.results.report import read_metrics
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


def write_matrix_report(folder: Path, cells: Sequence[Cell]) -> None:
    """Write table.csv (a row a cell), table.md (a row a task and sampler, over seeds) and report.html.

    Raises:
        UserError: if no cell has run to its end; after the tables are written, if samplers of the same task and seed
            had other measurements.
    """
    results = [result for result in map(Result.read, cells) if result is not None]
    if not results:
        raise UserError(f"{folder}: no cell of the matrix has finished")
    compared, other = compare_measurements(results)
    write_whole(folder / "table.csv", csv_table(results).encode())
    table = markdown(results)
    write_whole(folder / "table.md", table.encode())
    missing = len(cells) - len(results)
    write_whole(folder / "report.html", page(folder.name, results, compared, other, missing).encode())
    print(table)
    print(f"report: {folder / 'report.html'}" + (f" ({missing} cells have not finished)" if missing else ""))
    if other:
        raise UserError(f"{len(other)} of {compared} measurements differ between samplers, first {other[0]}")


def compare_measurements(results: Sequence[Result]) -> tuple[int, list[str]]:
    """How many pictures of measurements were compared between samplers, and which differ by more than a grey level.

    (On other devices the last bit of A x, and with it the rounding of a pixel, may be another.)
    """
    first: dict[tuple[str, int, str], tuple[np.ndarray, str]] = {}
    compared, other = 0, []
    for result in results:
        for image_id in result.values.get("nfe_forward", {}):
            path = result.dir / "images" / image_id / "measurement.png"
            if not path.is_file():
                continue
            with Image.open(path) as picture:
                pixels = np.asarray(picture).astype(int)
            before, sampler = first.setdefault((result.task, result.seed, image_id), (pixels, result.sampler))
            if sampler == result.sampler:
                continue
            compared += 1
            if before.shape != pixels.shape or np.abs(before - pixels).max() > 1:
                other.append(f"{result.task}, seed {result.seed}, image {image_id}: {result.sampler} and {sampler}")
    return compared, other


def csv_table(results: Sequence[Result]) -> str:
    """A row a cell: mean and half of the 95 % interval of each metric, FID and KID, counts."""
    rows = []
    for result in results:
        row: dict[str, Any] = {"task": result.task, "sampler": result.sampler, "seed": result.seed}
        row |= {"images": result.report["images"], "failed": len(result.report["failed"])}
        for name, by_id in result.values.items():
            estimate = Estimate.of(list(by_id.values()))
            row |= {name: estimate.mean, f"{name}_half95": estimate.half}
        for kind in ("fid", "kid"):
            row |= {f"{kind}_{network}": value for network, value in result.distance(kind).items()}
        rows.append(row)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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
            ours, base = pooled(own, name), pooled(grouped[task, base_name], name)
            differences = [ours[i] - base[i] for i in ours if i in base]
            cells.append(Estimate.of(differences).text(signed=True) if differences else "-")
        rows.append([task, sampler, base_name, *cells])
    return rows


def markdown(results: Sequence[Result]) -> str:
    """Both tables: means with 95 % intervals over images, and paired differences."""
    parts = ["Means over images ± half a 95 % interval.", "", *html.pipes(metric_rows(results))]
    paired = paired_rows(results)
    if len(paired) > 1:
        parts += [
            "",
            "Differences on the same images and measurements ± half a 95 % interval.",
            "",
            *html.pipes(paired),
        ]
    return "\n".join(parts) + "\n"


def sweeps(results: Sequence[Result]) -> list[dict[str, float]]:
    """Samplers that differ in their step size alone, at least two: sampler -> step size."""
    found: dict[str, dict[str, float]] = {}
    for result in results:
        sampler = result.config["model"]["sampler"]
        arguments = dict(sampler.get("init_args", {}))
        step = arguments.pop("step_size", None)
        if step is not None:
            rest = json.dumps([sampler["class_path"], arguments], sort_keys=True)
            found.setdefault(rest, {})[result.sampler] = float(step)
    several = [steps for steps in found.values() if len(steps) > 1]
    return [steps for number, steps in enumerate(several) if steps not in several[:number]]  # once for all tasks


def step_size_figure(results: Sequence[Result], steps: Mapping[str, float]) -> Figure:
    """L2, and FID where there is one, over the step size; the other samplers as lines (as the paper's Figure 4)."""
    grouped = groups(results)
    tasks = list(dict.fromkeys(task for task, _ in grouped))
    networks = sorted({network for result in results for network in result.distance("fid")})
    rows = ["l2", *(f"FID ({network})" for network in networks)]
    figure = Figure(figsize=(3.8 * len(tasks) + 1.2, 2.8 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        own = {sampler: values for (other, sampler), values in grouped.items() if other == task}
        for row, measure in enumerate(rows):
            axes = panels[row, column]
            points = []
            for number, (sampler, cells) in enumerate(own.items()):
                estimate = _measure(cells, measure, networks)
                if estimate is None:
                    continue
                if sampler in steps:
                    points.append((steps[sampler], estimate.mean, estimate.half or 0.0))
                elif not _is_swept(sampler, results):
                    axes.axhline(estimate.mean, linestyle="--", color=f"C{number}", label=sampler)
            if points:
                axes.errorbar(*zip(*sorted(points), strict=True), marker="o", capsize=3, color="black", label="swept")
            axes.set(xscale="log", title=task if row == 0 else "", ylabel=measure if column == 0 else "")
            axes.set_xlabel("step size" if row == len(rows) - 1 else "")
    panels[0, -1].legend(fontsize="small")
    return figure


def _is_swept(sampler: str, results: Sequence[Result]) -> bool:
    return any(sampler in steps for steps in sweeps(results))


def _measure(cells: Sequence[Result], measure: str, networks: Sequence[str]) -> Estimate | None:
    if measure == "l2":
        values = list(pooled(cells, "l2").values())
        return Estimate.of(values) if values else None
    network = next(name for name in networks if measure == f"FID ({name})")
    found = [cell.distance("fid")[network] for cell in cells if network in cell.distance("fid")]
    return Estimate(float(np.mean(found)), None, len(found)) if found else None


def page(name: str, results: Sequence[Result], compared: int, other: Sequence[str], missing: int) -> str:
    """report.html: one file, pictures inside."""
    parts = [html.element("p", _about(results, compared, other, missing))]
    parts += ["<h2>Metrics</h2>", "<p>Means over images ± half a 95 % interval.</p>", html.table(metric_rows(results))]
    paired = paired_rows(results)
    if len(paired) > 1:
        parts += ["<h2>Differences</h2>", "<p>On the same images and measurements, ± half a 95 % interval.</p>"]
        parts.append(html.table(paired))
    for steps in sweeps(results):
        content = html.figure_png(step_size_figure(results, steps), dpi=110)
        caption = f"Over the step size: {', '.join(steps)}. Dashed: the other samplers."
        parts += ["<h2>Step size</h2>", html.picture(content, "png", caption)]
    parts.append("<h2>Pictures</h2>")
    for result in results:
        grid = result.dir / "grid.png"
        if grid.is_file():
            parts.append(html.picture(_small(grid), "jpeg", f"{result.task}, {result.sampler}, seed {result.seed}"))
    return html.document(name, parts)


def _about(results: Sequence[Result], compared: int, other: Sequence[str], missing: int) -> str:
    report = results[0].report
    versions = ", ".join(f"{key} {value}" for key, value in report["versions"].items())
    failed = sum(len(result.report["failed"]) for result in results)
    parts = [f"{len(results)} cells", f"{missing} not finished" if missing else "", f"{failed} failed images"]
    same = "all the same" if not other else f"{len(other)} NOT the same, first {other[0]}"
    parts += [f"{compared} pictures of measurements compared between samplers, {same}", report["device"], versions]
    return "; ".join(part for part in parts if part) + "."


def _small(path: Path, width: int = 1400) -> bytes:
    """A picture as JPEG, at most so wide."""
    with Image.open(path) as picture:
        shown = picture.convert("RGB")
    if shown.width > width:
        shown = shown.resize((width, round(shown.height * width / shown.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()
