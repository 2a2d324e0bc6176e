"""Learning a prior: the LightningModule of `fit`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torchmetrics import MeanMetric

from posterior.checks import MOST_TRAINING_STEPS, length, real, whole
from posterior.errors import UserError
from posterior.module import check_precision, warn_once
from posterior.priors import DiffusionPrior, NoiseSchedule
from posterior.random import stream

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, fill the unit interval evenly."""


@dataclass(frozen=True)
class TrainingLevels:
    """At which noise levels a network is trained: log-normal as in Karras et al. (NeurIPS 2022), a part uniform in t.

    Args:
        log_mean: mean of log sigma, in [-50, 50].
        log_std: standard deviation of log sigma, > 0, at most 50.
        uniform: fraction in [0, 1] of levels spread evenly over the schedule's timesteps, so that none is forgotten.

    Raises:
        UserError: if a value is out of range.
    """

    log_mean: float = -0.9
    log_std: float = 1.4
    uniform: float = 0.15

    def __post_init__(self) -> None:
        real("TrainingLevels", "log_mean", self.log_mean, least=-50, most=50)  # e^50 is beyond any schedule
        real("TrainingLevels", "log_std", self.log_std, above=0, most=50)
        real("TrainingLevels", "uniform", self.uniform, least=0, most=1)

    def sigmas(self, u: np.ndarray, noise_schedule: NoiseSchedule) -> np.ndarray:
        """Levels (B,) within the schedule's range, from numbers ``u`` (B,) uniform in (0, 1)."""
        levels = noise_schedule.sigmas
        if self.uniform == 1:
            normal = np.zeros_like(u)
        else:
            quantiles = np.clip((u - self.uniform) / (1 - self.uniform), 1e-9, 1 - 1e-9)
            normal = np.exp(self.log_mean + self.log_std * norm.ppf(quantiles))
        position = u / max(self.uniform, 1e-9) * (len(levels) - 1)
        even = np.exp(np.interp(position, np.arange(len(levels)), np.log(levels)))
        return np.clip(np.where(u < self.uniform, even, normal), levels[0], levels[-1])


class DenoisingTraining(pl.LightningModule):
    """Trains a diffusion prior's network to denoise, and keeps a moving average of it, which is what gets used.

    The loss is the squared error of the network's output (noise, x0 or v, as the prior says), with one noise level an
    image, stratified over the batch. Batches are (images (B, C, H, W) in [-1, 1], their indices (B,)). Noise and levels
    depend on (seed, step, rank), those of the validation on the image's index: a resumed run goes on as it would have
    (only dropout, if there is any, draws other numbers).

    Args:
        prior: the prior to train; its checkpoint, if any, is where training starts.
        learning_rate: Adam's, after the warm-up, > 0, at most 10.
        warmup_steps: steps over which the rate rises from 0, >= 0.
        cooldown_steps: last steps of ``trainer.max_steps``, over which the rate falls linearly to 0, >= 0.
        ema_decay: decay of the moving average a step, in [0, 1); smaller at first, (1 + n) / (10 + n) after n steps.
        levels: at which noise levels to train.
        validation_sigmas: where the error of the denoised images is watched.
        seed: of noise and levels.

    Raises:
        UserError: if a number is out of range; on the first batch, if the prior cannot take images of that shape.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        learning_rate: float = 5e-4,
        warmup_steps: int = 500,
        cooldown_steps: int = 0,
        ema_decay: float = 0.999,
        levels: TrainingLevels | None = None,
        validation_sigmas: Sequence[float] = (0.05, 0.1, 0.3, 1.0, 3.0, 30.0),
        seed: int = 0,
    ) -> None:
        super().__init__()
        real("model", "learning_rate", learning_rate, above=0, most=10)
        whole("model", "warmup_steps", warmup_steps, 0, MOST_TRAINING_STEPS)
        whole("model", "cooldown_steps", cooldown_steps, 0, MOST_TRAINING_STEPS)
        real("model", "ema_decay", ema_decay, least=0, below=1)
        length("model", "validation_sigmas", validation_sigmas, 0, 100)
        for sigma in validation_sigmas:
            prior.check_range(sigma)
        self.average = copy.deepcopy(prior)
        self.prior = prior
        self.prior.network.requires_grad_(True)
        self.learning_rate = learning_rate
        self.warmup_steps, self.cooldown_steps = warmup_steps, cooldown_steps
        self.ema_decay = ema_decay
        self.levels = levels or TrainingLevels()
        self.validation_sigmas = list(validation_sigmas)
        self.seed = seed
        self._fitting: set[tuple[int, ...]] = set()
        self.train_loss = MeanMetric()
        self.val_loss = MeanMetric()
        self.errors = nn.ModuleList([MeanMetric() for _ in self.validation_sigmas])

    def setup(self, stage: str) -> None:
        if self.trainer.max_steps < 1:
            raise UserError("training needs trainer.max_steps")
        check_precision(self.trainer)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.prior.network.parameters(), lr=self.learning_rate, betas=(0.9, 0.99))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate: that of this run's settings, also in a resumed run."""
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * self.rate(self.global_step)

    def rate(self, step: int) -> float:
        """The learning rate at a step, as a fraction of `learning_rate`."""
        left = self.trainer.max_steps - step
        return min(1.0, (step + 1) / (self.warmup_steps + 1), max(0, left) / (self.cooldown_steps + 1))

    def on_train_start(self) -> None:
        self.prior.train()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        x0, _ = batch
        self.check_images(x0)
        generator = stream(self.seed, f"step {self.global_step}, batch {batch_idx}", self.global_rank, "training")
        offset = float(torch.rand((), generator=generator))
        sigma = self.levels.sigmas((np.arange(len(x0)) + offset) / len(x0), self.prior.noise_schedule)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device, non_blocking=True)
        loss = self.prior.training_error(x0, noise, sigma).square().mean()
        self.train_loss.update(loss.detach())
        return loss

    def check_images(self, x0: Tensor) -> None:
        """Compare a batch (B, C, H, W) with what the prior is for; each shape once.

        Raises:
            UserError: if the prior cannot take it.
        """
        shape = tuple(x0.shape[1:])
        if shape not in self._fitting:
            if warning := self.prior.check_images(shape):
                warn_once(warning)
            self._fitting.add(shape)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The moving average follows every step of the optimiser."""
        super().optimizer_step(*args, **kwargs)
        self.follow(self.global_step)

    def follow(self, step: int) -> None:
        """Move the average towards the weights, after ``step`` steps."""
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        pairs = zip(self.average.network.parameters(), self.prior.network.parameters(), strict=True)
        with torch.no_grad():
            for average, current in pairs:
                average.lerp_(current, 1 - decay)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Errors of the average, in full precision, with noise that is the same in every validation."""
        x0, indices = batch
        self.check_images(x0)
        names = [str(index) for index in indices.tolist()]
        generators = [stream(self.seed, name, -1, "validation") for name in names]
        with torch.autocast(x0.device.type, enabled=False):
            u = (np.array(indices.tolist()) * GOLDEN + 0.5) % 1
            noise = self._noise(x0, generators)
            sigma = self.levels.sigmas(u, self.average.noise_schedule)
            error = self.average.training_error(x0, noise, sigma)
            self.val_loss.update(error.square().mean(dim=(1, 2, 3)))
            for level, mean in zip(self.validation_sigmas, self.errors, strict=True):
                error = self.average.denoise(x0 + level * self._noise(x0, generators), level) - x0
                assert isinstance(mean, MeanMetric)
                mean.update(error.square().mean(dim=(1, 2, 3)))

    @staticmethod
    def _noise(x0: Tensor, generators: list[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in generators]).to(x0.device)

    def on_validation_epoch_end(self) -> None:
        """Log the losses, and the root mean squared error of x0 by noise level."""
        self.log("val_loss", self.val_loss.compute())
        self.val_loss.reset()
        for level, mean in zip(self.validation_sigmas, self.errors, strict=True):
            assert isinstance(mean, MeanMetric)
            self.log(f"rmse_{level:g}".replace(".", "_"), mean.compute().sqrt())
            mean.reset()
        if not self.trainer.sanity_checking:
            self.log("train_loss", self.train_loss.compute())
            self.train_loss.reset()
