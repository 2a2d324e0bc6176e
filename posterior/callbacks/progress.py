"""Progress of a run: images, and the steps of the sampler within the batch at hand."""

from __future__ import annotations

import sys
import time

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from posterior.batch import Batch, Prediction
from posterior.callbacks.results import ResultWriter
from posterior.module import PosteriorSampling


class SamplingProgress(pl.Callback):
    """Two bars on a terminal, rank 0's images and sampler steps; a line now and then where there is no terminal.

    Args:
        seconds_between_lines: least time between two lines, without a terminal.
    """

    def __init__(self, seconds_between_lines: float = 20.0) -> None:
        self.seconds_between_lines = seconds_between_lines
        self.live: Progress | None = None
        self.images: TaskID | None = None
        self.steps: TaskID | None = None
        self.total = self.done = 0
        self.last_line = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PosteriorSampling)
        if not trainer.is_global_zero:
            return
        data = ResultWriter.data(trainer)
        self.total, self.done = data.num_local_images, 0
        self.last_line = time.monotonic()
        skipped = len(data.skip & set(data.ids))
        if skipped:
            print(f"resuming: {skipped} images are complete", file=sys.stderr)
        if sys.stderr.isatty():
            self.live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.images = self.live.add_task("images", total=self.total)
            self.steps = self.live.add_task("steps", total=None)
            self.live.start()
        pl_module.observers.append(self.on_step)

    def on_step(self, stage: str, step: int, total: int, x: Tensor) -> None:
        """Called by the sampler after each step."""
        if self.live is not None and self.steps is not None:
            self.live.update(self.steps, description=stage, completed=step, total=total)
        elif time.monotonic() - self.last_line > self.seconds_between_lines:
            self._line(f"{stage}, step {step} of {total}")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Prediction | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.done += len(batch.ids) + len(batch.failed)
        if self.live is not None and self.images is not None:
            self.live.update(self.images, completed=self.done)
        elif trainer.is_global_zero and self.total and time.monotonic() - self.last_line > self.seconds_between_lines:
            self._line("batch sampled")

    def _line(self, what: str) -> None:
        self.last_line = time.monotonic()
        print(f"{self.done} of {self.total} images done; {what}", file=sys.stderr, flush=True)

    def _stop(self, pl_module: pl.LightningModule) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
        if isinstance(pl_module, PosteriorSampling) and self.on_step in pl_module.observers:
            pl_module.observers.remove(self.on_step)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop(pl_module)
