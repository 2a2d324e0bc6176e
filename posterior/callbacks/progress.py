"""Progress of a run: images, stage and step of the sampler, network calls a second, the time that is left."""

from __future__ import annotations

import time

import pytorch_lightning as pl
from torch import Tensor

from posterior.batch import Batch, Prediction
from posterior.callbacks.results import ResultWriter
from posterior.module import PosteriorSampling
from posterior.priors.base import Cost
from posterior.terminal import Status, duration, remark


class SamplingProgress(pl.Callback):
    """Of rank 0's images: two bars on a terminal, a line at some moments in a log (`posterior.terminal.Status`).

    The first bar is the run's, the second one the sampler's stage, with its level and step.

    Calls are counted by the prior as it is called, forward and backward, an image each: nothing waits for the device.
    The time that is left comes from the calls of the batches that are done; in the first batch, whose calls are not
    known yet, the stage says when it ends.

    Args:
        seconds_between_lines: the first moment of a log.
    """

    def __init__(self, seconds_between_lines: float = 20.0) -> None:
        self.seconds_between_lines = seconds_between_lines
        self.status: Status | None = None
        self.cost, self.before, self.counted = Cost(), 0, 0
        self.total = self.done = 0
        self.start = self.stage_start = 0.0
        self.stage = ""

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PosteriorSampling)
        if not trainer.is_global_zero:
            return
        data = ResultWriter.data(trainer)
        self.total, self.done = data.num_local_images, 0
        skipped = len(data.skip & set(data.ids))
        if skipped:
            remark(f"resuming: {skipped} images are complete")
        self.cost, self.counted, self.stage = pl_module.prior.cost, 0, ""
        self.before, self.start = self._all_calls(), time.monotonic()
        self.status = Status(self.seconds_between_lines)
        pl_module.observers.append(self.on_step)

    def on_step(self, stage: str, step: int, total: int, x: Tensor) -> None:
        """Called by the sampler after each step."""
        name = stage.partition(",")[0]
        if name != self.stage or step == 1:
            self.stage, self.stage_start = name, time.monotonic()
        self._tell(step / total, f"{stage}, step {step}/{total}{self._ends(step, total)}")

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
        self.counted, self.stage = self.calls, ""
        if self.total:
            self._tell(1.0, "batch sampled")

    def _all_calls(self) -> int:
        return self.cost.forward + self.cost.backward

    @property
    def calls(self) -> int:
        """Network calls of this run until now."""
        return self._all_calls() - self.before

    def _ends(self, step: int, total: int) -> str:
        """When the stage ends, in words, while the run's own end is not known."""
        if self.done or step == 1:
            return ""
        return f", ends in {duration((time.monotonic() - self.stage_start) / (step - 1) * (total - step))}"

    def _tell(self, share: float, stage: str) -> None:
        if self.status is None:
            return
        taken, run = time.monotonic() - self.start, f"{self.done} of {self.total} images done"
        if self.calls:
            run += f", {self.calls / max(taken, 1e-9):.3g} calls/s"
        if self.done:
            begun = self.done * self.calls / self.counted if self.counted else self.done  # images, with parts of them
            run += f", about {duration(taken / begun * max(0.0, self.total - begun))} left"
        self.status.tell((self.done / self.total, run), (share, stage))

    def _stop(self, pl_module: pl.LightningModule) -> None:
        if self.status is not None:
            self.status.close()
            self.status = None
        if isinstance(pl_module, PosteriorSampling) and self.on_step in pl_module.observers:
            pl_module.observers.remove(self.on_step)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop(pl_module)
