"""What runs another library's sampler as one of ours: its code, our priors, operators and random numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from posterior.measurement import Measurement
from posterior.priors.base import Prior
from posterior.random import Streams, key_of
from posterior.samplers.base import Observer, Sampler, check_finite, unobserved
from posterior.samplers.spectrum import Spectrum, spectrum

PURPOSE = "their code"
NORMAL = {torch.randn, torch.randn_like, torch.Tensor.normal_, torch.normal}
"""Functions of torch that libraries draw normal numbers by."""


class FromStreams(TorchFunctionMode):
    """Within it, the normal numbers that a library asks torch for are those of our streams, a row at a time.

    Args:
        rng: R rows; numbers (R n, ...) are asked for, n of each row in turn.
    """

    def __init__(self, rng: Streams) -> None:
        super().__init__()
        self.rng = rng

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func not in NORMAL:
            return found
        mean, std = moments(func, args, kwargs or {})
        return found.copy_(mean + std * self.numbers(found))

    def numbers(self, like: Tensor) -> Tensor:
        """The next ones, shaped and typed like a tensor."""
        return self.rng.randn(PURPOSE, (like.numel() // len(self.rng),), like.dtype).view_as(like)


def moments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Mean and standard deviation that one of `NORMAL` is asked for, numbers or tensors; 0 and 1 where it is not."""
    given = args[:2] if func is torch.normal else args[1:3] if func is torch.Tensor.normal_ else ()
    told = {"mean": 0.0, "std": 1.0, **kwargs, **dict(zip(("mean", "std"), given, strict=False))}
    return told["mean"], told["std"]


class TheirSampler(Sampler):
    """A sampler of another library, with its defaults; linear operators of known singular values, Gaussian noise.

    It is given the rows that have one operator, in the coordinates of the singular vectors A = U S V^T: S V^T x, which
    is a measurement of as many numbers as an image and has the same posterior. Its normal numbers are drawn from the
    rows' streams; all others come from torch's own generator, set from the first row's and put back. Levels outside the
    prior's range are taken for the nearest that is inside.
    """

    together: ClassVar[bool] = True
    """Whether several rows may be in one call, as none of them sees another."""

    @abstractmethod
    def samples(self, prior: Prior, known: Spectrum) -> Tensor:
        """A sample for each row, (R, C, H, W), in [-1, 1] as ours are; S is the same for all."""

    @torch.no_grad()
    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        name = type(self).__name__
        same = self.together and not measurement.operator.per_image
        calls: dict[tuple[str, int], list[int]] = {}
        for row, (image_id, sample) in enumerate(rng.rows):
            key = ("" if same else image_id, 0 if self.together else sample)
            calls.setdefault(key, []).append(row)
        x = torch.empty(len(rng), *measurement.image_shape, device=measurement.y.device)
        for done, rows in enumerate(calls.values(), start=1):
            known = spectrum(measurement.rows(torch.tensor(rows, device=x.device)), name)
            image_id, sample = rng.rows[rows[0]]
            numbers = [rng.rows[row][1] for row in rows]
            own = rng if same else Streams(rng.seed, [image_id], device=x.device, samples=numbers)
            with torch.random.fork_rng(), FromStreams(own):
                torch.manual_seed(key_of(rng.seed, image_id, sample, PURPOSE) >> 1)
                x[rows] = self.samples(prior, known).to(x)
            observe(name, done, len(calls), x)
        return check_finite(x, rng, name)


def denoised(prior: Prior, x: Tensor, sigma: float | Tensor) -> Tensor:
    """D(x, sigma), (B, C, H, W), at the level nearest to sigma, a number or as many as images, that the prior has."""
    levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).flatten()
    return prior.denoise(x, levels.clamp(prior.sigma_min, prior.sigma_max).expand(len(x)))
