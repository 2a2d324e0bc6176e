"""Posterior sampling by annealed Langevin dynamics: Algorithms 1, 2 and 3 of the paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.checks import real
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.annealed import AnnealedSampler
from posterior.samplers.base import Observer


@dataclass(frozen=True)
class AnnealedLangevin(AnnealedSampler):
    """Langevin dynamics on p(x) p(y_i | x) while the noise of y_i is annealed down to the true level.

    Source: Xun, Gupta, Price, NeurIPS 2025, arXiv:2510.26324. Algorithm 1 without a warm start, Algorithm 3 with one,
    Algorithm 2 by `from_anchor` (docs/method.md sections 2 and 3); `AnnealedSampler` has what they target and the other
    settings. Departs from the published code: true adjoints, and the anchor term is there.

    Mind the step: Euler-Maruyama is stable for h L < 2, where L, the curvature, is at most
    Lip(score) + ||A||^2 / sigma_y^2 + 1 / anchor_sigma^2; in a direction of curvature L its variance is
    1 / (1 - h L / 2) times too large.

    With ``averaged_noise`` a step is x + h F(x) + sqrt(h / 2) (n_k + n_{k+1}), each normal number used twice: the
    overdamped limit of BAOAB (Leimkuhler and Matthews, Applied Mathematics Research eXpress 2013). At the same cost
    its law is exact in Gaussian directions at every stable h, and otherwise biased in O(h^2).

    Args:
        step_size: h > 0 of Euler-Maruyama (published, at 256x256: 5e-7 to 2e-5).
        averaged_noise: as above; False: Euler-Maruyama (published).

    Raises:
        UserError: if step_size is not > 0; and as `AnnealedSampler` does.
    """

    stage = "annealed Langevin"

    step_size: float
    averaged_noise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        real("AnnealedLangevin", "step_size", self.step_size, above=0)

    @property
    def schedule_step(self) -> float:
        return self.step_size

    def chain(
        self,
        prior: Prior,
        measurement: Measurement,
        x: Tensor,
        anchor: Tensor | None,
        rng: Streams,
        observe: Observer,
    ) -> Tensor:
        h, levels, done = self.step_size, self.levels(measurement), 0
        total = sum(level.num_steps for level in levels)
        noise = rng.randn_like("langevin", x) if self.averaged_noise else torch.empty(0)
        for i, (target, num_steps) in enumerate(self.targets(prior, measurement, levels, anchor, rng), start=2):
            for _ in range(num_steps):
                x = x + h * target.drift(x)
                if self.averaged_noise:
                    kept, noise = noise, rng.randn_like("langevin", x)
                    x = x + (h / 2) ** 0.5 * (kept + noise)
                else:
                    x = x + (2 * h) ** 0.5 * rng.randn_like("langevin", x)
                done += 1
                observe(self.at_level(i, levels), done, total, x)
        return x
