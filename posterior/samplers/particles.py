"""What particle samplers share: weighted chains of one row, of which the likely ones have children."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from posterior.checks import MOST_SAMPLES, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.spectrum import Spectrum, spectrum

COPIES = 24
"""Of all particles that a step holds at once, the network's own memory not counted: up to 23 were measured (most of
them while random numbers are made)."""
TOGETHER = 16
"""Images that the network is called with, or one particle of each row: the authors of MCG-diff do so, too."""
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
"""Where Linux says what memory is free, and what a group of processes may have (cgroup version 2)."""


class ParticleSampler(Sampler):
    """A row has its own particles, drawn from its stream and resampled within the row; the sample is one of them.

    It costs ``num_particles`` times as many evaluations as a chain of that many steps. Resampling jumps: where two
    particles nearly tie, rounding that differs from batch to batch can choose another one.
    """

    num_particles: int

    def __post_init__(self) -> None:
        whole(type(self).__name__, "num_particles", self.num_particles, 1, MOST_SAMPLES)

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        x, log_weights = self.particles(prior, measurement, rng, observe)
        one = multinomial(log_weights, rng.rand_like("one particle", log_weights[:, :1]))
        known = log_weights.softmax(dim=1).isfinite().all(dim=1).view(-1, 1, 1, 1)  # not if all weights are 0
        return check_finite(select(x, one)[:, 0].where(known, torch.nan), rng, type(self).__name__)

    @abstractmethod
    def particles(
        self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved
    ) -> tuple[Tensor, Tensor]:
        """All particles (R, P, C, H, W), and the logarithms of their weights (R, P), up to a number a row.

        The observer sees the first particle of each row.

        Raises:
            UserError: as a call does.
        """

    def check_memory(self, measurement: Measurement) -> None:
        """Refuse more particles than the device has room for.

        The network's memory is that of `TOGETHER` images or of the rows, whatever the number of particles.

        Raises:
            UserError: if the particles alone do not fit.
        """
        rows, free = len(measurement.y), memory_of(measurement.y.device)
        needed = measurement.y.element_size() * COPIES * rows * self.num_particles * math.prod(measurement.image_shape)
        if free is not None and needed > free:
            raise UserError(
                f"{type(self).__name__}: num_particles {self.num_particles} for {rows} rows of images "
                f"{measurement.image_shape} need {needed / 2**30:.3g} GiB, there are {free / 2**30:.3g}: "
                "take fewer particles, or lower batch_size or num_samples"
            )


def memory_of(device: torch.device) -> int | None:
    """Bytes that a device has free, None where nobody knows."""
    if device.type == "cuda" and torch.cuda.is_available():
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch will use it again
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "cpu" and MEMINFO.is_file():
        free = [1024 * int(line.split()[1]) for line in MEMINFO.read_text().splitlines() if "MemAvailable" in line]
        return min([*free, *_left_to_the_group()], default=None)
    return None


def _left_to_the_group() -> list[int]:
    """What a container's or a batch system's limit leaves of the host's memory, if there is one."""
    most, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if not most.is_file() or not used.is_file() or not (limit := most.read_text().strip()).isdigit():
        return []
    return [max(0, int(limit) - int(used.read_text()))]


def blocks(x: Tensor) -> Sequence[Tensor]:
    """Particles (R, P, C, H, W) in groups that the network sees at once, (R, p, C, H, W) each; see `TOGETHER`."""
    return x.split(max(1, TOGETHER // len(x)), dim=1)


def denoise(prior: Prior, x: Tensor, sigma: float) -> Tensor:
    """D(x, sigma) of particles (R, P, C, H, W): R P images to the prior, block by block."""
    return torch.cat([prior.denoise(part.flatten(0, 1), sigma).view_as(part) for part in blocks(x)], dim=1)


def spectrum_of_particles(measurement: Measurement, who: str, num_particles: int) -> Spectrum:
    """The measurement's `Spectrum` for P particles a row: s and ybar (R, 1, C, H, W), V's products (R, P, C, H, W).

    Raises:
        UserError: as `spectrum` does.
    """
    rows = len(measurement.y)
    each = torch.arange(rows, device=measurement.y.device).repeat_interleave(num_particles)
    known = spectrum(measurement.rows(each), who)

    def first(x: Tensor) -> Tensor:
        return x.view(rows, num_particles, *x.shape[1:])[:, :1]

    def flat(turn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: turn(x.flatten(0, 1)).view_as(x)

    return replace(
        known,
        s=first(known.s),
        ybar=first(known.ybar),
        analyse=flat(known.analyse),
        synthesise=flat(known.synthesise),
    )


def multinomial(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """The particles that numbers fall on, (R, K) indices; from independent numbers: draws by the weights.

    A row with a weight that is NaN, or infinite, gets the first such particle alone, so that it shows.

    Args:
        log_weights: up to a number a row, (R, P); -inf is weight 0.
        uniforms: in (0, 1], one a draw, (R, K).
    """
    cumulated = log_weights.softmax(dim=1).cumsum(dim=1)
    index = torch.searchsorted(cumulated / cumulated[:, -1:], uniforms.contiguous())
    spoiled = log_weights.isnan() | log_weights.isposinf()
    first = spoiled.int().argmax(dim=1, keepdim=True)
    return torch.where(spoiled.any(dim=1, keepdim=True), first, index.clamp_max(log_weights.shape[1] - 1))


def systematic(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """As many draws as particles, by one number a row: one of weight w has floor(P w) or ceil(P w) children.

    Source: Kitagawa 1996, Journal of Computational and Graphical Statistics 5; NaN as for `multinomial`.

    Args:
        log_weights: up to a number a row, (R, P).
        uniforms: in (0, 1], (R, 1).

    Returns:
        Indices (R, P), rising.
    """
    count = log_weights.shape[1]
    places = torch.arange(count, device=log_weights.device, dtype=log_weights.dtype)
    return multinomial(log_weights, (places + uniforms) / count)


def select(x: Tensor, index: Tensor) -> Tensor:
    """The particles of each row that the row's indices name: (R, P, ...), (R, K) -> (R, K, ...)."""
    return torch.take_along_dim(x, index.view(*index.shape, *[1] * (x.ndim - 2)), dim=1)


def effective_number(log_weights: Tensor) -> Tensor:
    """The effective sample size 1 / sum of squared weights, from 1 to P, (R,)."""
    return 1 / log_weights.softmax(dim=1).square().sum(dim=1)
