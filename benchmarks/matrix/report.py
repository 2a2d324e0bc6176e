"""The tables of a matrix of runs, and its page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.matrix.cells import Cell
from benchmarks.matrix.comparison import write_comparison
from benchmarks.matrix.results import Estimate, Result, groups, metric_rows, paired_rows, pooled
from benchmarks.tools import html
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.results.report_page import NAME
from posterior.results.report_shell import picture
from posterior.results.table import fitted
from posterior.terminal import say_place, say_result


def write_matrix_report(folder: Path, cells: Sequence[Cell]) -> None:
    """Write table.csv (a row a cell), table.md (a row a task and sampler, over seeds) and report.html; print the table.

    Raises:
        UserError: if no cell has run to its end; after the tables are written, if samplers of the same task and seed
            had other measurements.
    """
    results = [result for result in map(Result.read, cells) if result is not None]
    if not results:
        raise UserError(f"{folder}: no cell of the matrix has finished")
    compared, other = compare_measurements(results)
    write_whole(folder / "table.csv", csv_table(results).encode())
    write_whole(folder / "table.md", markdown(results).encode())
    missing = len(cells) - len(results)
    write_page(folder, results, compared, other, missing)
    for task in dict.fromkeys(result.task for result in results):
        head, *rows = metric_rows([result for result in results if result.task == task])
        columns = zip(*(row[1:] for row in [head, *rows]), strict=True)
        say_result(f"{task}\n{fitted(list(columns))}\n")
    say_place(f"report: {folder / NAME}" + (f" ({missing} cells have not finished)" if missing else ""))
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


def write_page(folder: Path, results: Sequence[Result], compared: int, other: Sequence[str], missing: int) -> None:
    """report.html: methods side by side, tables, and where step sizes differ what comes of them."""
    more = []
    for steps in sweeps(results):
        caption = f"Over the step size: {', '.join(steps)}. Dashed: the other samplers."
        content = html.figure_png(step_size_figure(results, steps), dpi=110)
        more.append(f"<section><h2>Step size</h2>{picture(content, 'png', caption)}</section>")
    told = _about(results, compared, other, missing)
    notice = f"This matrix has not come to its end: {missing} cells are missing." if missing else None
    write_comparison(folder, results, [told], notice, more)


def _about(results: Sequence[Result], compared: int, other: Sequence[str], missing: int) -> str:
    report = results[0].report
    versions = ", ".join(f"{key} {value}" for key, value in report["versions"].items())
    failed = sum(len(result.report["failed"]) for result in results)
    parts = [f"{len(results)} cells", f"{missing} not finished" if missing else "", f"{failed} failed images"]
    same = "all the same" if not other else f"{len(other)} NOT the same, first {other[0]}"
    parts += [f"{compared} pictures of measurements compared between samplers, {same}", report["device"], versions]
    return "; ".join(part for part in parts if part) + "."
