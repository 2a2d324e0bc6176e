"""Finished runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posterior.errors import UserError
from posterior.results.report import read_metrics
from posterior.results.table import HEADINGS, cell


def compare(runs: Sequence[Path], metrics: Sequence[str] | None = None, kind: str = "sample") -> None:
    """Print the metrics of several runs as a Markdown table, a row each: mean +- standard error over images.

    Args:
        runs: folders of finished runs.
        metrics: which, in this order; None: all that any run has.
        kind: of single samples ("sample"), of their mean ("mean"), or of picked ones ("best", "oracle").

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
