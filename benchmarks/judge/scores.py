"""Scores, curves and tests of truths among samples that need more than one rank a pair: pixels, coverage, CRPS.

All of them are about K + 1 images of each of P pairs, the truth in row 0, (K + 1, P, C, H, W). For an exact sampler the
rows are exchangeable, so what is true of the truth is compared with what would be true of any other row, pair by pair:
numbers of one image may depend on each other as they like. docs/calibration_tests.md explains each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from benchmarks.judge.problems import Case
from benchmarks.judge.statistics import (
    BANDS,
    PICTURE,
    POWER,
    Finding,
    Null,
    bands,
    chosen_rows,
    over_measurements,
    spread_test,
)
from posterior.metrics.distribution import leave_one_out_scores
from posterior.metrics.samples import at_shares, sparsification

BOOTSTRAP = 1000
"""Sets of images with replacement, for an interval."""
BINS = 8
"""Of images by their spread, at most; each has as many at least."""
SHARES = torch.arange(1, 21) / 20
"""Of an image's numbers, at which a sparsification curve is drawn."""


def stacked(pairs: Sequence[Case], ranked: Sequence[Tensor]) -> Tensor:
    """Truths, row 0, and their samples (K, C, H, W) each: (K + 1, P, C, H, W)."""
    return torch.cat([torch.cat([case.truth for case in pairs])[None], torch.stack(list(ranked), dim=1)])


def cauchy(p_values: np.ndarray) -> float:
    """One p-value of many that may depend on each other: the truncated Cauchy combination.

    Liu and Xie, JASA 115, 2020; those of 1/2 and more count as nothing, so that they take no evidence away (Chen, Xu
    and Gao, arXiv:2506.12489).
    """
    small = p_values[p_values < 0.5]
    total = float((1 / np.tan(np.pi * np.maximum(small, 1e-300))).sum())
    return float(scipy.stats.cauchy.sf(total / p_values.size))


@dataclass(frozen=True)
class PixelRanks:
    """Ranks of the numbers of images, each among those at its place in the other images of its pair.

    Args:
        shares: of an image's numbers that have rank 0, ..., K: (K + 1, P, K + 1), rows as those of the images.
        counts: of truths that have it, at each place: (K + 1, D).
    """

    shares: Tensor
    counts: Tensor

    @classmethod
    def of(cls, images: Tensor, seed: int = 0, together: int = 32) -> PixelRanks:
        """Of images (K + 1, P, *S); where numbers are equal, a random order of the images decides."""
        rows, pairs = images.shape[:2]
        orders = torch.rand(rows, pairs, generator=torch.Generator().manual_seed(seed)).argsort(dim=0)
        shares, counts = [], torch.zeros(rows, images[0, 0].numel(), dtype=torch.long)
        for chunk, order in zip(images.flatten(2).split(together, dim=1), orders.split(together, dim=1), strict=True):
            places = order[..., None].expand_as(chunk)
            sorted_places = chunk.gather(0, places).argsort(dim=0, stable=True)
            within = torch.arange(rows)[:, None, None].expand_as(chunk)
            shuffled = torch.empty_like(sorted_places).scatter_(0, sorted_places, within)
            ranks = torch.empty_like(shuffled).scatter_(0, places, shuffled)
            each = [ranks == rank for rank in range(rows)]
            shares.append(torch.stack([one.double().mean(dim=2) for one in each], dim=2))
            counts += torch.stack([one[0].sum(dim=0) for one in each])
        return cls(torch.cat(shares, dim=1), counts)

    @property
    def below(self) -> Tensor:
        """Shares of an image's numbers whose rank is at most 0, ..., K - 1: (K + 1, P, K)."""
        return self.shares.cumsum(dim=2)[..., :-1]


def pooled_test(ranks: PixelRanks, seed: int = 0) -> Finding:
    """Are the ranks of all numbers together uniform? An order test at each rank, combined by Cauchy.

    At each rank r the share of truths' numbers with a rank of at most r is held against the same share for images that
    are drawn from the K + 1 of each pair. POT-C of arXiv:2603.02928 with the distribution of whole images in place of
    that of independent numbers, which pixels are not.
    """
    below = ranks.below
    rows, pairs, points = below.shape
    draws = chosen_rows(rows, pairs, seed)
    null = [Null.of(values) for values in below[draws, torch.arange(pairs)].mean(dim=1).unbind(dim=1)]
    observed = below[0].mean(dim=0)
    p = cauchy(np.array([one.both(float(value)) for one, value in zip(null, observed, strict=True)]))
    off = observed - torch.arange(1, rows) / rows
    place = int(off.abs().argmax())
    sign = math.copysign(1.0, float(off[place]))
    mean, low, high = over_measurements((sign * (below[0, :, place] - (place + 1) / rows)).numpy())
    std = max(one.std for one in null)

    def reach(level: float) -> float:
        return float(scipy.stats.norm.isf(level / points / 2) + scipy.stats.norm.ppf(POWER)) * std

    return Finding("ranks of all numbers", "pixels", "pooled", mean, low, high, p, {"at rank": float(place)}, reach)


def places_test(ranks: PixelRanks) -> Finding:
    """Are ranks uniform at every place of the image? PRIT-C of arXiv:2603.02928: at each place and rank a count.

    The P truths are independent, so that a count is binomial at each place; places depend on each other, and their
    two-sided p-values are combined by Cauchy. (No mid p-values: with them up to 1.7 % of exact sets failed at 1 %.)
    The effect is the largest difference of distribution functions at any place.
    """
    bins, pairs = len(ranks.counts), int(ranks.counts[:, 0].sum())
    counts, nominal = ranks.counts.cumsum(dim=0)[:-1].numpy(), np.arange(1, bins)[:, None] / bins
    lower, upper = scipy.stats.binom.cdf(counts, pairs, nominal), scipy.stats.binom.sf(counts - 1, pairs, nominal)
    p_values = 2 * np.minimum(lower, upper)
    off = np.abs(counts / pairs - nominal)
    rank, place = np.unravel_index(off.argmax(), off.shape)
    effect, share = float(off[rank, place]), float(nominal[rank, 0])
    half = 1.96 * math.sqrt(share * (1 - share) / pairs)

    def reach(level: float) -> float:
        normal = scipy.stats.norm.isf(level / p_values.size / 2) + scipy.stats.norm.ppf(POWER)
        return float(normal) * math.sqrt(0.25 / pairs)

    more = {"at rank": float(rank), "at number": float(place)}
    p = cauchy(p_values)
    return Finding("ranks place by place", "pixels", "one place", effect, effect - half, effect + half, p, more, reach)


@dataclass(frozen=True)
class Curve:
    """Points with 95 % intervals.

    Args:
        x, y: where and what.
        low, high: of y.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrapped(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a statistic (B, P, *S) -> (B, *S) of images' values (P, *S), by images with replacement."""
    index = np.random.default_rng(0).integers(len(values), size=(BOOTSTRAP, len(values)))
    low, high = np.quantile(statistic(values[index]), [0.025, 0.975], axis=0)
    return low, high


def coverage_curve(ranks: PixelRanks) -> Curve:
    """Share of the truth's numbers in central intervals, against what they should hold.

    The interval from the t-th least to the t-th greatest of K samples holds (K + 1 - 2 t) / (K + 1) of them, for an
    exact sampler. Its interval is of images with replacement: numbers of one image depend on each other.
    """
    shares = ranks.shares[0].numpy()
    bins = shares.shape[1]
    trims = np.arange((bins - 1) // 2, 0, -1)
    inside = np.stack([shares[:, trim : bins - trim].sum(axis=1) for trim in trims], axis=1)
    low, high = bootstrapped(inside, lambda drawn: drawn.mean(axis=1))
    return Curve(1 - 2 * trims / bins, inside.mean(axis=0), low, high)


def spread_skill(images: Tensor) -> Curve:
    """Root mean square error of the samples' mean against what their spread says, images binned by their spread.

    x and y are equal for an exact sampler: x^2 is (1 + 1 / K) times the variance of K samples. Images are (K + 1, P,
    *S).
    """
    samples = images[1:].flatten(2)
    count = len(samples)
    spread = samples.var(dim=0).double().mean(dim=1).numpy() * (1 + 1 / count)
    error = (samples.mean(dim=0) - images[0].flatten(1)).double().square().mean(dim=1).numpy()
    bins = np.array_split(np.argsort(spread), max(1, min(BINS, len(spread) // BINS)))
    intervals = [bootstrapped(error[rows], lambda drawn: np.sqrt(drawn.mean(axis=1))) for rows in bins]
    x, y = (np.array([math.sqrt(values[rows].mean()) for rows in bins]) for values in (spread, error))
    return Curve(x, y, *(np.array(ends) for ends in zip(*intervals, strict=True)))


def sparsification_curves(images: Tensor) -> tuple[Curve, Curve, Curve]:
    """Mean error of the samples' mean over the numbers of least spread, by their share; images are (K + 1, P, *S).

    In units of the error of all numbers. Of the truth; of any row in its place, which is what an exact sampler has; and
    of the truth where numbers are ordered by their errors themselves, the least there could be. The area between the
    first and the last is `posterior.metrics.AUSE`.
    """
    rows = range(len(images))
    found = [sparsification(images[[other for other in rows if other != row]], images[row]) for row in rows]
    kept, best = found[0]
    usual = torch.stack([of_row for of_row, _ in found]).mean(dim=0)
    of_truth, exact, least = (_relative(at_shares(curve, SHARES).double().numpy()) for curve in (kept, usual, best))
    return of_truth, exact, least


def _relative(errors: np.ndarray) -> Curve:
    """Mean over images of errors (P, shares), over the last, with its interval by images."""

    def relative(drawn: np.ndarray) -> np.ndarray:
        mean = drawn.mean(axis=-2)
        return mean / np.maximum(mean[..., -1:], 1e-300)

    return Curve(SHARES.numpy(), relative(errors), *bootstrapped(errors, relative))


def scale_tests(images: Tensor) -> list[Finding]:
    """Error of the mean over spread, at each scale of a picture (K + 1, P, C, H, W); none of what is no picture."""
    if min(images.shape[-2:]) < PICTURE:
        return []
    found = []
    for place, name in enumerate(BANDS):
        z = bands(images.flatten(0, 1), place).view(*images.shape[:2], -1)
        where = f"{name} scales"
        found.append(replace(spread_test(z), test=f"error over spread, {where}", where=where))
    return found


def crps(images: Tensor) -> Tensor:
    """Fair CRPS of each row with the others as samples, mean over an image's numbers: (K + 1, P, *S) -> (K + 1, P)."""
    flat = images.flatten(2)
    return leave_one_out_scores(flat.double(), 1) / flat.shape[2]


def energy_score(images: Tensor) -> Tensor:
    """Fair energy score of each row with the others as samples: (K + 1, P, *S) -> (K + 1, P)."""
    return leave_one_out_scores(images.flatten(2).double(), 2)


def score_test(name: str, scores: Tensor, seed: int = 0) -> Finding:
    """Does the truth score as well as any sample would? Scores are (K + 1, P), the truth's in row 0.

    The effect is the ratio of the mean scores: above 1 the truth is further from the samples than they are from each
    other. The p-value is from draws of one row of each pair, as in `coverage_test`.
    """
    rows, pairs = scores.shape
    usual = max(float(scores.mean()), 1e-300)
    null = Null.of(scores.gather(0, chosen_rows(rows, pairs, seed)).mean(dim=1) / usual)
    mean, low, high = over_measurements(scores[0].numpy() / usual)

    def reach(level: float) -> float:
        return float(scipy.stats.norm.isf(level / 2) + scipy.stats.norm.ppf(POWER)) * null.std

    return Finding(name, "score", "", mean, low, high, null.both(mean), {"score": float(scores[0].mean())}, reach)


def band_energies(images: Tensor) -> dict[str, Tensor]:
    """Log of a picture's energy at each scale, (K + 1, P) by name; none of what is no picture."""
    if min(images.shape[-2:]) < PICTURE:
        return {}
    energies = [bands(images.flatten(0, 1), place).square().mean(dim=1) for place in range(len(BANDS))]
    return {
        f"energy of {name} scales": energy.clamp_min(1e-300).log().view(images.shape[:2])
        for name, energy in zip(BANDS, energies, strict=True)
    }


@dataclass(frozen=True)
class Curves:
    """What the page of a calibration draws.

    Args:
        pixels: pooled ranks of numbers: rank over K + 1, their distribution function less the uniform one.
        coverage: `coverage_curve`.
        spread_skill: `spread_skill`.
        sparsification, sparsification_exact, sparsification_least: `sparsification_curves`.
    """

    pixels: Curve
    coverage: Curve
    spread_skill: Curve
    sparsification: Curve
    sparsification_exact: Curve
    sparsification_least: Curve


def pixel_curve(ranks: PixelRanks) -> Curve:
    """Distribution function of the truths' pooled ranks less the uniform one, by image-wise bootstrap."""
    below = ranks.below[0].numpy()
    grid = np.arange(1, below.shape[1] + 1) / (below.shape[1] + 1)
    low, high = bootstrapped(below, lambda drawn: drawn.mean(axis=1))
    return Curve(grid, below.mean(axis=0) - grid, low - grid, high - grid)


def calibration_tests(images: Tensor) -> tuple[list[Finding], Curves]:
    """All tests of this file that need no functional, and the curves, of images (K + 1, P, C, H, W)."""
    ranks = PixelRanks.of(images)
    found = [pooled_test(ranks), places_test(ranks), *scale_tests(images)]
    found += [score_test("CRPS", crps(images)), score_test("energy score", energy_score(images))]
    curves = pixel_curve(ranks), coverage_curve(ranks), spread_skill(images), *sparsification_curves(images)
    return found, Curves(*curves)
