"""Compressed sensing: the error of posterior samples beside that of the LASSO that they start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.tools.pooled import PooledStreams
from benchmarks.tools.tables import interval, write_rows
from benchmarks.truth.exact_posterior import best_scale
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise
from posterior.operators import SubsampledTransform
from posterior.priors import GaussianMixturePrior
from posterior.random import stream
from posterior.samplers import AnnealedLangevin, GeometricAnnealing, Lasso, RespacedSigmas, ReverseDiffusion

THRESHOLDS = (1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass
class SensingRow:
    """One share of the coefficients; ||x - truth|| / ||truth||, means over images and half of 95 % intervals."""

    share: float
    measurements: int
    threshold: float
    lasso: float
    lasso_half: float
    algorithm_3: float
    algorithm_3_half: float
    difference: float
    """Paired, in % of the LASSO's mean."""
    difference_half: float
    within_twice: float
    """Share of the images whose sample is within twice the LASSO's mean error, the r of Corollary 1.3."""


def sensing(
    prior: GaussianMixturePrior,
    output: Path,
    shares: Sequence[float],
    num_images: int,
    calls: int,
    sigma_y: float,
    seed: int,
) -> list[SensingRow]:
    """Random-sign DCT coefficients of images drawn from the prior; writes sensing.csv and sensing.png.

    Corollary 1.3: where a naive algorithm is within r of the truth (with high probability), posterior samples can be
    drawn from its estimate; and a posterior sample is within 2 r with high probability, whatever the algorithm was.

    Args:
        prior: whose images are measured.
        output: folder.
        shares: of the coefficients.
        num_images: a share.
        calls: Langevin steps.
        sigma_y: noise.
        seed: of everything.
    """
    shape = tuple(prior.means.shape[1:])
    rows = []
    for share in shares:
        truth, measurement = _measured(prior, share, num_images, sigma_y, seed)
        other, other_measurement = _measured(prior, share, 8, sigma_y, seed + 1)
        pool = PooledStreams(8, seed)

        def start(threshold: float, measurement: Measurement = other_measurement, pool: PooledStreams = pool) -> Tensor:
            return Lasso(threshold)(prior, measurement, pool)

        def error(x: Tensor, truth: Tensor = other) -> float:
            return float(_errors(x, truth).mean())

        threshold = best_scale(start, error, THRESHOLDS)
        radius = float((start(threshold) - other).square().mean().sqrt())
        step = 0.8 * 2 / (prior.curvature(prior.sigma_min) + sigma_y**-2 + radius**-2)
        sampler = AnnealedLangevin(
            step,
            averaged_noise=True,
            warm_start=Lasso(threshold),
            anchor_sigma=radius,
            reverse=ReverseDiffusion(RespacedSigmas(50)),
            schedule=GeometricAnnealing(calls),
        )
        lasso = _errors(Lasso(threshold)(prior, measurement, PooledStreams(num_images, seed)), truth)
        found = _errors(sampler(prior, measurement, PooledStreams(num_images, seed)), truth)
        difference = interval(found - lasso)
        rows.append(
            SensingRow(
                share,
                round(share * shape[1] * shape[2]) * shape[0],
                threshold,
                *interval(lasso),
                *interval(found),
                100 * difference[0] / float(lasso.mean()),
                100 * difference[1] / float(lasso.mean()),
                float((found <= 2 * lasso.mean()).mean()),
            )
        )
        print(_line(rows[-1]), flush=True)
    write_rows(output / "sensing.csv", rows)
    _draw(rows, output / "sensing.png")
    print(f"picture: {output / 'sensing.png'}")
    return rows


def _measured(
    prior: GaussianMixturePrior, share: float, count: int, sigma_y: float, seed: int
) -> tuple[Tensor, Measurement]:
    truth = prior.sample(count, stream(seed, "sensing", -1, "truth"))
    streams = [stream(seed, f"{number}", -1, "operator") for number in range(count)]
    operator = SubsampledTransform(share).realise(truth.shape[1:], streams)
    noise = torch.randn(truth.shape, generator=stream(seed, "sensing", -1, "noise"))
    return truth, Measurement.simulate(truth, operator, GaussianNoise(sigma_y), noise)


def _errors(x: Tensor, truth: Tensor) -> np.ndarray:
    return ((x - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).numpy()


def _line(row: SensingRow) -> str:
    return (
        f"compressed sensing, {row.share:.0%} measured: LASSO {row.lasso:.3f} +- {row.lasso_half:.3f}, Algorithm 3 "
        f"{row.algorithm_3:.3f} +- {row.algorithm_3_half:.3f}, difference {row.difference:+.0f} +- "
        f"{row.difference_half:.0f} %, within 2 r {row.within_twice:.0%}"
    )


def _draw(rows: Sequence[SensingRow], path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    shares = [row.measurements for row in rows]
    axes.errorbar(shares, [row.lasso for row in rows], [row.lasso_half for row in rows], marker="o", label="LASSO, r")
    found = [row.algorithm_3 for row in rows]
    axes.errorbar(shares, found, [row.algorithm_3_half for row in rows], marker="o", label="Algorithm 3 from it")
    axes.plot(shares, [2 * row.lasso for row in rows], linestyle="--", color="grey", label="2 r (Corollary 1.3)")
    axes.set(xscale="log", yscale="log", xlabel="measurements", ylabel="||x - truth|| / ||truth||")
    axes.legend()
    figure.savefig(path, dpi=100)
