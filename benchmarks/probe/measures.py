"""What is measured of a prior: a denoiser, images and random streams in, numbers with their uncertainty out.

For D(x, sigma) = E[x0 | x], x = x0 + sigma n, and images x0 of the prior's law:

- D has the least squared error of all denoisers, that of the best linear one included;
- <x0 - D, x - D> has mean zero (what is taken away holds nothing that should stay);
- J = dD/dx = Cov[x0 | x] / sigma^2 (Efron, JASA 2011): symmetric, its eigenvalues >= 0;
- E[D(x', s) | x] = D(x, sigma) for a state x' at s < sigma that a reverse step draws from x: a martingale;
- Langevin dynamics on p_sigma that start at images plus noise stay where images plus noise are.

All intervals are 95 % ones over images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.probe.linear import StationaryPrior
from benchmarks.probe.readings import READINGS, Asked
from benchmarks.tools.tables import interval
from posterior.priors import Prior
from posterior.priors.network import NetworkPrior
from posterior.random import Streams
from posterior.samplers import Ancestral

LOWEST, HIGHEST = 0.01, 40.0
"""Levels of noise, where the prior's own range is wider."""
NUM_LEVELS = 8
STEP = 0.8
"""Of the reverse step: the ratio of the two levels."""
AT = (0.1, 0.3, 1.0)
"""Levels at which the Jacobian is looked at."""
PROBES, KRYLOV = 4, 10
"""Random vectors, and dimension of the subspace in which extreme eigenvalues are sought."""
CHAIN_FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Levels of the chains, times the lowest."""
CHAIN_STEP = 0.25
"""Of Langevin dynamics, times sigma^2."""
TINY = 1e-14
"""Added to squares that are divided by: a prior of given images makes no error at all."""
ROUNDING = 1e-8
"""Squared error, a pixel, below which two denoisers are as good: an eightieth of a step of 8-bit pixels."""
ROWS = 2**17
"""Numbers that go through the prior at a time."""


class Estimate(NamedTuple):
    """A value, and half of its 95 % interval."""

    value: float
    error: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.value - self.error

    @property
    def high(self) -> float:
        """The upper end."""
        return self.value + self.error


def ratio(above: Tensor, below: Tensor) -> Estimate:
    """A ratio of sums over images, (N,) each; its interval by the delta method."""
    above, below = above.double().cpu(), below.double().cpu() + TINY
    value = float(above.sum() / below.sum())
    return Estimate(value, interval(((above - value * below) / below.mean()).numpy())[1])


def log_ratio(above: Tensor, below: Tensor) -> Estimate:
    """The log of a ratio of means over images, averaged over levels, (N, L) each; its interval by the delta method."""
    above, below = above.cpu(), below.cpu()
    value = float((above.mean(dim=0) / below.mean(dim=0)).log().mean())
    return Estimate(value, mean((above / above.mean(dim=0) - below / below.mean(dim=0)).mean(dim=1)).error)


def root(square: Estimate) -> Estimate:
    """The square root of what is >= 0 but for chance."""
    value = math.sqrt(max(square.value, 0.0))
    return Estimate(value, math.sqrt(max(square.high, 0.0)) - value)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows (B, C, H, W), over the number of pixels: (B,) float64."""
    return (a.double() * b.double()).flatten(1).mean(dim=1)


def mean(values: Tensor) -> Estimate:
    """Of numbers (N,), one an image."""
    return Estimate(*interval(values.cpu().numpy()))


def denoised_rows(prior: Prior, x: Tensor, sigma: float) -> Tensor:
    """D(x, sigma), a part of the rows at a time."""
    with torch.no_grad():
        return torch.cat([prior.denoise(part, sigma) for part in x.split(max(1, ROWS // x[0].numel()))])


def noisy(x0: Tensor, sigma: float, rng: Streams, purpose: str) -> Tensor:
    """x0 + sigma n."""
    return x0 + sigma * rng.randn_like(f"{purpose} {sigma:.6g}", x0)


def levels_of(prior: Prior) -> list[float]:
    """Levels from the lowest to the highest, evenly in their logarithm."""
    low, high = max(prior.sigma_min, LOWEST), min(prior.sigma_max, HIGHEST)
    inside = np.geomspace(low, high, NUM_LEVELS)[1:-1]
    return [low, *map(float, inside), high]


def chain_levels(prior: Prior) -> list[float]:
    """Levels at which score and chains are looked at."""
    low = max(prior.sigma_min, LOWEST)
    return [low * factor for factor in CHAIN_FACTORS if low * factor <= prior.sigma_max]


@dataclass(frozen=True)
class Level:
    """Of D at one level of noise.

    Args:
        sigma: the level.
        rmse: root mean squared error of D, a pixel; that of the identity is sigma.
        linear: the same of the linear denoiser.
        against_linear: ratio of the two squared errors.
        bias: <x0 - D, x - D> / |x - D|^2, 0 for an exact one: the share of what D takes away that is no noise. Below 0
            it takes away too little.
        drift: |E[D(x', s) | x] - D(x, sigma)|^2 over the squared error, 0 for an exact one.
    """

    sigma: float
    rmse: Estimate
    linear: float
    against_linear: Estimate
    bias: Estimate
    drift: Estimate


def level(prior: Prior, linear: StationaryPrior, x0: Tensor, sigma: float, rng: Streams) -> Level:
    """Errors of D on x0 + sigma n, for images (N, C, H, W) that the linear denoiser was not fitted to."""
    x = noisy(x0, sigma, rng, "probe level")
    denoised = denoised_rows(prior, x, sigma)
    error, removed = denoised - x0, x - denoised
    squared, of_linear = inner(error, error), inner(*2 * [denoised_rows(linear, x, sigma) - x0])
    return Level(
        sigma,
        root(mean(squared)),
        math.sqrt(float(of_linear.mean())),
        ratio(squared, of_linear),
        ratio(-inner(error, removed), inner(removed, removed)),
        ratio(drift(prior, x, denoised, sigma, rng), squared),
    )


def drift(prior: Prior, x: Tensor, denoised: Tensor, sigma: float, rng: Streams) -> Tensor:
    """|E[D(x', s) | x] - D(x, sigma)|^2 a pixel, (N,), without bias: the product of two draws' differences.

    The reverse step is the Gaussian of `Ancestral`; what its short form leaves out is of second order in 1 - `STEP`.
    """
    lower = max(STEP * sigma, prior.sigma_min)
    centre, std = Ancestral().moments(x, denoised, None, sigma, lower)
    draws = [centre + std * rng.randn_like(f"probe reverse {sigma:.6g}", x) for _ in range(2)]
    first, second = (denoised_rows(prior, draw, lower) - denoised for draw in draws)
    return inner(first, second)


def gains(prior: Prior, x0: Tensor, sigmas: Sequence[float], rng: Streams) -> dict[str, Estimate]:
    """For each of `READINGS` the change of log mean squared error that undoing it brings, a mean over levels.

    It is the mean over images that D minimises: without a fault that is none most images may be better, and a few
    much worse. Levels at which the prior cannot be asked so are left out.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in READINGS}
    for sigma in sigmas:
        x = noisy(x0, sigma, rng, "probe reading")
        error = denoised_rows(prior, x, sigma) - x0
        answers: dict[Asked, Tensor | None] = {}
        for name, reading in READINGS.items():
            if reading.asked not in answers:
                answers[reading.asked] = asked_so(prior, *reading.asked(x, sigma))
            if (answer := answers[reading.asked]) is not None:
                undone = reading.read(x, sigma, answer) - x0
                found[name].append((inner(undone, undone) + ROUNDING, inner(error, error) + ROUNDING))
    return {
        name: log_ratio(*(torch.stack(part, dim=1) for part in zip(*changes, strict=True)))
        for name, changes in found.items()
        if len(changes) > len(sigmas) // 2
    }


def asked_so(prior: Prior, x: Tensor, sigma: float) -> Tensor | None:
    """D, or None where the level is outside of the prior's range."""
    return denoised_rows(prior, x, sigma) if prior.sigma_min <= sigma <= prior.sigma_max else None


@dataclass(frozen=True)
class Jacobian:
    """Of J = dD/dx at one level.

    Args:
        sigma: the level.
        asymmetry: |J - J^T| / (2 |J|) in Frobenius norms, 0 for an exact denoiser and 0.71 for a random matrix.
        smallest, largest: eigenvalues of its symmetric part, as far as a Krylov space of a few dimensions shows them:
            the true ones are beyond. Above 1 is no fault: it is where modes separate.
    """

    sigma: float
    asymmetry: Estimate
    smallest: Estimate
    largest: Estimate


def products(prior: Prior, x: Tensor, sigma: float) -> Callable[[Tensor], Tensor]:
    """v -> J^T v of each row, J = dD/dx at x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        denoised = prior.denoise(x, sigma)
    return lambda v: torch.autograd.grad(denoised, x, v, retain_graph=True)[0]


def jacobian(prior: Prior, x0: Tensor, sigma: float, rng: Streams) -> Jacobian:
    """Symmetry and extreme eigenvalues of dD/dx at x0 + sigma n.

    For independent standard normal u, v: E <v, J^T u>^2 = |J|^2, and E (<v, J^T u> - <u, J^T v>)^2 = |J - J^T|^2.
    """
    x = noisy(x0, sigma, rng, "probe jacobian")
    transposed = products(prior, x, sigma)
    vectors = [rng.randn_like(f"probe vector {sigma:.6g}", x) for _ in range(PROBES)]
    images = [transposed(vector) for vector in vectors]
    pairs = list(itertools.combinations(range(PROBES), 2))
    differences = torch.stack([inner(vectors[i], images[j]) - inner(vectors[j], images[i]) for i, j in pairs])
    skew = differences.square().mean(dim=0) * x[0].numel()  # |J - J^T|^2 a pixel, as `whole` is |J|^2 a pixel
    whole = torch.stack([inner(image, image) for image in images]).mean(dim=0)
    values = ritz_values(transposed, vectors[0], KRYLOV)
    asymmetry = root(ratio(skew / 4, whole))
    return Jacobian(sigma, asymmetry, mean(values[:, 0]), mean(values[:, -1]))


def ritz_values(matrix: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Eigenvalues (B, steps), ascending, of the symmetric part of each row's matrix in a Krylov space (Arnoldi).

    They lie between the extreme eigenvalues of the symmetric part, whether or not the matrix is symmetric.
    """
    basis = [_normalised(start)]
    images = []
    for _ in range(steps):
        images.append(matrix(basis[-1]).flatten(1))
        fresh, space = images[-1], torch.stack([one.flatten(1) for one in basis], dim=1)  # (B, k, d)
        for _ in range(2):  # once leaves rounding errors of the size of what is left
            fresh = fresh - torch.einsum("bk,bkd->bd", torch.einsum("bkd,bd->bk", space, fresh), space)
        basis.append(_normalised(fresh.view_as(start)))
    projected = torch.einsum("bkd,bld->bkl", space, torch.stack(images, dim=1)).double().cpu()
    return torch.linalg.eigvalsh((projected + projected.mT) / 2)


def _normalised(x: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(1e-12)
    return x / norms.view(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class Chain:
    """Of Langevin dynamics on p_sigma that start at images plus noise.

    Args:
        sigma: the level at which the score is read.
        bias: as in `Level`: the share by which the score is too large, if its error is independent of it.
        removed: |x - D|^2 in the chain's last quarter, over that at its start.
        distance: squared Mahalanobis distance from the images, by their linear model, at the end over the start.
    """

    sigma: float
    bias: Estimate
    removed: Estimate
    distance: Estimate


def chain(prior: Prior, linear: StationaryPrior, x0: Tensor, sigma: float, rng: Streams, num_steps: int) -> Chain:
    """Langevin dynamics in steps h = `CHAIN_STEP` sigma^2, x <- x + h s(x) + sqrt(h / 2) (n_k + n_(k+1)).

    Gaussians keep their variance exactly, whatever the step (Leimkuhler and Matthews, Appl. Math. Res. Express 2013).
    """
    start = x = noisy(x0, sigma, rng, "probe chain start")
    purpose, scale = f"probe chain {sigma:.6g}", sigma * math.sqrt(CHAIN_STEP / 2)
    noise, removed = rng.randn_like(purpose, x), []
    for step in range(num_steps + 1):
        change = denoised_rows(prior, x, sigma) - x
        removed.append(inner(change, change))
        if step == 0:
            bias = ratio(inner(start + change - x0, change), removed[0])
        if step < num_steps:
            noise, before = rng.randn_like(purpose, x), noise
            x = x + CHAIN_STEP * change + scale * (before + noise)
    last = torch.stack(removed[-(num_steps // 4 + 1) :]).mean(dim=0)
    distances = [linear.distance(state, sigma) for state in (start, x)]
    return Chain(sigma, bias, ratio(last, removed[0]), ratio(distances[1], distances[0]))


@dataclass(frozen=True)
class Safety:
    """Of the computation.

    Args:
        not_finite: levels at which D has NaN or infinite values.
        beyond: largest share, over levels, of D's numbers that are more than 0.1 outside of the images' own range.
        alone: largest difference between an image alone and in a batch, over the largest number of D.
        again: between two calls.
        by_row: between one level for all images and a level for each.
        low_precision: ``bfloat16``, ``float16`` -> squared difference from float32 over the squared error, the largest
            over levels; NaN if it is not finite; None without a network whose precision can be set.
    """

    not_finite: list[float]
    beyond: float
    alone: float
    again: float
    by_row: float
    low_precision: dict[str, float | None]


def safety(prior: Prior, x0: Tensor, sigmas: Sequence[float], rng: Streams) -> Safety:
    """Whether numbers are finite, in range, and those of their image alone, for images (N, C, H, W), N >= 2."""
    low, high = float(x0.min()) - 0.1, float(x0.max()) + 0.1
    not_finite, beyond, alone, again, by_row = [], [0.0], [0.0], [0.0], [0.0]
    states = [noisy(x0, sigma, rng, "probe safety") for sigma in sigmas]
    for sigma, x in zip(sigmas, states, strict=True):
        denoised = denoised_rows(prior, x, sigma)
        if not torch.isfinite(denoised).all():
            not_finite.append(sigma)
            continue
        beyond.append(float(((denoised < low) | (denoised > high)).double().mean()))
        size = denoised.abs().max().clamp_min(1e-12)
        levels = torch.full((len(x),), sigma, device=x.device)
        with torch.no_grad():
            others = (prior.denoise(x[-1:], sigma)[0], prior.denoise(x, sigma)[-1], prior.denoise(x, levels)[-1])
        for gaps, other in zip((alone, again, by_row), others, strict=True):
            gaps.append(float((other - denoised[-1]).abs().max() / size))
    types = (torch.bfloat16, torch.float16)
    precision = {str(dtype).split(".")[1]: low_precision(prior, x0, states, sigmas, dtype) for dtype in types}
    return Safety(not_finite, max(beyond), max(alone), max(again), max(by_row), precision)


def low_precision(
    prior: Prior, x0: Tensor, states: Sequence[Tensor], sigmas: Sequence[float], dtype: torch.dtype
) -> float | None:
    """What computing the network in ``dtype`` adds to the squared error; see `Safety`."""
    networks = [module for module in prior.modules() if isinstance(module, NetworkPrior)]
    if not networks:
        return None
    added = []
    for sigma, x in zip(sigmas, states, strict=True):
        exact = denoised_rows(prior, x, sigma)
        with computed_in(networks, dtype):
            change = denoised_rows(prior, x, sigma) - exact
        added.append(float(inner(change, change).sum() / inner(exact - x0, exact - x0).sum()))
    return float(np.max(added))


@contextmanager
def computed_in(networks: Sequence[NetworkPrior], dtype: torch.dtype) -> Iterator[None]:
    """Within it networks' products are computed in that type."""
    before = [network.network_dtype for network in networks]
    for network in networks:
        network.network_dtype = dtype
    try:
        yield
    finally:
        for network, old in zip(networks, before, strict=True):
            network.network_dtype = old


@dataclass(frozen=True)
class Sizes:
    """How many images are used.

    Args:
        judged: images whose errors are measured; the linear denoiser is fitted to the others.
        read: of them, those that faults are undone on.
        followed: of them, those of Jacobians and chains.
        steps: of a chain.
    """

    judged: int = 32
    read: int = 20
    followed: int = 6
    steps: int = 48


@dataclass(frozen=True)
class Measured:
    """All that was measured of a prior.

    Args:
        fitted: images that the linear denoiser was fitted to.
        sizes: of the rest.
        safety: of the computation. Where that is not finite nothing else is measured.
        levels, jacobians, chains: by level, ascending.
        gains: fault -> change of the log squared error when it is undone.
    """

    fitted: int
    sizes: Sizes
    safety: Safety
    levels: list[Level]
    jacobians: list[Jacobian]
    chains: list[Chain]
    gains: dict[str, Estimate]


def split(count: int, judged: int) -> tuple[list[int], list[int]]:
    """Numbers of the images that are judged, evenly spread, and of the others."""
    chosen = [place * count // judged for place in range(judged)]
    return chosen, sorted(set(range(count)) - set(chosen))


def measure(
    prior: Prior,
    images: Tensor,
    ids: Sequence[str],
    seed: int = 0,
    sizes: Sizes | None = None,
    told: Callable[[float, str], None] = lambda share, what: None,
) -> Measured:
    """Measure a prior on images of its law.

    Args:
        prior: which.
        images: (N, C, H, W) in [-1, 1], at least twice as many as are judged; on the prior's device.
        ids: of the images, for their random streams.
        seed: of all random numbers.
        sizes: how much; those of `Sizes` if None, and at most half of the images judged.
        told: hears which share is done, and what comes next.
    """
    sizes = fitting_sizes(len(images), sizes or Sizes())
    chosen, others = split(len(images), sizes.judged)
    linear, x0 = StationaryPrior(images[others]).to(images.device), images[chosen]

    def part(count: int) -> tuple[Tensor, Streams]:
        return x0[:count], Streams(seed, [ids[one] for one in chosen[:count]], device=x0.device, samples=[-1])

    sigmas, low = levels_of(prior), chain_levels(prior)
    few, rng = part(4)
    told(0.0, "computation")
    safe = safety(prior, few, sigmas, rng)
    if safe.not_finite:
        return Measured(len(others), sizes, safe, [], [], [], {})
    images_of, rng = part(sizes.judged)
    told(0.05, "errors")
    levels = [level(prior, linear, images_of, sigma, rng) for sigma in sigmas]
    images_of, rng = part(sizes.read)
    told(0.25, "known faults")
    changes = gains(prior, images_of, sigmas, rng)
    images_of, rng = part(sizes.followed)
    told(0.55, "Jacobian")
    inside = [sigma for sigma in AT if prior.sigma_min <= sigma <= prior.sigma_max]
    jacobians = [jacobian(prior, images_of, sigma, rng) for sigma in inside]
    chains = []
    for number, sigma in enumerate(low):
        told(0.65 + 0.35 * number / len(low), f"Langevin chains at sigma {sigma:.3g}")
        chains.append(chain(prior, linear, images_of, sigma, rng, sizes.steps))
    return Measured(len(others), sizes, safe, levels, jacobians, chains, changes)


def fitting_sizes(count: int, sizes: Sizes) -> Sizes:
    """Sizes with at most half of ``count`` images judged."""
    most = count // 2
    return Sizes(min(sizes.judged, most), min(sizes.read, most), min(sizes.followed, most), sizes.steps)
