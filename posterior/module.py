"""The LightningModule: it wires prior, sampler and metrics, and does no mathematics of its own."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from posterior import waits
from posterior.batch import Batch, Prediction
from posterior.checks import MOST_SAMPLES, whole
from posterior.errors import Diverged, UserError
from posterior.measurement import Measurement
from posterior.metrics import (
    FeatureDistance,
    Functional,
    ImageMetric,
    RecordMeans,
    SampleMetric,
    encode,
    standard_metrics,
)
from posterior.metrics.distribution import coverage
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, not_finite

log = logging.getLogger(__name__)

COST = ("nfe_forward", "nfe_backward", "seconds")
"""Per sample: forward and backward evaluations of the prior, and wall-clock seconds at the run's batch size."""


@functools.cache
def warn_once(reason: str) -> None:
    """Say it, but not for every run of a process."""
    log.warning(reason)


MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Precision of the trainer -> dtype of a network's matrix products."""


def check_precision(trainer: pl.Trainer) -> None:
    """Weights, states and averages stay in float32; mixed precision is the network's alone.

    Raises:
        UserError: if the trainer keeps them in anything else.
    """
    if str(trainer.precision).endswith("-true") and trainer.precision != "32-true":
        raise UserError(f"trainer.precision {trainer.precision} is not supported: 32-true, bf16-mixed or 16-mixed")


def lost(batch: Batch, reasons: dict[str, str]) -> Prediction:
    """What a batch leaves that has no samples: id -> reason, for all its images."""
    return Prediction(batch.keep([]), torch.empty(0), [], batch.failed | reasons)


def not_averageable(records: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Images with a number in their records that is not finite: id -> one line that names it."""
    reasons: dict[str, str] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                image_id = str(record["id"])
                reasons.setdefault(image_id, f"image {image_id}: {name} is {value}, which cannot be averaged")
    return reasons


class PosteriorSampling(pl.LightningModule):
    """Draws samples of p(x | y) for every image of a DataModule, and measures them.

    With K > 1 samples the mean's row has their standard deviation and, where the truth is known, `coverage`: the share
    of its numbers between the least and the greatest sample. It is (K - 1) / (K + 1) on average for truths of the
    prior and exact samples.

    Args:
        prior: the frozen prior.
        sampler: how samples are drawn.
        num_samples: K >= 1, samples (chains) per image, batched together.
        metrics: per-image metrics; None: `posterior.metrics.standard_metrics`.
        pick_best: also report, of each image's samples, the one with the smallest residual ("best", which needs no
            truth), and beside it the one nearest to the truth ("oracle"): for problems with ambiguous solutions, such
            as phase retrieval.
        distances: distances between the set of first samples and a reference set, e.g. FID.
        functionals: functions of images (N, C, H, W) -> (N,), whose posterior mean, interval and probability stand on
            each image's mean row (`Functional.columns`).
        sample_metrics: numbers for all samples of an image together, e.g. `posterior.metrics.CRPS`, where the truth is
            known; they stand on the mean row, too.

    Raises:
        UserError: if num_samples is out of range, pick_best has nothing to pick from, functionals or sample metrics no
            posterior, or two metrics, distances or functionals the same name.
    """

    def __init__(
        self,
        prior: Prior,
        sampler: Sampler,
        num_samples: int = 1,
        metrics: list[ImageMetric] | None = None,
        pick_best: bool = False,
        distances: list[FeatureDistance] | None = None,
        functionals: list[Callable[[Tensor], Any]] | None = None,
        sample_metrics: list[SampleMetric] | None = None,
    ) -> None:
        super().__init__()
        whole("model", "num_samples", num_samples, 1 + pick_best, MOST_SAMPLES)
        self.prior = prior.requires_grad_(False).eval()
        self.sampler = sampler
        self.num_samples = num_samples
        self.pick_best = pick_best
        self.metrics: list[ImageMetric] = standard_metrics() if metrics is None else metrics
        self._metric_modules = nn.ModuleList(self.metrics)  # so that their networks move to the device
        self.sample_metrics = sample_metrics or []
        self._sample_metric_modules = nn.ModuleList(self.sample_metrics)
        names = [metric.name for metric in self.metrics]
        of_samples = [metric.name for metric in self.sample_metrics]
        columns = {"sample": [*names, *COST], "mean": [*names, "std", "coverage", *of_samples]}
        if pick_best:
            columns |= {"best": names, "oracle": names}
        self.means = RecordMeans(columns)
        if len({*names, *of_samples}) < len(names) + len(of_samples):
            raise UserError("model.metrics: two of them have the same name")
        if of_samples and num_samples == 1:
            raise UserError("model.sample_metrics: one sample has no spread: num_samples must be 2 or more")
        if len({one.name for one in distances or []}) < len(distances or []):
            raise UserError("model.distances: each feature network may stand there once")
        self.distances = [one for one in distances or [] if not one.network.unavailable]
        self._unavailable = [one.network.unavailable for one in distances or [] if one.network.unavailable]
        self._distance_modules = nn.ModuleList(self.distances)
        self.functionals = [Functional.of(one) for one in functionals or []]
        self._functional_modules = nn.ModuleList([one for one in functionals or [] if isinstance(one, nn.Module)])
        if self.functionals and num_samples == 1:
            raise UserError("model.functionals: one sample has no interval: num_samples must be 2 or more")
        if len({one.name for one in self.functionals}) < len(self.functionals):
            raise UserError("model.functionals: two of them have the same name")
        self.observers: list[Observer] = []
        self._unfit: dict[tuple[int, ...], str | None] = {}

    def setup(self, stage: str) -> None:
        check_precision(self.trainer)
        for module in self.prior.modules():
            if isinstance(module, Prior):
                module.network_dtype = MIXED.get(str(self.trainer.precision))
        self.means.reset()
        if self.trainer.is_global_zero:
            reasons = [reason for metric in self.metrics if (reason := metric.unavailable)] + self._unavailable
            if reasons:
                warn_once("; ".join(dict.fromkeys(reasons)))

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction | None:
        """Samples of one batch with their records; None for an empty batch.

        Mixed precision is the prior's own affair (`Prior.network_dtype`): all that is here is in float32.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._predicted(batch)

    def _predicted(self, batch: Batch) -> Prediction | None:
        if batch.measurement is None:
            return Prediction(batch, torch.empty(0), [], batch.failed) if batch.failed else None
        if reason := self.unfit(batch.measurement.image_shape):
            return lost(batch, {image_id: f"image {image_id}: {reason}" for image_id in batch.ids})
        measurement = batch.measurement.repeat(self.num_samples)
        rng = Streams(batch.seed, batch.ids, self.num_samples, self.device)
        forward, backward, start = self.prior.cost.forward, self.prior.cost.backward, time.perf_counter()
        try:
            samples = self.sample(measurement, rng)
        except Diverged as error:  # those that it names are lost; the others have another try without them
            rest = [row for row, image_id in enumerate(batch.ids) if image_id not in error.reasons]
            if not 0 < len(rest) < len(batch.ids):
                return lost(batch, {image_id: error.reasons.get(image_id, str(error)) for image_id in batch.ids})
            again = self._predicted(batch.keep(rest))
            assert again is not None
            return replace(again, failed=again.failed | error.reasons)
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
        if unusable := not_averageable(records):
            failed |= unusable
            good = [row for row, image_id in enumerate(batch.ids) if image_id not in failed]
            batch, chains = batch.keep(good), chains[:, good]
            records = [record for record in records if record["id"] not in failed]
        self.means.count(records)
        return Prediction(batch, chains, records, batch.failed | failed)

    def unfit(self, image_shape: tuple[int, ...]) -> str | None:
        """Why the prior cannot be used for images of a shape, or None; each shape is looked at once."""
        if image_shape not in self._unfit:
            try:
                warning, self._unfit[image_shape] = self.prior.check_images(image_shape), None
                if warning:
                    warn_once(warning)
            except UserError as error:
                self._unfit[image_shape] = str(error)
        return self._unfit[image_shape]

    def sample(self, measurement: Measurement, rng: Streams) -> Tensor:
        """One sample per row, (R, C, H, W), float32.

        Raises:
            Diverged: if the sampler has found that no chain is finite.
            UserError: if it returns something else than real numbers of the right shape, or the device's memory is
                full.
        """
        name, expected = type(self.sampler).__name__, (len(rng), *measurement.image_shape)
        try:
            samples = self.sampler(self.prior, measurement, rng, self.observe)
        except torch.OutOfMemoryError as error:
            told = "lower batch_size or num_samples, or num_particles if it has some"
            raise UserError(f"{name}: out of memory with {len(rng)} chains at once: {told}") from error
        if not isinstance(samples, Tensor) or tuple(samples.shape) != expected:
            got = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
            raise UserError(f"{name} must return samples of shape {expected}, got {got}")
        if samples.dtype not in (torch.float32, torch.float64):
            raise UserError(f"{name} must return samples in torch.float32, got {samples.dtype}")
        return samples.detach().to(self.device, torch.float32)

    def observe(self, stage: str, step: int, total: int, x: Tensor) -> None:
        """Pass a sampler's state on to the observers."""
        for observer in self.observers:
            observer(stage, step, total, x)

    @torch.no_grad()
    def measure(self, batch: Batch, chains: Tensor, cost: dict[str, float]) -> list[dict[str, object]]:
        """Records of the samples (K, B, C, H, W), if K > 1 of their mean, and of the picked ones."""
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
            if batch.truth is not None:
                values["coverage"] = coverage(chains, batch.truth).tolist()
                for one in self.sample_metrics:
                    values[one.name] = waits.fetch("metric", one(chains, batch.truth))
            for functional in self.functionals:
                values |= {name: waits.fetch("functional", x) for name, x in functional.columns(chains).items()}
            records += [
                {"id": image_id, "sample": "mean"} | {name: column[row] for name, column in values.items()}
                for row, image_id in enumerate(batch.ids)
            ]
        if self.pick_best:
            scores = {"best": torch.stack([batch.measurement.relative_residual(samples) for samples in chains])}
            if batch.truth is not None:
                scores["oracle"] = (chains.clamp(-1, 1) - batch.truth).square().mean(dim=(2, 3, 4))
            for kind, score in scores.items():
                for row, number in enumerate(score.argmin(dim=0).tolist()):
                    picked = records[number * len(batch.ids) + row]
                    values_of = {name: value for name, value in picked.items() if name in self.means.columns[kind]}
                    records.append({"id": picked["id"], "sample": kind, "picked": number} | values_of)
        if self.distances:
            self.add_features(records[: len(batch.ids)], chains[0])
            if self.needs_true_features and batch.truth is not None:
                truths: list[dict[str, object]] = [{"id": image_id, "sample": "truth"} for image_id in batch.ids]
                self.add_features(truths, batch.truth)
                records += truths
        return records

    def add_features(self, records: list[dict[str, object]], images: Tensor) -> None:
        """Put each image's features into its record."""
        rows = {distance.name: distance.network(images) for distance in self.distances}
        for number, record in enumerate(records):
            record["features"] = {name: encode(features[number]) for name, features in rows.items()}

    @property
    def needs_true_features(self) -> bool:
        """Whether the true images are a reference set."""
        return any(distance.reference is None for distance in self.distances)

    def record_labels(self, truth_known: bool) -> set[str]:
        """The values of ``sample`` in the records of a complete image, as text."""
        labels = set(map(str, range(self.num_samples))) | ({"mean"} if self.num_samples > 1 else set())
        if self.needs_true_features and truth_known:
            labels.add("truth")
        return labels | ({"best", *(["oracle"] if truth_known else [])} if self.pick_best else set())

    def evaluate(self, x: Tensor, batch: Batch) -> dict[str, list[float]]:
        """All metrics that can be computed for images x (B, C, H, W): name -> one value per image."""
        assert batch.measurement is not None
        values = {}
        for metric in self.metrics:
            if (
                metric.unavailable
                or (metric.needs_truth and batch.truth is None)
                or min(x.shape[-2:]) < metric.least_side
                or (metric.channels is not None and x.shape[1] not in metric.channels)
            ):
                continue
            values[metric.name] = waits.fetch("metric", metric(x, batch.truth, batch.measurement))
        return values
