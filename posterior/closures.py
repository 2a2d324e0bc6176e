"""Likelihoods of visibilities that do not trust the stations' gains: closure quantities, and amplitudes."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from posterior.checks import real
from posterior.errors import UserError
from posterior.noise import Likelihood

BIAS = 2.0
"""Of |y|^2 / sigma_y^2, over that without noise: two parts have a variance of 1 each."""
LEAST_WEIGHT = 0.01
"""Of a phase, 1 / radian^2, where its visibility is lost in noise: as good as nothing."""


@dataclass(frozen=True)
class ClosureFit:
    """How well visibilities fit others up to the stations' gains, summed over scans.

    Args:
        phases: chi^2 of the closure phases, of each scan, (B, T).
        amplitudes: chi^2 of the log closure amplitudes, likewise.
        num_phases: independent closure phases, (B,).
        num_amplitudes: independent log closure amplitudes, (B,).
    """

    phases: Tensor
    amplitudes: Tensor
    num_phases: Tensor
    num_amplitudes: Tensor


def number_of_stations(baselines: int) -> int:
    """N of N (N - 1) / 2 baselines.

    Raises:
        UserError: if there is none.
    """
    count = (1 + math.isqrt(1 + 8 * baselines)) // 2
    if count * (count - 1) // 2 != baselines or count < 3:
        raise UserError(
            f"closure quantities need the visibilities (2, scans, N (N - 1) / 2) of N >= 3 stations, such as those of "
            f"EHTGains, got {baselines} baselines"
        )
    return count


def closure_fit(y: Tensor, clean: Tensor, sigma_y: float) -> ClosureFit:
    """chi^2 of all closure phases and log closure amplitudes with their covariances, to leading order in noise.

    At each scan b runs over the baselines (i, j) of the stations that see the source. Some may be missing, if the rest
    lead from every station to every other, and three of them make a triangle. The signal-to-noise ratio rho_b
    is that of y, rho_b^2 = max(|y_b|^2 / sigma_y^2 - 2, 0.01); phase and log amplitude of y_b have both the variance
    1 / rho_b^2. Gains change phases by theta_i - theta_j and log amplitudes by a_i + a_j. Closures are the combinations
    Psi that this leaves alone, and their chi^2 with the full covariance Psi diag(1 / rho^2) Psi^T is what remains of a
    weighted fit of the gains,

        chi^2 = min over the gains of  sum_b rho_b^2 (d_b - (gains of b))^2,    d = log(y / clean), a part at a time,

    for whichever complete set of closures: S - 1 fitted phases leave (S - 1)(S - 2) / 2 closure phases of S stations, S
    fitted amplitudes leave S (S - 3) / 2 log closure amplitudes. Phases are first turned by those of the baselines to
    one station, that of the best signals, so that d_ij becomes the closure phase of its triangle, within (-pi, pi].

    Source: Blackburn, Pesce, Johnson et al., "Closure statistics in interferometric data", ApJ 894, 31 (2020).
    InverseBench (Zheng et al., ICLR 2025), as eht-imaging, leaves correlations out and has 2 (1 - cos) in place of a
    squared phase.

    Args:
        y: measured visibilities, (B, 2, T, N (N - 1) / 2), real and imaginary parts; 0 where there is none.
        clean: those they are compared with.
        sigma_y: standard deviation of the noise of a part, > 0.

    Raises:
        UserError: if the number of baselines is that of no array.
    """
    count = number_of_stations(y.shape[-1])
    seen_y, model = (torch.complex(z[:, 0].double(), z[:, 1].double()) for z in (y, clean))
    there = seen_y != 0  # (B, T, N)
    numbers = torch.arange(count, device=y.device)
    first, second = ((row[:, None] == numbers).double() for row in _ends(count, y.device))
    weight = torch.where(there, (seen_y.abs().square() / sigma_y**2 - BIAS).clamp_min(LEAST_WEIGHT), 0)
    # where nothing is measured, and where a model is 0, a ratio of 1 has neither phase nor gradient
    ratio = torch.where(there & (model != 0), seen_y / torch.where(model == 0, 1, model), 1)
    stations = there.double() @ (first + second) > 0  # (B, T, S)
    fitted = stations.sum(dim=-1)
    phases = torch.angle(ratio * _gauge(ratio, weight, first, second))
    lengths = ratio.abs().log()
    extra = (there.sum(dim=-1) - torch.stack([(fitted - 1).clamp_min(0), fitted])).clamp_min(0)  # closures, (2, B, T)
    present = stations.double()
    unseen, shared = torch.diag_embed(1 - present), present[..., None] * present[..., None, :]
    few = torch.diag_embed((extra[1] == 0)[..., None].expand_as(present).double())  # gains are open, and none matters
    left = [
        _left_over(phases, weight, first - second, unseen + shared),
        _left_over(lengths, weight, first + second, unseen + few),
    ]
    return ClosureFit(*(torch.where(n > 0, chi2, 0) for n, chi2 in zip(extra, left, strict=True)), *extra.sum(dim=-1))


def _ends(count: int, device: torch.device) -> Tensor:
    """The stations of each baseline, (2, N), in the order of `pairs`."""
    return torch.triu_indices(count, count, offset=1, device=device)


def _gauge(ratio: Tensor, weight: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """What turns the phases of ratios (B, T, N) into closure phases of triangles with one station, of length 1.

    The station is that whose worst baseline has the best signal; the baselines to it get the phase 0. A station that
    has no baseline to it is reached through those that have.
    """
    ends = (first + second).mT  # (S, N)
    known = weight > 0
    worst = torch.where((ends > 0) & known[..., None, :], weight[..., None, :], torch.inf).amin(dim=-1)
    chosen = torch.where(worst.isinf(), -1, worst).argmax(dim=-1)  # (B, T)
    turn = torch.where(known, ratio / ratio.abs(), 0)
    outward = first.mT.to(turn) @ (turn[..., None] * second)  # (B, T, S, S): of baselines (i, j)
    links = outward + outward.mH
    to = torch.nn.functional.one_hot(chosen, len(ends)).to(turn)  # (B, T, S): of (chosen, j), 0 where not reached
    for _ in range(len(ends) - 1):
        to = torch.where(to == 0, torch.sgn((to[..., None, :] @ links).squeeze(-2)), to)
    to = torch.where(to == 0, 1, to)
    return (to @ first.to(turn).mT) * (to @ second.to(turn).mT).conj()


def _left_over(d: Tensor, weight: Tensor, design: Tensor, free: Tensor) -> Tensor:
    """min over gains of sum_b weight_b (d_b - (design gains)_b)^2, (B, T).

    Args:
        d: (B, T, N).
        weight: likewise.
        design: what the gains of the stations do to d, (N, S).
        free: added to the normal matrix (B, T, S, S), so that gains that change nothing come out as 0.
    """
    normal = design.mT @ (weight[..., None] * design) + free
    gains, _ = torch.linalg.solve_ex(normal, ((weight * d) @ design)[..., None])
    return (weight * (d - gains.squeeze(-1) @ design.mT).square()).sum(dim=-1)


class VisibilityLikelihood(Likelihood):
    """Of visibilities with the thermal noise sigma_y, of which only a part is compared.

    log p is a Gaussian's in the quantities compared, but for a factor of y alone.
    """

    informative_residual = False

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean + self.sigma_y * noise

    @abstractmethod
    def chi2(self, y: Tensor, clean: Tensor) -> Tensor:
        """-2 log p(y | clean) but for what y alone decides, of each scan, (B, T), float64."""

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """Each scan's stands at the real part of its first baseline; float64."""
        found = torch.zeros(y.shape, dtype=torch.float64, device=y.device)
        found[:, 0, :, 0] = -0.5 * self.chi2(y, clean)
        return found

    def variance(self, y: Tensor) -> float:
        return self.sigma_y**2

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        """Gradient of log p, by automatic differentiation."""
        with torch.enable_grad():
            at = clean.detach().requires_grad_()
            (found,) = torch.autograd.grad(-0.5 * self.chi2(y, at).sum(), at)
        return found

    def distance(self, y: Tensor, clean: Tensor) -> Tensor:
        """sigma_y times the root of chi^2, which is ||y - A x|| where noise is Gaussian."""
        return (self.sigma_y * self.chi2(y, clean).sum(dim=1).clamp_min(1e-12) ** 0.5).to(clean)

    def annealed(self, added_variance: float, y: Tensor) -> Self:
        return replace(self, sigma_y=(self.sigma_y**2 + added_variance) ** 0.5)  # type: ignore[type-var]


@dataclass(frozen=True)
class ClosureQuantities(VisibilityLikelihood):
    """Closure phases and log closure amplitudes alone: gains, the total flux and the source's place have no say.

    Gaussian with the full covariance of either (`closure_fit`), to leading order in the noise: both errors are far
    from Gaussian where a visibility is below twice its noise. The two kinds are independent at that order.

    Args:
        sigma_y: thermal noise of a visibility's real and of its imaginary part, > 0 (`EHTArray.thermal_sigma`).

    Raises:
        UserError: if sigma_y <= 0; on a call, if y is not the visibilities of an array of three stations or more.
    """

    sigma_y: float

    def __post_init__(self) -> None:
        real("ClosureQuantities", "sigma_y", self.sigma_y, above=0)

    def chi2(self, y: Tensor, clean: Tensor) -> Tensor:
        fit = closure_fit(y, clean, self.sigma_y)
        return fit.phases + fit.amplitudes


@dataclass(frozen=True)
class VisibilityAmplitudes(VisibilityLikelihood):
    """Amplitudes alone, phases being lost: |y| is Gaussian about sqrt(|A x|^2 + sigma_y^2), of variance sigma_y^2.

    These are the Rician law's leading terms at high signal-to-noise ratio (Thompson, Moran and Swenson,
    "Interferometry and Synthesis", 2017).

    Args:
        sigma_y: thermal noise of a visibility's real and of its imaginary part, > 0.

    Raises:
        UserError: if sigma_y <= 0.
    """

    sigma_y: float

    def __post_init__(self) -> None:
        real("VisibilityAmplitudes", "sigma_y", self.sigma_y, above=0)

    def chi2(self, y: Tensor, clean: Tensor) -> Tensor:
        seen, mean = y.double().norm(dim=1), (clean.double().square().sum(dim=1) + self.sigma_y**2).sqrt()
        return (torch.where(seen > 0, seen - mean, 0) / self.sigma_y).square().sum(dim=-1)
