"""The LightningModule: it wires prior, sampler and metrics, and does no mathematics of its own."""

from __future__ import annotations

import logging
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
from posterior.samplers.base import Observer, Sampler, check_finite

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
        if self.trainer.is_global_zero:
            for metric in self.metrics:
                if metric.unavailable:
                    log.warning(metric.unavailable)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction | None:
        """Samples of one batch with their records; None for an empty batch."""
        if batch.measurement is None:
            return None
        measurement = batch.measurement.repeat(self.num_samples)
        rng = Streams(batch.seed, batch.ids, self.num_samples, self.device)
        forward, backward, start = self.prior.cost.forward, self.prior.cost.backward, time.perf_counter()
        samples = check_finite(self.sampler(self.prior, measurement, rng, self.observe), rng, "the samples")
        cost = (
            (self.prior.cost.forward - forward) / len(rng),
            (self.prior.cost.backward - backward) / len(rng),
            (time.perf_counter() - start) / len(rng),
        )
        records = self.measure(batch, measurement, samples, dict(zip(COST, cost, strict=True)))
        self.count(records)
        return Prediction(batch, samples.reshape(self.num_samples, len(batch.ids), *samples.shape[1:]), records)

    def observe(self, stage: str, step: int, total: int, x: Tensor) -> None:
        """Pass a sampler's state on to the observers."""
        for observer in self.observers:
            observer(stage, step, total, x)

    @torch.no_grad()
    def measure(
        self, batch: Batch, measurement: Measurement, samples: Tensor, cost: dict[str, float]
    ) -> list[dict[str, object]]:
        """Records of the samples (K * B, C, H, W) and, if K > 1, of their mean."""
        assert batch.measurement is not None
        truth = None if batch.truth is None else batch.truth.repeat(self.num_samples, 1, 1, 1)
        values = self.evaluate(samples, truth, measurement)
        records: list[dict[str, object]] = [
            {"id": batch.ids[row % len(batch.ids)], "sample": row // len(batch.ids)}
            | {name: column[row] for name, column in values.items()}
            | cost
            for row in range(len(samples))
        ]
        if self.num_samples > 1:
            chains = samples.reshape(self.num_samples, len(batch.ids), *samples.shape[1:])
            values = self.evaluate(chains.mean(dim=0), batch.truth, batch.measurement)
            values["std"] = chains.var(dim=0).mean(dim=(1, 2, 3)).sqrt().tolist()
            records += [
                {"id": image_id, "sample": "mean"} | {name: column[row] for name, column in values.items()}
                for row, image_id in enumerate(batch.ids)
            ]
        return records

    def evaluate(self, x: Tensor, truth: Tensor | None, measurement: Measurement) -> dict[str, list[float]]:
        """All metrics that can be computed for images x: name -> one value per image."""
        return {
            metric.name: metric(x, truth, measurement).tolist()
            for metric in self.metrics
            if not metric.unavailable and not (metric.needs_truth and truth is None)
        }

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
