"""Finished runs side by side."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from benchmarks.matrix.comparison import write_comparison
from benchmarks.matrix.results import Result
from posterior.errors import UserError
from posterior.results.report import read_metrics
from posterior.results.report_folder import at, class_in_words, read_run
from posterior.results.table import HEADINGS, cell
from posterior.terminal import say_place

log = logging.getLogger(__name__)


def compare(
    runs: Sequence[Path],
    metrics: Sequence[str] | None = None,
    kind: str = "sample",
    output: Path = Path("results/compare"),
) -> None:
    """Print the metrics of several runs as a Markdown table, a row each, and write a page that shows them side by side.

    Cells are mean +- standard error over images. On the page runs of the same measurements (operator, noise and seed of
    their config.yaml) stand together, by task.

    Args:
        runs: folders of finished runs.
        metrics: which, in this order; None: all that any run has.
        kind: of single samples ("sample"), of their mean ("mean"), or of picked ones ("best", "oracle").
        output: folder of the page, report.html; that it cannot be written is a warning.

    Raises:
        UserError: if a folder holds no metrics.json, of this version, or not of this kind.
    """
    reports = {str(folder): read_metrics(Path(folder)) for folder in runs}
    for name, report in reports.items():
        if kind not in report["metrics"]:
            raise UserError(f"{name} has no {kind!r} among {', '.join(report['metrics'])}")
    found = {name for report in reports.values() for name, value in report["metrics"][kind].items() if value["count"]}
    order = [name for report in reports.values() for name in report["metrics"][kind]]
    names = list(metrics) if metrics else [name for name in dict.fromkeys(order) if name in found]
    rows = [["run", "images", *(HEADINGS.get(name, name) for name in names)]]
    for run, report in reports.items():
        values = report["metrics"][kind]
        rows.append([run, str(report["images"]), *(cell(values.get(name), report["images"]) for name in names)])
    rows.insert(1, ["-" * max(len(row[column]) for row in rows) for column in range(len(rows[0]))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |")
    try:
        results = results_of([Path(folder) for folder in runs])
        say_place(f"page: {write_comparison(Path(output), results, [f'{len(results)} runs side by side.'])}")
    except (UserError, OSError) as error:
        log.warning("no page could be written: %s", error)


def results_of(folders: Sequence[Path]) -> list[Result]:
    """What runs have found, each with its task; a run is called as its folder, or by its whole path if two are alike.

    Raises:
        UserError: if a folder holds no run.
    """
    names = [folder.resolve().name for folder in folders]
    found, tasks = [], dict[str, str]()
    for folder, name in zip(folders, names, strict=True):
        run = read_run(folder)
        data = at(run.config(), "data", "init_args")
        task = json.dumps([at(data, key) for key in ("operator", "likelihood", "seed")], sort_keys=True, default=str)
        title = class_in_words(at(data, "operator")) or "runs"
        if task not in tasks:
            tasks[task] = title if title not in tasks.values() else f"{title} ({len(tasks) + 1})"
        found.append(Result.of_run(tasks[task], name if names.count(name) == 1 else str(folder), 0, run))
    return found
