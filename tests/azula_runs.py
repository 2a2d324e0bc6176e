"""azula's classes on the golden runs' problem: its own steps, our noise levels, its random numbers given.

azula's states are those of a variance-preserving process here, s x with s = 1 / sqrt(1 + sigma^2), so that units count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from posterior.priors import Prior

pytest.importorskip("azula")
import azula.denoise
import azula.noise
import azula.sample


def scale(sigma: float) -> float:
    """s, of a state at sigma."""
    return (1 + sigma**2) ** -0.5


class Levels(azula.noise.Schedule):
    """Noise levels at the times of as many steps: the first at 1, the last at 0."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.sigmas = sigmas

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigmas[round((1 - t.item()) * (len(self.sigmas) - 1))]
        return tuple(torch.tensor(value, dtype=torch.float64) for value in (scale(sigma), sigma * scale(sigma)))


class OurPrior(azula.denoise.Denoiser):
    """Our prior, as azula's samplers ask for it."""

    def __init__(self, prior: Prior, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.prior, self.schedule = prior, Levels(sigmas)

    def forward(self, x_t: Tensor, t: Tensor, **_: object) -> azula.denoise.DiracPosterior:
        alpha, sigma = self.schedule(t)
        return azula.denoise.DiracPosterior(self.prior.denoise(x_t / alpha, (sigma / alpha).item()))


def states(sampler: azula.sample.Sampler, x: Tensor, sigmas: Sequence[float]) -> list[Tensor]:
    """Every state after the first, in units of the data.

    Args:
        sampler: of as many steps as there are levels, less one.
        x: the first state, in units of the data.
        sigmas: the levels.
    """
    found, step = [], sampler.step

    def watched(*arguments: Tensor, **keywords: object) -> Tensor:
        found.append(step(*arguments, **keywords))
        return found[-1]

    sampler.step = watched
    sampler(scale(sigmas[0]) * x)
    return [state / scale(sigma) for state, sigma in zip(found, sigmas[1:], strict=True)]


def given(draws: Sequence[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.randn_like hands out these, in order; past the end, numbers that have no weight."""
    left: Iterator[Tensor] = iter(draws)
    monkeypatch.setattr(torch, "randn_like", lambda x, **_: next(left, torch.zeros_like(x)))
