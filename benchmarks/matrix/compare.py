"""Finished runs side by side."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.matrix.comparison import write_comparison
from benchmarks.matrix.results import Result
from posterior.callbacks.record import changes_nothing
from posterior.errors import UserError
from posterior.results.report import read_metrics
from posterior.results.report_folder import at, class_in_words, read_run
from posterior.results.table import HEADINGS, cell, fitted
from posterior.settings.places import exists, real, start_of
from posterior.terminal import say_place

log = logging.getLogger(__name__)


def compare(
    runs: Sequence[Path],
    metrics: Sequence[str] | None = None,
    kind: str = "sample",
    output: Path = Path("results/compare"),
) -> None:
    """Print the metrics of several runs as a table, a row each, and write a page that shows them side by side.

    Cells are mean +- standard error over images; what does not fit 80 columns goes into a block below. On the page runs
    of the same measurements (the same data in their config.yaml: images, operator, noise, seed) stand together, by
    task.

    Args:
        runs: folders of finished runs.
        metrics: which, in this order; None: all that any run has.
        kind: of single samples ("sample"), of their mean ("mean"), or of picked ones ("best", "oracle").
        output: folder of the page, report.html; that it cannot be written is a warning.

    Raises:
        UserError: if a folder holds no metrics.json, of this version, or not of this kind.
    """
    folders = [Path(folder) for folder in runs]
    reports = [read_metrics(folder) for folder in folders]
    for folder, report in zip(folders, reports, strict=True):
        if kind not in report["metrics"]:
            raise UserError(f"{folder} has no {kind!r} among {', '.join(report['metrics'])}")
    found = {name for report in reports for name, value in report["metrics"][kind].items() if value["count"]}
    order = [name for report in reports for name in report["metrics"][kind]]
    names = list(metrics) if metrics else [name for name in dict.fromkeys(order) if name in found]
    rows = [["run", "images", *(HEADINGS.get(name, name) for name in names)]]
    for run, report in zip(called(folders), reports, strict=True):
        values = report["metrics"][kind]
        rows.append([run, str(report["images"]), *(cell(values.get(name), report["images"]) for name in names)])
    print(fitted(rows))
    try:
        results = results_of(folders)
        say_place(f"page: {write_comparison(Path(output), results, [f'{len(results)} runs side by side.'])}")
    except (UserError, OSError) as error:
        log.warning("no page could be written: %s", error)


def results_of(folders: Sequence[Path]) -> list[Result]:
    """What runs have found, each with its task.

    Raises:
        UserError: if a folder holds no run.
    """
    found, tasks = [], dict[str, str]()
    for folder, name in zip(folders, called(folders), strict=True):
        run = read_run(folder)
        data = at(run.config(), "data")
        task = measured_by(data, start_of(folder / "config.yaml")) or str(folder)
        title = class_in_words(at(data, "init_args", "operator")) or "runs"
        if task not in tasks:
            tasks[task] = title if title not in tasks.values() else f"{title} ({len(tasks) + 1})"
        found.append(Result.of_run(tasks[task], name, 0, run))
    return found


def called(folders: Sequence[Path]) -> list[str]:
    """What runs are called: as their folders, or by the whole paths of two that are alike."""
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for folder, name in zip(folders, names, strict=True)]


def measured_by(data: Any, start: Path) -> str | None:
    """What decides the measurements of a run, as text; None if there is nothing.

    Args:
        data: the section of its settings.
        start: the folder that paths in them are relative to: one file is the same by whatever path.
    """
    arguments = at(data, "init_args")
    if not isinstance(arguments, dict):
        return None
    decisive = {
        key: located(value, start) for key, value in arguments.items() if not changes_nothing(f"data.init_args.{key}")
    }
    return json.dumps([at(data, "class_path"), decisive], sort_keys=True, default=str)


def located(value: Any, start: Path) -> Any:
    """Settings in which each path of something there is whole, without links."""
    if isinstance(value, dict):
        return {key: located(one, start) for key, one in value.items()}
    if isinstance(value, list):
        return [located(one, start) for one in value]
    return str(real(start / value)) if isinstance(value, str) and value and exists(start / value) else value
