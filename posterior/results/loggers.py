"""What a run tells Lightning's loggers (TensorBoard, CSV, Weights & Biases)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from posterior.metrics import RecordMeans, Summary
from posterior.results.journal import Record
from posterior.results.report import Report


def log_batch(loggers: Sequence[Logger], columns: dict[str, list[str]], records: Iterable[Record], step: int) -> None:
    """Means over a batch's images, as ``batch/<kind>/<metric>``; the step is the number of images before it."""
    if loggers:
        means = RecordMeans(columns, local=True)
        means.count(records)
        for logger in loggers:
            logger.log_metrics(_flat("batch/", means.compute()), step)


def log_run(loggers: Sequence[Logger], summary: Summary, report: Report, grid: Path) -> None:
    """The run's means and distances, and its grid to loggers that show pictures; the step is the number of images."""
    values = _flat("", summary)
    for network, found in report.distances.items():
        values |= {f"{k}/{network}": float(v) for k in ("fid", "kid") if isinstance(v := found[k], float)}
    for logger in loggers:
        logger.log_metrics(values, len(report.ids))
        if grid.is_file():
            _log_picture(logger, grid, len(report.ids))
        logger.save()
        logger.finalize("success")


def _flat(prefix: str, summary: Summary) -> dict[str, float]:
    return {
        f"{prefix}{kind}/{name}": float(value["mean"])
        for kind, means in summary.items()
        for name, value in means.items()
        if value["mean"] is not None
    }


def _log_picture(logger: Logger, path: Path, step: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        with Image.open(path) as picture:
            logger.experiment.add_image(path.stem, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(path.stem, [str(path)])
