"""Tests of samples against exact ones and of truths among samples: effect, interval, p-value, power.

Two-sample tests compare a sampler's samples S of each measurement with exact ones E. Under the null hypothesis the two
are exchangeable, so every p-value comes from permutations within measurements, whatever the posterior's form; beyond
the resolution of the permutations their distribution is continued by Pearson's type III of the same three moments
(Minas and Montana, "Distance-based analysis of variance: approximate inference", 2014). Rank tests compare the rank of
the truth among K samples with a uniform one, by simultaneous bands of the empirical distribution function (Saeilynoja,
Buerkner and Vehtari, "Graphical test for discrete uniformity", Statistics and Computing 32, 2022).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

PERMUTATIONS = 400
OF_KERNELS = 200
"""Of them, those that a kernel is summed for: it takes most of the time."""
POWER = 0.8
RESOLVED = 10
"""Permutations beyond the observed value from which their share is the p-value."""
SIMULATIONS = 20_000
"""Of uniform ranks, for the band."""
PICTURE = 16
"""Sides from which an image has frequencies to speak of."""
LEAST_RATIO = 1e-6
"""Of variances: below it a sampler's samples are all the same."""


@dataclass(frozen=True)
class Finding:
    """What one test has found.

    Args:
        test: its name.
        kind: ``distance``, ``shift``, ``width``, ``shares``, ``coverage``, ``spread`` or
            ``rank``.
        where: the subspace, frequency band or functional.
        effect: size of the difference: widths as a ratio, shifts in standard deviations (root mean square over
            directions), shares as the root of half their squared distance (root mean square over measurements),
            coverage as a share, spread as a ratio, ranks as the largest difference of distribution functions, distance
            as sliced W2 over its floor (median over measurements).
        low, high: its 95 % interval.
        p: of the test.
        more: further numbers for the page.
        reach: level of a test -> the effect that it would find with probability `POWER`; None if that is not known.
    """

    test: str
    kind: str
    where: str
    effect: float
    low: float
    high: float
    p: float
    more: dict[str, float] = field(default_factory=dict)
    reach: Callable[[float], float] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Null:
    """The distribution of a statistic over permutations."""

    mean: float
    std: float
    skew: float
    values: np.ndarray

    @classmethod
    def of(cls, values: Tensor) -> Null:
        found = values.double().cpu().numpy()
        std = float(found.std())
        return cls(float(found.mean()), std, float(scipy.stats.skew(found)) if std > 0 else 0.0, found)

    def above(self, value: float) -> float:
        """Probability of a value at least as large."""
        count = int((self.values >= value).sum())
        if count >= RESOLVED or self.std == 0:
            return (1 + count) / (1 + len(self.values))
        tail = float(scipy.stats.pearson3.sf((value - self.mean) / self.std, self.skew))
        return min(max(tail, 1e-300), (1 + RESOLVED) / (1 + len(self.values)))

    def both(self, value: float) -> float:
        """Probability of a value as far out, on both sides."""
        mirrored = Null(-self.mean, self.std, -self.skew, -self.values)
        return min(1.0, 2 * min(self.above(value), mirrored.above(-value)))

    def critical(self, level: float) -> float:
        """The value that is exceeded with this probability."""
        return self.mean + self.std * float(scipy.stats.pearson3.isf(level, self.skew))


View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pooled:
    """Samples of one measurement and exact ones, in one row order, and who is in the first set in each permutation.

    Args:
        x: samples first, then exact ones, (n + e, C, H, W), float64.
        count: n.
        first: (n + e, 1 + permutations) of zeros and ones; column 0 is what happened.
    """

    x: Tensor
    count: int
    first: Tensor

    @classmethod
    def of(cls, samples: Tensor, exact: Tensor, seed: int) -> Pooled:
        x = torch.cat([samples, exact]).double()
        return cls(x, len(samples), _permutations(len(samples), len(exact), seed))

    def squared_sum(self, z: Tensor, first: Tensor | None = None) -> Tensor:
        """Squared length of the first set's sum of rows z (N, J), per permutation."""
        first = self.first if first is None else first
        if z.shape[1] <= len(z):
            return (z.mT @ first).square().sum(dim=0)
        return (first * ((z @ z.mT) @ first)).sum(dim=0)

    def log_width(self, z: Tensor) -> Tensor:
        """Log of the ratio of root mean square standard deviations in coordinates z (n + e, J), per permutation."""
        z = z - z.mean(dim=0)  # so that the second set's sum is minus the first's
        square, lengths = self.squared_sum(z), z.square().sum(dim=1)
        own = lengths @ self.first
        n, e = self.count, len(z) - self.count
        one, other = (own - square / n) / (n - 1), (lengths.sum() - own - square / e) / (e - 1)
        return 0.5 * (one.clamp_min(0) / other + LEAST_RATIO**2).log()

    def squared_shift(self, z: Tensor) -> Tensor:
        """Squared distance of the two sets' means in coordinates z (n + e, J), per permutation."""
        n, e = self.count, len(z) - self.count
        return self.squared_sum(z - z.mean(dim=0)) * (1 / n + 1 / e) ** 2

    def mean_difference(self, z: Tensor) -> Tensor:
        """Difference of the two sets' means in coordinates z (n + e, J): (J, 1 + permutations)."""
        n, e = self.count, len(z) - self.count
        own = z.mT @ self.first
        return own / n - (z.sum(dim=0)[:, None] - own) / e

    def mmd(self) -> Tensor:
        """Unbiased squared MMD, per permutation (Gretton et al., JMLR 13, 2012).

        The kernel is Gaussian, as wide as the root mean square distance.
        """
        flat = self.x.flatten(1)
        flat = (flat - flat.mean(dim=0)).float()
        lengths = flat.square().sum(dim=1)
        squares = (lengths[:, None] + lengths).sub_(2 * flat @ flat.mT).clamp_min_(0)
        width = squares.mean().clamp_min(1e-300)
        kernel = squares.mul_(-0.5).div_(width).exp_().fill_diagonal_(0)  # in place: making large tensors takes long
        first = self.first[:, : 1 + OF_KERNELS]
        toward = (kernel @ first.float()).double()
        one = (first * toward).sum(dim=0)
        between = toward.sum(dim=0) - one
        other = kernel.sum(dtype=torch.float64) - one - 2 * between
        n, e = self.count, len(flat) - self.count
        return one / (n * (n - 1)) + other / (e * (e - 1)) - 2 * between / (n * e)

    def chi_square(self, modes: Tensor) -> tuple[Tensor, Tensor]:
        """Chi-square of the two sets' shares of modes (n + e,), and half their squared distance, per permutation.

        Modes with fewer than 5 expected samples in the smaller set count as one.
        """
        n, total = self.count, len(modes)
        kinds, place = modes.unique(return_inverse=True)
        each = torch.zeros(total, len(kinds), dtype=torch.float64, device=modes.device)
        each.scatter_(1, place[:, None], 1.0)
        rare = each.sum(dim=0) * min(n, total - n) / total < 5
        if rare.any():
            each = torch.cat([each[:, ~rare], each[:, rare].sum(dim=1, keepdim=True)], dim=1)
        own = each.mT @ self.first
        expected = each.sum(dim=0)[:, None] * n / total
        values = ((own - expected).square() / expected.clamp_min(1e-9)).sum(dim=0) * total / (total - n)
        others = (each.sum(dim=0)[:, None] - own) / (total - n)
        return values, 0.5 * (own / n - others).square().sum(dim=0)

    def log_width_within(self, modes: Tensor) -> Tensor | None:
        """`log_width` around the mean of each mode, over modes that both sets visit; None if there is none."""
        one, one_dof, other, other_dof = (torch.zeros(self.first.shape[1], dtype=torch.float64) for _ in range(4))
        for mode in modes.unique().tolist():
            rows = modes == mode
            z, g = self.x[rows].flatten(1), self.first[rows]
            if not 2 <= int(g[:, 0].sum()) <= len(z) - 2:
                continue
            z = z - z.mean(dim=0)
            square, lengths = self.squared_sum(z, g), z.square().sum(dim=1)
            own = lengths @ g
            for sums, count, scatter, dof in (
                (own, g.sum(dim=0), one, one_dof),
                (lengths.sum() - own, len(z) - g.sum(dim=0), other, other_dof),
            ):
                scatter += sums - square / count.clamp_min(1)
                dof += (count - 1).clamp_min(0)
        if not float(one_dof[0]) or not float(other_dof[0]):
            return None
        ratio = (one / one_dof.clamp_min(1)).clamp_min(0) / (other / other_dof.clamp_min(1)).clamp_min(1e-300)
        return 0.5 * (ratio + LEAST_RATIO**2).log()


@functools.lru_cache(maxsize=128)
def _permutations(n: int, e: int, seed: int) -> Tensor:
    """Who is in the first set: (n + e, 1 + permutations)."""
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(PERMUTATIONS, n + e, generator=generator).argsort(dim=1)[:, :n].mT
    first = torch.zeros(n + e, 1 + PERMUTATIONS, dtype=torch.float64)
    first[:n, 0] = 1
    first[:, 1:].scatter_(0, orders, 1.0)
    return first


def whitened(x: Tensor) -> Tensor:
    """Coordinates in which all directions count alike, (N, J): uncorrelated, of variance 1, turned back to x's axes.

    Where there are too few rows to know the covariance, every number is divided by its own standard deviation.
    """
    z = x.flatten(1)
    z = z - z.mean(dim=0)
    if 4 * z.shape[1] > len(z):
        return z / z.std(dim=0).clamp_min(1e-9 * float(z.std()) + 1e-30)
    values, vectors = torch.linalg.eigh(z.mT @ z / (len(z) - 1))
    return z @ (vectors * values.clamp_min(1e-9 * float(values[-1]) + 1e-30) ** -0.5) @ vectors.mT


def bands(x: Tensor, number: int, of: int = 3) -> Tensor:
    """Fourier coordinates (N, J) of the ``number``-th of ``of`` bands of equal width, the lowest frequencies first."""
    height, width = x.shape[-2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    band = (frequency / frequency.max() * of).long().clamp_max(of - 1) == number
    spectrum = torch.fft.fft2(x.double(), norm="ortho")[..., band.to(x.device)].flatten(1)
    return torch.cat([spectrum.real, spectrum.imag], dim=1)


BANDS = ("coarse", "middle", "fine")


@dataclass(frozen=True)
class Measured:
    """One measurement: its samples, exact sets, subspaces and modes.

    Args:
        samples: (n, C, H, W).
        exact: independent sets (n, C, H, W); the first two enter the tests.
        ratio: mean sliced W2 of samples to exact sets, over that between exact sets.
        parts: subspace -> coordinates, see `Problem.parts`.
        modes: the mode of each image (B,), or None.
    """

    samples: Tensor
    exact: Sequence[Tensor]
    ratio: float
    parts: dict[str, View]
    modes: Callable[[Tensor], Tensor | None]


def over_measurements(values: np.ndarray, least_se: float = 0.0) -> tuple[float, float, float]:
    """Mean of values of independent measurements and its 95 % interval by Student's t.

    Args:
        values: (M,).
        least_se: standard error that is known from within measurements; the interval is at least as wide.
    """
    mean, count = float(values.mean()), len(values)
    half = 1.96 * least_se
    if count > 1:
        half = max(half, float(scipy.stats.t.ppf(0.975, count - 1) * values.std(ddof=1)) / count**0.5)
    return mean, mean - half, mean + half


def two_sample(measured: Sequence[Measured], seed: int = 0) -> list[Finding]:
    """All two-sample tests over the measurements of a problem.

    Args:
        measured: at least one.
        seed: of the permutations.
    """
    widths: dict[str, list[Tensor]] = {}
    shifts, common, distances, chi, variation, sizes = [], [], [], [], [], []
    several: list[tuple[int, int]] = []
    for number, one in enumerate(measured):
        pooled = Pooled.of(one.samples, torch.cat(list(one.exact[:2])), seed + number)
        alike = whitened(pooled.x)
        views = {"all directions alike": alike}
        views |= {name: part(pooled.x.to(one.samples.dtype)).double() for name, part in one.parts.items()}
        if min(pooled.x.shape[-2:]) >= PICTURE:
            views |= {f"{name} scales": bands(pooled.x, place) for place, name in enumerate(BANDS)}
        for name, z in views.items():
            widths.setdefault(name, []).append(pooled.log_width(z))
        shifts.append(pooled.squared_shift(alike) / alike.shape[1])
        common.append(pooled.mean_difference(alike))
        value = pooled.mmd()
        distances.append(value / value[1:].std().clamp_min(1e-300))
        modes = one.modes(pooled.x.to(one.samples.dtype))
        if modes is not None:
            values, off = pooled.chi_square(modes)
            chi.append(values)
            variation.append(float(off[0] - off[1:].mean()))
            if float(values[1:].std()) > 0:  # more than one mode
                several.append((pooled.count, len(pooled.x) - pooled.count))
            within = pooled.log_width_within(modes)
            if within is not None:
                widths.setdefault("within modes", []).append(within)
        sizes.append((pooled.count, len(pooled.x) - pooled.count, alike.shape[1]))
    found = [_distance(measured, distances)]
    found += [_width(name, torch.stack(values)) for name, values in widths.items()]
    found += [_shift(torch.stack(shifts), sizes), _common_shift(common)]
    if chi:
        found.append(_shares(torch.stack(chi), np.array(variation), several))
    return found


def _distance(measured: Sequence[Measured], statistics: Sequence[Tensor]) -> Finding:
    """MMD's p-value; the effect is sliced W2 over its floor."""
    total = torch.stack(list(statistics)).sum(dim=0)
    values = np.array([one.ratio for one in measured])
    mean, low, high = over_measurements(values)
    more = {"mean": mean, "mean low": low, "mean high": high, "worst": float(values.max())}
    bounds = median_interval(values)
    p = Null.of(total[1:]).above(float(total[0]))
    return Finding("distribution", "distance", "", float(np.median(values)), *bounds, p, more)


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """The order statistics between which the median lies with probability 0.95 at least; the ends, below 6 values.

    Between the ends of M values it lies with probability 1 - 2^(1 - M): 0.75 of 3, 0.94 of 5.
    """
    ordered, count = np.sort(values), len(values)
    out = max(int(scipy.stats.binom.ppf(0.025, count, 0.5)), 1)  # at most this many lie below it, with 0.025
    return float(ordered[out - 1]), float(ordered[count - out])


def _width(where: str, logs: Tensor) -> Finding:
    """Of log ratios (M, 1 + permutations)."""
    total = logs.mean(dim=0)
    null = Null.of(total[1:])
    observed = logs[:, 0].cpu().numpy() - null.mean
    mean, low, high = over_measurements(observed, null.std)

    def reach(level: float) -> float:
        return 1 - math.exp(-float(scipy.stats.norm.isf(level / 2) + scipy.stats.norm.ppf(POWER)) * null.std)

    effect, least, most = (math.exp(value) for value in (mean, low, high))
    p = null.both(float(total[0]))
    return Finding(f"width, {where}", "width", where, effect, least, most, p, reach=reach)


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))


def _shift(squares: Tensor, sizes: Sequence[tuple[int, int, int]]) -> Finding:
    """Of squared shifts a direction (M, 1 + permutations)."""
    total = squares.mean(dim=0)
    null = Null.of(total[1:])
    mean, low, high = over_measurements(squares[:, 0].cpu().numpy() - null.mean)
    noise = float(np.mean([(1 / n + 1 / e) / directions for n, e, directions in sizes])) / len(sizes)

    def reach(level: float) -> float:
        limit, normal = null.critical(level) - null.mean, float(scipy.stats.norm.ppf(POWER))
        square = limit
        for _ in range(50):  # mean + square exceeds the limit with probability POWER; its spread grows with the shift
            square = limit + normal * math.sqrt(null.std**2 + 4 * noise * max(square, 0.0))
        return _root(square)

    p = null.above(float(total[0]))
    return Finding("shift", "shift", "", _root(mean), _root(low), _root(high), p, reach=reach)


def _common_shift(differences: Sequence[Tensor]) -> Finding:
    """Of mean differences (J, 1 + permutations): one that is the same in all measurements."""
    stacked = torch.stack(list(differences))
    total = stacked.mean(dim=0).square().mean(dim=0)
    null = Null.of(total[1:])
    value, count = float(total[0]) - null.mean, len(stacked)
    spread = 0.0
    if count > 2:
        sums = stacked[..., 0].sum(dim=0)
        left = ((sums - stacked[..., 0]) / (count - 1)).square().mean(dim=1).cpu().numpy()
        spread = float(np.sqrt((count - 1) / count * np.square(left - left.mean()).sum()))
    half = 1.96 * max(spread, null.std)
    return Finding(
        "shift, common",
        "shift",
        "the same in all measurements",
        _root(value),
        _root(value - half),
        _root(value + half),
        null.above(float(total[0])),
    )


def _shares(values: Tensor, variation: np.ndarray, sizes: Sequence[tuple[int, int]]) -> Finding:
    """Of chi-squares (M, 1 + permutations); the power is that for one mode of two equal ones.

    Args:
        values: of all measurements.
        variation: half the squared distance of each one's shares, less what chance alone makes of equal ones: the
            square of the total variation if there are two modes. (That itself is no sum of truth and chance.)
        sizes: samples and exact ones of those with more than one mode.
    """
    total = values.sum(dim=0)
    null = Null.of(total[1:])
    freedom = max(null.mean, 1.0)
    information = sum(4 / (1 / n + 1 / e) for n, e in sizes)  # of a share 1/2 off by delta: delta^2 times this

    def reach(level: float) -> float:
        limit, top = null.critical(level), 10.0

        def missing(size: float) -> float:
            return float(scipy.stats.ncx2.cdf(limit, freedom, size)) - (1 - POWER)

        if missing(1e-6) <= 0:  # few permutations, and a law that is no chi-square
            return 0.0
        while missing(top) > 0:
            top *= 2
        return min(1.0, math.sqrt(scipy.optimize.brentq(missing, 1e-6, top) / information))

    mean, low, high = over_measurements(variation)
    p = null.above(float(total[0]))
    known = reach if sizes else None  # one mode everywhere: no shares to be wrong
    return Finding("shares of modes", "shares", "", _root(mean), _root(low), _root(high), p, reach=known)


def inside(images: Tensor, generator: torch.Generator, trim: int = 0) -> Tensor:
    """Share of each image's numbers that lie between order statistics of the others: (R, P, *S) -> (R, P).

    Between the least and the greatest, or with ``trim`` others left out at each end. For R exchangeable images it is
    (R - 2 - 2 trim) / R on average. Of equal numbers any may be the end, by an order drawn for each pair.

    Args:
        images: R samples and truths, all exchangeable, of P measurements.
        generator: of the order among equal numbers.
        trim: how many of the others are left out at each end, >= 0.
    """
    order = torch.rand(images.shape[:2], generator=generator).argsort(dim=0)
    pairs = torch.arange(images.shape[1])
    flat = images[order, pairs].flatten(2)
    found = torch.zeros(images.shape[:2], dtype=torch.float64)
    for largest in (False, True):
        ends = flat.topk(trim + 1, dim=0, largest=largest).indices  # whose rank among the others is that of an end
        for row in ends:
            found.scatter_add_(0, row.mT, torch.ones(row.mT.shape, dtype=torch.float64))
    shares = torch.empty_like(found)
    shares[order, pairs] = 1 - found / flat.shape[2]
    return shares


def chosen_rows(rows: int, pairs: int, seed: int) -> Tensor:
    """One of the K + 1 images of each pair, that could as well be the truth: (`PERMUTATIONS`, P)."""
    return torch.randint(rows, (PERMUTATIONS, pairs), generator=torch.Generator().manual_seed(seed))


def coverage_test(shares: Tensor, trim: int = 0, seed: int = 0) -> Finding:
    """Do intervals between order statistics of K samples hold the truth as often as they should?

    Under the null hypothesis each of the K + 1 images of a pair could be the truth: the p-value is from draws of one of
    them, pair by pair, as many as there are permutations elsewhere.

    Args:
        shares: `inside` of the truth, row 0, and its samples, (K + 1, P).
        trim: with which.
        seed: of the draws.
    """
    rows, pairs = shares.shape
    null = Null.of(shares.gather(0, chosen_rows(rows, pairs, seed)).mean(dim=1))
    mean, low, high = over_measurements(shares[0].numpy())
    nominal = (rows - 2 - 2 * trim) / rows

    def reach(level: float) -> float:
        return float(scipy.stats.norm.isf(level / 2) + scipy.stats.norm.ppf(POWER)) * null.std

    name, p = f"coverage of {nominal:.0%} intervals", null.both(mean)
    return Finding(name, "coverage", "", mean, low, high, p, {"nominal": nominal}, reach)


def spread_test(images: Tensor, seed: int = 0) -> Finding:
    """Is the error of the samples' mean as large as their spread says?

    The effect is the root of sum |x - mean|^2 over (1 + 1 / K) sum of variances, both over numbers and pairs: 1 for an
    exact sampler, more where samples are too narrow or off. The p-value is as in `coverage_test`.

    Args:
        images: the truth, row 0, and its samples, (K + 1, P, *S).
        seed: of the draws.
    """
    flat = images.flatten(2).double()
    rows, pairs = flat.shape[:2]
    total, squares = flat.sum(dim=0), flat.square().sum(dim=2)
    errors = (rows * flat - total).square().sum(dim=2) / (rows - 1) ** 2
    variances = (squares.sum(dim=0) - squares - (total - flat).square().sum(dim=2) / (rows - 1)) / (rows - 2)
    variances = variances.clamp_min(0) * rows / (rows - 1)

    def log_ratio(error: Tensor, variance: Tensor) -> Tensor:
        return 0.5 * (error.sum(dim=-1) / variance.sum(dim=-1).clamp_min(1e-300)).log()

    draws = chosen_rows(rows, pairs, seed)
    null = Null.of(log_ratio(errors.gather(0, draws), variances.gather(0, draws)))
    observed = float(log_ratio(errors[0], variances[0]))
    again = torch.from_numpy(np.random.default_rng(0).integers(pairs, size=(400, pairs)))
    low, high = (
        log_ratio(errors[0][again], variances[0][again]).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    )

    def reach(level: float) -> float:
        return math.exp(float(scipy.stats.norm.isf(level / 2) + scipy.stats.norm.ppf(POWER)) * null.std) - 1

    effect, least, most = (math.exp(min(value, 700.0)) for value in (observed, low, high))
    return Finding("error over spread", "spread", "", effect, least, most, null.both(observed), reach=reach)


def rank_tests(ranks: dict[str, np.ndarray], num_samples: int) -> list[Finding]:
    """Uniformity of the truth's ranks (P,) on 0..K, for each functional.

    Args:
        ranks: functional -> ranks of independent pairs.
        num_samples: K.
    """
    found = []
    for name, values in ranks.items():
        difference, low, high, p = uniformity(values, num_samples)
        normal, root = (values + 0.5) / (num_samples + 1), len(values) ** 0.5
        spread = float(normal.std() * 12**0.5)
        more = {
            "mean rank": float(normal.mean()),
            "spread": spread,
            "off centre": float(normal.mean() - 0.5) * 12**0.5 * root,
            "off in spread": (spread - 1) * 5**0.5 * root,
        }
        found.append(Finding(f"rank of {name}", "rank", name, difference, low, high, p, more))
    return found


def _counts(ranks: np.ndarray, num_samples: int) -> np.ndarray:
    """How many ranks of each set are at most 0, 1, ..., K - 1: (S, P) -> (S, K)."""
    sets, bins = len(ranks), num_samples + 1
    counts = np.bincount((ranks + bins * np.arange(sets)[:, None]).ravel(), minlength=bins * sets)
    return np.cumsum(counts.reshape(sets, bins), axis=1)[:, :num_samples]


def uniformity(ranks: np.ndarray, num_samples: int) -> tuple[float, float, float, float]:
    """Largest difference of the ranks' distribution function from the uniform one, its interval, the band's p-value.

    The interval is simultaneous, since the point is the one that looks worst: the 95 % band around what was found (by
    the Kolmogorov bound of Massart, 1990), so that it reaches 0 where nothing is off. The p-value's statistic is the
    least of the pointwise binomial p-values; its distribution is simulated, and beyond the simulation bounded by their
    number (Bonferroni).
    """
    counts = _counts(ranks[None], num_samples)
    grid = np.arange(1, num_samples + 1) / (num_samples + 1)
    largest = float(np.abs(counts[0] / len(ranks) - grid).max())
    half = math.sqrt(math.log(2 / 0.05) / (2 * len(ranks)))
    least = float(_pointwise(counts, len(ranks), num_samples)[0])
    null = _simulated(len(ranks), num_samples)
    p = (1 + float(np.searchsorted(null, least * (1 + 1e-9), side="right"))) / (1 + len(null))
    if p <= 5 / len(null):
        p = min(p, num_samples * least)
    return largest, max(0.0, largest - half), min(1.0, largest + half), min(p, 1.0)


def _pointwise(counts: np.ndarray, pairs: int, num_samples: int) -> np.ndarray:
    """Least two-sided binomial p-value over the grid, for counts (S, K)."""
    return _two_sided(pairs, num_samples)[counts, np.arange(num_samples)].min(axis=1)


@functools.lru_cache(maxsize=32)
def _two_sided(pairs: int, num_samples: int) -> np.ndarray:
    """Two-sided binomial p-values of all counts at the points of the grid: (P + 1, K)."""
    grid = np.arange(1, num_samples + 1) / (num_samples + 1)
    counts = np.arange(pairs + 1)[:, None]
    lower, upper = scipy.stats.binom.cdf(counts, pairs, grid), scipy.stats.binom.sf(counts - 1, pairs, grid)
    return np.minimum(1.0, 2 * np.minimum(lower, upper))


@functools.lru_cache(maxsize=32)
def _simulated(pairs: int, num_samples: int) -> np.ndarray:
    """Least pointwise p-values of uniform ranks, sorted."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(pairs, np.full(num_samples + 1, 1 / (num_samples + 1)), size=SIMULATIONS)
    return np.sort(_pointwise(np.cumsum(drawn, axis=1)[:, :num_samples], pairs, num_samples))


def band(pairs: int, num_samples: int, level: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Simultaneous band of the distribution function of uniform ranks at 0..K-1: lower and upper bounds."""
    pointwise = float(np.quantile(_simulated(pairs, num_samples), level))
    grid = np.arange(1, num_samples + 1) / (num_samples + 1)
    low = scipy.stats.binom.ppf(pointwise / 2, pairs, grid) / pairs
    high = scipy.stats.binom.isf(pointwise / 2, pairs, grid) / pairs
    return low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
