"""Samplers from a file of settings with blanks, and how the blanks are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tools.building import built
from posterior.errors import Diverged, UserError
from posterior.measurement import Measurement
from posterior.priors import Prior
from posterior.random import Streams
from posterior.samplers import AnnealedLangevin, Sampler
from posterior.samplers.base import Observer
from posterior.settings import conformed, read_settings


@dataclass(frozen=True)
class StableLangevin(AnnealedLangevin):
    """`AnnealedLangevin` whose step is a share of its limit of stability, as that of `KineticLangevin` is.

    The limit is 2 / L, L = the prior's curvature where its score is read + ||A||^2 / sigma_y^2 + 1 / anchor_sigma^2.

    Args:
        step_size: the share, in (0, 1).
    """

    def chain(
        self, prior: Prior, measurement: Measurement, x: Tensor, anchor: Tensor | None, rng: Streams, observe: Observer
    ) -> Tensor:
        norm = measurement.linear_operator("StableLangevin").norm_bound()
        noise = measurement.gaussian_sigma("StableLangevin")
        curvature = prior.curvature(self.last_score_sigma(prior)) + (norm / noise) ** 2
        if anchor is not None and self.anchor_sigma is not None:
            curvature += self.anchor_sigma**-2
        stable = replace(self, step_size=self.step_size * 2 / curvature)
        return AnnealedLangevin.chain(stable, prior, measurement, x, anchor, rng, observe)


def read_samplers(path: Path, table: str, blanks: Mapping[str, float], only: str | None = None) -> dict[str, Sampler]:
    """The samplers of one table of a file, by name.

    Args:
        path: table -> name -> settings of a sampler, in which the names of ``blanks`` stand for numbers.
        table: of the file.
        blanks: the numbers.
        only: the name of the one that is wanted; None: all.

    Raises:
        UserError: if settings do not fit.
    """
    found, kinds = {}, {"sampler": Sampler}
    for name, settings in _filled(read_settings(path)[table], blanks).items():
        if only in (None, name):
            (found[name],) = built(conformed({"sampler": settings}, kinds), kinds, f"{path}: {name}")
    return found


def _filled(settings: Any, blanks: Mapping[str, float]) -> Any:
    if isinstance(settings, dict):
        return {key: _filled(value, blanks) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_filled(value, blanks) for value in settings]
    return blanks.get(settings, settings) if isinstance(settings, str) else settings


def best_scale(run: Callable[[float], Tensor], loss: Callable[[Tensor], float], scales: Sequence[float]) -> float:
    """The scale (or other setting) whose samples have the smallest loss; those at which chains diverge are left out.

    Raises:
        UserError: if chains diverge at every one.
    """
    losses = {}
    for scale in scales:
        try:
            samples = run(scale)
        except Diverged:
            continue
        if torch.isfinite(samples).all():
            losses[scale] = loss(samples)
    if not losses:
        raise UserError(f"chains diverge at every setting of {list(scales)}")
    return min(losses, key=losses.__getitem__)
