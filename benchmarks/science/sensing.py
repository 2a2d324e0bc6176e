"""Compressed sensing: the error of posterior samples beside that of the LASSO that they start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.judge.problems import Problem
from benchmarks.tools.pooled import PooledStreams
from benchmarks.tools.tables import interval, write_rows
from benchmarks.tools.tuning import best_scale, read_samplers
from posterior.measurement import Measurement
from posterior.operators import SubsampledTransform
from posterior.random import stream
from posterior.samplers import Lasso
from posterior.shipped import CONFIGS

SAMPLERS = CONFIGS / "science" / "samplers.yaml"
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
    mixture: Problem, output: Path, shares: Sequence[float], num_images: int, calls: int, seed: int
) -> list[SensingRow]:
    """Random-sign DCT coefficients of images drawn from the prior; writes sensing.csv and sensing.png.

    Corollary 1.3: where a naive algorithm is within r of the truth (with high probability), posterior samples can be
    drawn from its estimate; and a posterior sample is within 2 r with high probability, whatever the algorithm was.

    Args:
        mixture: prior and noise of its measurements.
        output: folder.
        shares: of the coefficients.
        num_images: a share.
        calls: Langevin steps.
        seed: of everything.
    """
    prior, rows = mixture.prior, []
    for share in shares:
        problem = replace(mixture, operator=SubsampledTransform(share))
        truth, measurement = images(problem, "sensing", num_images, seed)
        other, other_measurement = images(problem, "sensing", 8, seed + 1)

        def start(threshold: float, seen: Measurement = other_measurement) -> Tensor:
            return Lasso(threshold)(prior, seen, PooledStreams(len(seen.y), seed))

        def error(x: Tensor, truth: Tensor = other) -> float:
            return float(_errors(x, truth).mean())

        threshold = best_scale(start, error, THRESHOLDS)
        radius = float((start(threshold) - other).square().mean().sqrt())
        blanks = {"CALLS": calls, "THRESHOLD": threshold, "RADIUS": radius, "SCALE": 1.0}
        sampler = read_samplers(SAMPLERS, "from_y", blanks, "Algorithm 3")["Algorithm 3"]
        lasso = _errors(start(threshold, measurement), truth)
        found = _errors(sampler(prior, measurement, PooledStreams(num_images, seed)), truth)
        difference = interval(found - lasso)
        rows.append(
            SensingRow(
                share,
                int(measurement.operator.num_measured().flatten()[0]),
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


def images(problem: Problem, name: str, count: int, seed: int) -> tuple[Tensor, Measurement]:
    """Images drawn from the prior of a problem, and their measurements, by the streams of a name."""
    truth = problem.truth.sample(count, stream(seed, name, -1, "truth"))
    ids = [f"{number}" for number in range(count)]
    return truth, problem.measure(truth, ids, seed, stream(seed, name, -1, "noise"))


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
