"""Do samples follow a distribution? Distances and tests between sets, spread, calibration, mixing of chains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from posterior.operators import blocks_of


def sliced_wasserstein(x: Tensor, y: Tensor, num_directions: int = 200, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of two sample sets of equal size.

    The root of the mean, over random unit directions, of the squared one-dimensional W2 distance (Rabin et al., 2011).
    In one dimension W2 pairs sorted samples.

    Args:
        x, y: samples, (N, *S) each.
        num_directions: random directions.
        seed: of the directions.

    Raises:
        ValueError: if the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"sliced_wasserstein needs sets of equal shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    return distance_of_projections(*(sorted_projections(one, num_directions, seed) for one in (x, y)))


def sorted_projections(x: Tensor, num_directions: int = 200, seed: int = 0) -> Tensor:
    """Samples (N, *S) along random unit directions, sorted: (num_directions, N); for sets that are compared often."""
    flat = x.flatten(1)
    directions = torch.randn(flat.shape[1], num_directions, generator=torch.Generator().manual_seed(seed)).to(flat)
    return ((directions / directions.norm(dim=0)).mT @ flat.mT).sort(dim=1).values


def distance_of_projections(x: Tensor, y: Tensor) -> float:
    """`sliced_wasserstein` of sets of equal size by their `sorted_projections` along the same directions."""
    return float((x - y).square().mean().sqrt())


def sliced_wasserstein_floor(exact: Sequence[Tensor], num_directions: int = 200) -> tuple[float, float]:
    """What `sliced_wasserstein` gives for two exact sets: mean over pairs, and the standard error of that mean.

    Args:
        exact: an even number of independent sets, (N, *S) each; 40 of them make 20 pairs.
        num_directions: random directions, others for each pair.

    Raises:
        ValueError: if there are fewer than two pairs.
    """
    if len(exact) < 4 or len(exact) % 2:
        raise ValueError(f"sliced_wasserstein_floor needs an even number of at least 4 sets, got {len(exact)}")
    pairs = zip(exact[::2], exact[1::2], strict=True)
    distances = torch.tensor([sliced_wasserstein(a, b, num_directions, seed) for seed, (a, b) in enumerate(pairs)])
    return float(distances.mean()), float(distances.std()) / len(distances) ** 0.5


def std_ratio(x: Tensor, exact: Tensor, directions: Tensor | None = None) -> float:
    """Root mean square standard deviation of samples over that of exact ones, (N, *S) and (M, *S).

    Args:
        x, exact: samples.
        directions: (d, r), orthonormal columns: only in that subspace.
    """

    def spread(samples: Tensor) -> float:
        flat = samples.flatten(1) if directions is None else samples.flatten(1) @ directions.to(samples)
        return float(flat.double().var(dim=0).mean()) ** 0.5

    return spread(x) / spread(exact)


def band_std_ratios(x: Tensor, exact: Tensor, num_bands: int = 4) -> list[float]:
    """`std_ratio` by spatial frequency: bands of equal width from 0 to the Nyquist frequency's corner, lowest first.

    Args:
        x, exact: samples, (N, C, H, W), (M, C, H, W).
        num_bands: >= 1.
    """
    height, width = x.shape[-2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    band = (frequency / frequency.max() * num_bands).long().clamp_max(num_bands - 1)

    def powers(samples: Tensor) -> list[float]:
        spectrum = torch.fft.fft2((samples - samples.mean(dim=0)).double()).abs().square().mean(dim=(0, 1))
        return [
            float(spectrum[band == number].mean()) * len(samples) / (len(samples) - 1) for number in range(num_bands)
        ]

    return [(a / b) ** 0.5 for a, b in zip(powers(x), powers(exact), strict=True)]


def subspaces(matrix: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of what A = matrix (m, d) measures, and of the rest: (d, r) and (d, d - r).

    A right singular vector is measured if its singular value is at least ``threshold`` times the largest. Entries of x
    that no measurement brings together, such as those of different colours, are taken apart, block by block.
    """
    gram = (matrix.mT @ matrix).cpu()
    values, vectors = torch.zeros_like(gram[0]), torch.zeros_like(gram)
    for block in blocks_of(gram):
        part = (block[:, :, None], block[:, None])
        values[block], vectors[part] = torch.linalg.eigh(gram[part])
    seen = values.clamp_min(0).sqrt() >= threshold * values.max().clamp_min(0).sqrt()
    return vectors[:, seen].to(matrix.device), vectors[:, ~seen].to(matrix.device)


def mmd_test(x: Tensor, y: Tensor, num_permutations: int = 500, seed: int = 0) -> tuple[float, float]:
    """Two-sample test: unbiased squared MMD under a Gaussian kernel, and its p-value by permutations.

    The kernel's width is the median distance of the pooled samples. Source: Gretton et al., JMLR 13 (2012).

    Args:
        x, y: samples, (N, *S), (M, *S).
        num_permutations: >= 1; the p-value is at least 1 / (num_permutations + 1).
        seed: of the permutations.
    """
    pooled = torch.cat([x, y]).flatten(1).double()
    distances = torch.cdist(pooled, pooled)
    width = distances[distances > 0].median()
    kernel = torch.exp(-0.5 * (distances / width).square()).fill_diagonal_(0)
    n, m = len(x), len(y)

    generator = torch.Generator().manual_seed(seed)
    orders = [torch.arange(n + m), *(torch.randperm(n + m, generator=generator) for _ in range(num_permutations))]
    first = torch.zeros(n + m, len(orders), dtype=torch.float64)
    first.scatter_(0, torch.stack(orders, dim=1)[:n], 1.0)  # who is in the first set, a column a permutation
    first = first.to(kernel.device)
    second, toward = 1 - first, kernel @ first
    within, between = (first * toward).sum(dim=0), (second * toward).sum(dim=0)
    other = kernel.sum() - within - 2 * between
    values = within / (n * (n - 1)) + other / (m * (m - 1)) - 2 * between / (n * m)
    observed, permuted = values[0], values[1:]
    return float(observed), (1 + int((permuted >= observed).sum())) / (1 + num_permutations)


def coverage(samples: Tensor, truth: Tensor, trim: int = 0) -> Tensor:
    """Share of each image's numbers that lie between order statistics of its samples, (B,); for `MeanOverImages`.

    For posterior samples of independent (x, y) pairs its mean is exactly (K - 1 - 2 trim) / (K + 1): 0.9 for K = 19
    from the least to the greatest, and for K = 39 with trim 1, also where samples are equal to the truth: each order of
    equal numbers counts as much. Numbers of one image are not independent.

    Args:
        samples: (K, B, *S).
        truth: (B, *S).
        trim: order statistics left out at each end, >= 0.

    Raises:
        ValueError: if fewer than two samples are left.
    """
    if trim < 0 or len(samples) - 2 * trim < 2:
        raise ValueError(f"coverage: {len(samples)} samples without {trim} at each end bound no interval")
    below, equal = (samples < truth).sum(dim=0), (samples == truth).sum(dim=0)
    least, most = below.clamp_min(1 + trim), (below + equal).clamp_max(len(samples) - 1 - trim)
    inside = (most - least + 1).clamp_min(0) / (1 + equal)  # ranks below to below + equal are as likely
    return inside.flatten(1).mean(dim=1)


def nominal_coverage(num_samples: int, trim: int = 0) -> float:
    """What `coverage` is on average for posterior samples."""
    return (num_samples - 1 - 2 * trim) / (num_samples + 1)


def leave_one_out_scores(images: Tensor, norm: float) -> Tensor:
    """Fair score of each of K + 1 rows with the K others as samples, (K + 1, P, D) -> (K + 1, P).

    Mean distance to the others, less half the mean distance between two of them: of sums of absolute differences it is
    D times the mean CRPS of D numbers, of Euclidean distances the energy score. Gneiting and Raftery, JASA 102, 2007;
    fair: Ferro, Q. J. R. Meteorol. Soc. 140, 2014.

    Args:
        images: with the truth among them, say in row 0; K >= 2.
        norm: of the distance, 1 or 2.
    """
    exact = "donot_use_mm_for_euclid_dist"
    to_others = torch.stack([torch.cdist(x, x, norm, exact).sum(dim=1) for x in images.unbind(dim=1)], dim=1)
    count = len(images) - 1
    between = to_others.sum(dim=0) / 2 - to_others
    return to_others / count - between / (count * (count - 1))


def ranks(samples: Tensor, truth: Tensor) -> Tensor:
    """How many samples lie below the truth, number by number: (K, B), (B,) -> (B,), uniform on 0..K if exact.

    Source: simulation-based calibration, Talts et al., arXiv:1804.06788.
    """
    return (samples < truth).sum(dim=0)


def rank_p_value(counted: Tensor, num_samples: int, num_bins: int = 10) -> float:
    """p-value of the chi-square test that ranks (B,) of independent pairs are uniform on 0..num_samples.

    Args:
        counted: ranks.
        num_samples: K.
        num_bins: bins of ranks; the probabilities follow how many ranks each bin holds.
    """
    edges = torch.linspace(0, num_samples + 1, num_bins + 1).round().long()
    found = torch.histogram(counted.cpu().float(), bins=edges.float() - 0.5).hist.numpy()
    expected = edges.diff().numpy() / (num_samples + 1) * len(counted)
    return float(scipy.stats.chisquare(found, expected).pvalue)


def mode_weight_error(responsibilities: Tensor, weights: Tensor) -> float:
    """Total variation between the shares of samples in each mode and its exact weight, in [0, 1].

    Args:
        responsibilities: probability of each mode for each sample, (N, K).
        weights: exact, (K,).
    """
    return 0.5 * float((responsibilities.double().mean(dim=0) - weights.double()).abs().sum())


def split_r_hat(chains: Tensor) -> Tensor:
    """Split R-hat of traces (M chains, N steps, *S) -> (*S): 1 where chains agree; above 1.01 they do not.

    Source: Gelman et al., "Bayesian Data Analysis", 3rd edition, section 11.4; Vehtari et al., Bayesian Analysis 2021.

    Raises:
        ValueError: if there are fewer than four steps.
    """
    within, variance, _ = _split_variances(chains)
    return (variance / within).sqrt()


def _split_variances(chains: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W, the pooled variance estimate var+, and the halves (2 M, N / 2, *S), all float64."""
    if chains.shape[1] < 4:
        raise ValueError(f"split chains need at least four steps, got {chains.shape[1]}")
    half = chains.shape[1] // 2
    halves = torch.cat([chains[:, :half], chains[:, -half:]]).double()
    within = halves.var(dim=1).mean(dim=0)
    between = halves.mean(dim=1).var(dim=0)
    return within, (half - 1) / half * within + between, halves


def effective_sample_size(chains: Tensor) -> Tensor:
    """Independent draws worth of traces (M chains, N steps, *S) -> (*S), by Geyer's initial monotone sequence.

    Source: Vehtari et al., Bayesian Analysis 16 (2021), equations 10-13, on split chains.

    Raises:
        ValueError: if there are fewer than four steps.
    """
    within, variance, halves = _split_variances(chains)
    steps = halves.shape[1]
    centred = halves - halves.mean(dim=1, keepdim=True)
    spectrum = torch.fft.rfft(centred, n=2 * steps, dim=1)
    autocovariance = torch.fft.irfft(spectrum.abs().square(), n=2 * steps, dim=1)[:, :steps] / steps
    correlation = 1 - (within - autocovariance.mean(dim=0)) / variance  # (N / 2, *S)
    correlation[0] = 1
    pairs = correlation[: steps // 2 * 2].unflatten(0, (-1, 2)).sum(dim=1)
    kept = (pairs > 0).cumprod(dim=0)  # until the first pair that is not positive
    monotone = torch.where(kept > 0, pairs, torch.inf).cummin(dim=0).values
    time = -1 + 2 * torch.where(kept > 0, monotone, 0).sum(dim=0)
    total = halves.shape[0] * steps
    return total / time.clamp_min(1 / math.log10(total))


def bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], float], level: float = 0.95, count: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a statistic of independent values (N, ...), by resampling along the first axis.

    Args:
        values: one row an independent unit (an image, an (x, y) pair).
        statistic: of such an array.
        level: of the interval, in (0, 1).
        count: resamples.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    found = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(count)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
