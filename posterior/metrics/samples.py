"""Numbers for all samples of an image together: scores, and what their spread tells of their error."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior.metrics.base import SampleMetric
from posterior.metrics.distribution import leave_one_out_scores


class CRPS(SampleMetric):
    """Continuous ranked probability score, mean over an image's numbers; the fair one, whose mean does not tell K.

    E|X - truth| - E|X - X'| / 2, the second mean over different samples: in units of the image, least on average for
    samples of the true posterior. Gneiting and Raftery, JASA 102, 2007; Ferro, Q. J. R. Meteorol. Soc. 140, 2014.
    """

    name = "crps"

    def forward(self, samples: Tensor, truth: Tensor) -> Tensor:
        return _first(samples, truth, 1) / truth[0].numel()


class EnergyScore(SampleMetric):
    """The same of whole images, with the Euclidean distance for |.|: it sees how numbers go together; see `CRPS`."""

    name = "energy_score"

    def forward(self, samples: Tensor, truth: Tensor) -> Tensor:
        return _first(samples, truth, 2)


def _first(samples: Tensor, truth: Tensor, norm: float) -> Tensor:
    return leave_one_out_scores(torch.cat([truth[None], samples]).flatten(2), norm)[0]


class SpreadOverError(SampleMetric):
    """Standard deviation of the samples over the error of their mean, root mean squares over an image's numbers.

    Times (1 + 1 / K)^(1/2), so that 1 is what exact samples have where an image has many numbers that err on their own;
    below it they are too sure. Where few directions hold the error, an image's ratio varies and the mean over images is
    larger: for K = 9 exact samples in 16 directions 1.05, in four 1.24. Samples that are all the truth have 1. Those
    that differ, about a mean that is the truth to the last bit, have no finite value, and the run names the image.
    """

    name = "spread_over_error"

    def forward(self, samples: Tensor, truth: Tensor) -> Tensor:
        variance, off = spread_and_error(samples, truth)
        spread, error = variance.mean(dim=1) * (1 + 1 / len(samples)), off.square().mean(dim=1)
        return torch.where((spread == 0) & (error == 0), 1, (spread / error).sqrt())


class AUSE(SampleMetric):
    """Area under the sparsification error: does the spread say where the error is? 0 for a perfect order of numbers.

    The least uncertain share of an image's numbers has some mean error; as the share falls, it should fall as it does
    where numbers are ordered by their errors themselves. The mean difference over all shares, in units of the error of
    all numbers; 0 where there is no error, as no order is better then. Ilg et al., "Uncertainty Estimates and
    Multi-Hypotheses Networks for Optical Flow", ECCV 2018.
    """

    name = "ause"

    def forward(self, samples: Tensor, truth: Tensor) -> Tensor:
        return sparsification_area(*sparsification(samples, truth))


def spread_and_error(samples: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Variance of the samples, and what their mean has more than the truth, of each number.

    Args:
        samples: (K, B, *S), K at least 2.
        truth: (B, *S).

    Returns:
        (B, N) both, N numbers an image.
    """
    off = samples - truth
    mean = off.mean(dim=0)
    return (off - mean).square().sum(dim=0).flatten(1) / (len(samples) - 1), mean.flatten(1)


def sparsification(samples: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Mean |mean - truth| of the 1, 2, ..., all numbers of the least spread, and of the least error, (B, N) both.

    Args:
        samples: (K, B, *S), N numbers each.
        truth: (B, *S).
    """
    spread, off = spread_and_error(samples, truth)
    error = off.abs()
    count = torch.arange(1, error.shape[1] + 1, device=error.device)
    ordered = error.gather(1, spread.argsort(dim=1, stable=True))
    return ordered.cumsum(dim=1) / count, error.sort(dim=1).values.cumsum(dim=1) / count


def at_shares(curve: Tensor, shares: Tensor) -> Tensor:
    """A curve of `sparsification` (B, N) where it has these shares of the numbers, each in (0, 1]: (B, len(shares))."""
    places = (shares.double() * curve.shape[1]).round().long().clamp_min(1) - 1
    return curve[:, places.to(curve.device)]


def sparsification_area(kept: Tensor, best: Tensor) -> Tensor:
    """What `AUSE` is of the two curves of `sparsification`: (B, N) both -> (B,)."""
    return (kept - best).mean(dim=1) / kept[:, -1].clamp_min(torch.finfo(kept.dtype).tiny)


def spread_skill(samples: Tensor, truth: Tensor, bins: int = 10) -> tuple[Tensor, Tensor]:
    """What the spread says of the error of the samples' mean, and that error, of an image's numbers by their spread.

    Each bin holds equally many numbers, to one. Root mean squares; the spread is (1 + 1 / K)^(1/2) times the standard
    deviation of K samples, so that for exact samples both are equal on average. Fortin et al., J. Hydrometeorol. 15,
    2014.

    Args:
        samples: (K, B, *S), K at least 2.
        truth: (B, *S).
        bins: how many; of fewer numbers one each.

    Returns:
        (B, bins) both, the least spread first.
    """
    spread, off = spread_and_error(samples, truth)
    order = spread.argsort(dim=1, stable=True)
    found = spread * (1 + 1 / len(samples)), off.square()
    parts = (values.gather(1, order).tensor_split(min(bins, values.shape[1]), dim=1) for values in found)
    said, made = (torch.stack([part.mean(dim=1) for part in split], dim=1).sqrt() for split in parts)
    return said, made
