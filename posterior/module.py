"""The LightningModule: it wires prior, sampler and metrics, and does no mathematics of its own."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from posterior.batch import Batch, Prediction
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.metrics import ImageMetric, MeanOverImages, standard_metrics
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, not_finite

log = logging.getLogger(__name__)

COST = ("nfe_forward", "nfe_backward", "seconds")
"""Per sample: forward and backward evaluations of the prior, and wall-clock seconds at the run's batch size."""


class PosteriorSampling(pl.LightningModule):
    """Draws samples of p(x | y) for every image of a DataModule, and measures them.

    Args:
        prior: the frozen prior.
        sampler: how samples are drawn.
        num_samples: K >= 1, samples (chains) per image, batched together.
        metrics: per-image metrics; None: `posterior.metrics.standard_metrics`.

    Raises:
        UserError: if num_samples < 1.
    """

    def __init__(
        self, prior: Prior, sampler: Sampler, num_samples: int = 1, metrics: list[ImageMetric] | None = None
    ) -> None:
        super().__init__()
        if num_samples < 1:
            raise UserError(f"num_samples must be >= 1, got {num_samples}")
        self.prior = prior.requires_grad_(False).eval()
        self.sampler = sampler
        self.num_samples = num_samples
        self.metrics: list[ImageMetric] = standard_metrics() if metrics is None else metrics
        self._metric_modules = nn.ModuleList(self.metrics)  # so that their networks move to the device
        names = [metric.name for metric in self.metrics]
        self.sample_means = nn.ModuleDict({name: MeanOverImages() for name in [*names, *COST]})
        self.mean_means = nn.ModuleDict({name: MeanOverImages() for name in [*names, "std"]})
        self.observers: list[Observer] = []

    def setup(self, stage: str) -> None:
        if str(self.trainer.precision).endswith("-true") and self.trainer.precision != "32-true":
            raise UserError(
                f"trainer.precision {self.trainer.precision} is not supported: 32-true, bf16-mixed or 16-mixed"
            )
        for mean in [*self.sample_means.values(), *self.mean_means.values()]:
            assert isinstance(mean, MeanOverImages)
            mean.reset()
        if self.trainer.is_global_zero:
            for metric in self.metrics:
                if metric.unavailable:
                    log.warning(metric.unavailable)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction | None:
        """Samples of one batch with their records; None for an empty batch."""
        if batch.measurement is None:
            return Prediction(batch, torch.empty(0), [], batch.failed) if batch.failed else None
        measurement = batch.measurement.repeat(self.num_samples)
        rng = Streams(batch.seed, batch.ids, self.num_samples, self.device)
        forward, backward, start = self.prior.cost.forward, self.prior.cost.backward, time.perf_counter()
        samples = self.sample(measurement, rng)
        failed = not_finite(samples, rng, "the samples")
        cost = (
            (self.prior.cost.forward - forward) / len(rng),
            (self.prior.cost.backward - backward) / len(rng),
            (time.perf_counter() - start) / len(rng),
        )
        chains = samples.reshape(self.num_samples, len(batch.ids), *samples.shape[1:])
        good = [row for row, image_id in enumerate(batch.ids) if image_id not in failed]
        batch, chains = batch.keep(good), chains[:, good]
        records = self.measure(batch, chains, dict(zip(COST, cost, strict=True))) if good else []
        self.count(records)
        return Prediction(batch, chains, records, batch.failed | failed)

    def sample(self, measurement: Measurement, rng: Streams) -> Tensor:
        """One sample per row, (R, C, H, W).

        Raises:
            UserError: if the sampler returns something else, no chain is finite, or the device's memory is full.
        """
        name, expected = type(self.sampler).__name__, (len(rng), *measurement.image_shape)
        try:
            samples = self.sampler(self.prior, measurement, rng, self.observe)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{name}: out of memory with {len(rng)} chains at once: lower batch_size or num_samples"
            ) from error
        if not isinstance(samples, Tensor) or tuple(samples.shape) != expected:
            got = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
            raise UserError(f"{name} must return samples of shape {expected}, got {got}")
        return check_finite(samples, rng, "the samples")

    def observe(self, stage: str, step: int, total: int, x: Tensor) -> None:
        """Pass a sampler's state on to the observers."""
        for observer in self.observers:
            observer(stage, step, total, x)

    @torch.no_grad()
    def measure(self, batch: Batch, chains: Tensor, cost: dict[str, float]) -> list[dict[str, object]]:
        """Records of the samples (K, B, C, H, W) and, if K > 1, of their mean."""
        assert batch.measurement is not None
        records: list[dict[str, object]] = []
        for k, samples in enumerate(chains):
            values = self.evaluate(samples, batch)
            records += [
                {"id": image_id, "sample": k} | {name: column[row] for name, column in values.items()} | cost
                for row, image_id in enumerate(batch.ids)
            ]
        if self.num_samples > 1:
            values = self.evaluate(chains.mean(dim=0), batch)
            values["std"] = chains.var(dim=0).mean(dim=(1, 2, 3)).sqrt().tolist()
            records += [
                {"id": image_id, "sample": "mean"} | {name: column[row] for name, column in values.items()}
                for row, image_id in enumerate(batch.ids)
            ]
        return records

    def evaluate(self, x: Tensor, batch: Batch) -> dict[str, list[float]]:
        """All metrics that can be computed for images x (B, C, H, W): name -> one value per image.

        Raises:
            UserError: naming image and metric, if a value is not finite.
        """
        assert batch.measurement is not None
        values = {}
        for metric in self.metrics:
            if (
                metric.unavailable
                or (metric.needs_truth and batch.truth is None)
                or min(x.shape[-2:]) < metric.least_side
            ):
                continue
            values[metric.name] = metric(x, batch.truth, batch.measurement).tolist()
            for image_id, value in zip(batch.ids, values[metric.name], strict=True):
                if not math.isfinite(value):
                    raise UserError(f"image {image_id}: {metric.name} is {value}, which cannot be averaged")
        return values

    def count(self, records: list[dict[str, object]]) -> None:
        """Add whole images' records (new ones, or a resumed run's) to the means; samples of an image are averaged."""
        groups: dict[tuple[bool, object, str], list[float]] = defaultdict(list)
        for record in records:
            for name, value in record.items():
                if name not in ("id", "sample"):
                    groups[record["sample"] == "mean", record["id"], name].append(float(str(value)))
        for (of_mean, _, name), values in groups.items():
            means = self.mean_means if of_mean else self.sample_means
            if name in means:
                mean = means[name]
                assert isinstance(mean, MeanOverImages)
                mean.update(torch.tensor([sum(values) / len(values)]))

    def summary(self) -> dict[str, dict[str, dict[str, float | int | None]]]:
        """Means over all ranks' images: of single samples, and of the mean of each image's samples. Collective."""
        return {
            kind: {name: mean.compute() for name, mean in means.items() if isinstance(mean, MeanOverImages)}
            for kind, means in (("sample", self.sample_means), ("mean", self.mean_means))
        }
