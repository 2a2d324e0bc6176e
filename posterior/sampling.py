"""Samples of p(x | y) by one call from Python."""

from __future__ import annotations

import operator
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior.batch import Batch, Prediction
from posterior.checks import MOST_BATCH, MOST_SAMPLES, brief, real, whole
from posterior.errors import Diverged, UserError
from posterior.measurement import Measurement
from posterior.module import PosteriorSampling
from posterior.noise import GaussianNoise
from posterior.operators.base import Operator, OperatorFamily
from posterior.operators.function import Function, operator_of
from posterior.priors.base import ClosedFormPrior, Prior
from posterior.priors.latent import LatentPrior
from posterior.reading import reason
from posterior.samplers.base import Sampler
from posterior.samplers.conditional import ConditionalDescent
from posterior.samplers.in_latents import InLatents
from posterior.settings import conformed, named_file, read_settings
from posterior.settings.building import built
from posterior.shipped import near
from posterior.value_range import of_unit_range

UNIT_RANGE = (
    "y looks like a measurement of images in [0, 1], and images are in [-1, 1] here: it is bright, and has about half "
    "of the contrast that this prior's images have under forward. If so, give 2 * y - forward(1) and 2 * sigma_y, or "
    "leave both and give forward=lambda x: f((x + 1) / 2) (docs/measurements.md, which noise scale)"
)


@dataclass(frozen=True)
class Spent:
    """What a sample cost: forward and backward evaluations of the prior, and seconds at the batch size of the call."""

    nfe_forward: float
    nfe_backward: float
    seconds: float


@dataclass(frozen=True)
class PosteriorSamples:
    """Samples of p(x | y) of N measurements.

    Args:
        samples: (N, K, C, H, W), float32, in [-1, 1] give or take what is not clipped.
        image_ids: N names.
        cost: of a sample, on average.
        failed: id -> one line, of images whose chains diverged; their samples are NaN.
    """

    samples: Tensor
    image_ids: list[str]
    cost: Spent
    failed: dict[str, str]

    @property
    def mean(self) -> Tensor:
        """Of the samples of each image, (N, C, H, W): an estimate of E[x | y]."""
        return self.samples.mean(dim=1)

    @property
    def std(self) -> Tensor:
        """Standard deviation of each number over the samples of its image, (N, C, H, W).

        Raises:
            UserError: if there is one sample alone.
        """
        if self.samples.shape[1] < 2:
            raise UserError("std: one sample has no spread: num_samples must be 2 or more")
        return self.samples.std(dim=1)


def sample(
    y: Tensor | np.ndarray,
    forward: Operator | OperatorFamily | Function,
    sigma_y: float | None = None,
    prior: Prior | str | Path | None = None,
    num_samples: int = 1,
    *,
    sampler: Sampler | str | Path | None = None,
    seed: int = 0,
    image_ids: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
) -> PosteriorSamples:
    """Samples of p(x | y), y = f(x) + sigma_y n, under a prior of images in [-1, 1].

    A sample depends on (seed, image id, its number) alone: not on batch_size, num_samples or the other rows of y. It is
    the one that ``posterior-sampling predict`` draws of that y with the same seed, id, prior and sampler.

    A y that is surely of images in [0, 1] is a warning that names the factor 2; nothing is changed. Not all such y are
    found: most where there are four or more of little noise, single ones less often
    (`posterior.value_range.of_unit_range`). Where all of y is bright this takes up to 768 calls of the network before
    sampling begins, which a line on standard error says; `cost` is without them.

    Args:
        y: measurements (N, ...), real, finite, without scaling: whatever f gives.
        forward: f. An operator of ours, or a family that draws nothing; or any differentiable function of images
            (B, C, H, W) in [-1, 1] to (B, ...), for any B, each row by itself, without noise. Whether such a function
            is linear is found out by random images; its transpose is autograd's (`posterior.operators.operator_of`).
        sigma_y: standard deviation of the noise, in units of y; `posterior.estimate_sigma` may know it.
        prior: an object, a file of settings, a name that ships (``prior/photos``), or of the hub (``hf://owner/name``).
            Its network is put on the device, in eval mode, and its weights need no gradients from then on.
        num_samples: K of each image.
        sampler: likewise; None: that of ``sampler/conditional``, which takes all of the above. It clips its first
            estimates to [-1, 1], except under a `ClosedFormPrior`, whose images may leave that range. Under a
            `LatentPrior` it draws latents (`InLatents`, as ``sampler/in_latents``), which have no range.
        seed: of all random numbers.
        image_ids: N different names; None: "0", "1", ...
        image_shape: (C, H, W), where neither operator nor prior says it.
        batch_size: measurements at a time, each with its K chains: what fits into memory.
        device: None: the prior's own if it is an object with tensors, otherwise that of y.

    Raises:
        UserError: in one line, if an argument is missing or makes no sense, y does not fit f, f the prior, or every
            image diverged.
    """
    if sigma_y is None:
        raise UserError(
            "sample: sigma_y is missing: the standard deviation of y's noise (posterior.estimate_sigma may know it)"
        )
    if prior is None:
        raise UserError("sample: prior is missing: an object, a file of settings, or a name such as prior/photos")
    level = _number(sigma_y)
    num_samples = _counted("num_samples", num_samples, 1, MOST_SAMPLES)
    batch_size = _counted("batch_size", batch_size, 1, MOST_BATCH)
    seed = _counted("seed", seed, -(2**63), 2**64 - 1)
    y = _measured(y)
    ids = _named(image_ids, len(y))
    known: Prior = _made("prior", prior, Prior)
    chosen: Sampler = recommended(known) if sampler is None else _made("sampler", sampler, Sampler)
    home = next((value.device for value in known.state_dict().values()), y.device)
    y = _placed(y, home if device is None else device)
    shape = _image_shape(forward, known, image_shape)
    known.check_images(shape)
    realised, y = _realised(forward, y, shape)
    measurement = Measurement(realised.restrict(y), realised, GaussianNoise(level))
    module = PosteriorSampling(known, chosen, num_samples, metrics=[]).to(y.device)
    if of_unit_range(known, measurement, seed, batch_size):
        warnings.warn(f"sample: {UNIT_RANGE}", stacklevel=2)
    return _drawn(module, Batch(ids, seed, measurement, None), batch_size)


def recommended(prior: Prior) -> Sampler:
    """What `sample` takes if it is not told: ``configs/sampler/conditional.yaml``, with its rule for exact priors.

    For a prior of latents, ``configs/sampler/in_latents.yaml``.
    """
    if isinstance(prior, LatentPrior):
        return InLatents(ConditionalDescent())
    return ConditionalDescent(clip_search=not isinstance(prior, ClosedFormPrior))


@torch.no_grad()
def _drawn(module: PosteriorSampling, whole: Batch, batch_size: int) -> PosteriorSamples:
    """The samples of all rows, so many rows at a time.

    Raises:
        Diverged: if no image has samples.
    """
    assert whole.measurement is not None
    shape = (len(whole.ids), module.num_samples, *whole.measurement.image_shape)
    samples = torch.full(shape, torch.nan, device=module.device)
    failed: dict[str, str] = {}
    place = {image_id: row for row, image_id in enumerate(whole.ids)}
    forward, backward, start = module.prior.cost.forward, module.prior.cost.backward, time.perf_counter()
    for rows in torch.arange(len(whole.ids)).split(batch_size):
        found = module.predict_step(whole.keep(rows.tolist()), 0)
        assert isinstance(found, Prediction)
        if found.batch.ids:
            samples[[place[image_id] for image_id in found.batch.ids]] = found.samples.transpose(0, 1)
        failed |= found.failed
    chains = shape[0] * shape[1]
    cost = Spent(
        (module.prior.cost.forward - forward) / chains,
        (module.prior.cost.backward - backward) / chains,
        (time.perf_counter() - start) / chains,
    )
    if len(failed) == len(whole.ids):
        raise Diverged(failed)
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(whole.ids)} images have no samples: {next(iter(failed.values()))}", stacklevel=3
        )
    return PosteriorSamples(samples, whole.ids, cost, failed)


def _number(sigma_y: Any) -> float:
    """Raises:
    UserError: if it is not one number above 0.
    """
    try:
        level = float(sigma_y)
    except (TypeError, ValueError) as error:
        raise UserError(f"sample: sigma_y must be one number, got {type(sigma_y).__name__}") from error
    real("sample", "sigma_y", level, above=0)
    return level


def _counted(name: str, value: Any, least: int, most: int) -> int:
    """Raises:
    UserError: if it is no integer, or outside.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise UserError(f"sample: {name} must be an integer, got {brief(value)}") from error
    whole("sample", name, number, least, most)
    return number


def _placed(y: Tensor, device: torch.device | str) -> Tensor:
    """Raises:
    UserError: if there is no such device.
    """
    try:
        return y.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"sample: device {device} cannot be used: {reason(error)}") from error


def _measured(y: Tensor | np.ndarray) -> Tensor:
    """y in float32.

    Raises:
        UserError: if it is no array of real numbers with rows, or not finite.
    """
    if not isinstance(y, (Tensor, np.ndarray)) or y.ndim < 1 or 0 in y.shape:
        got = tuple(y.shape) if isinstance(y, (Tensor, np.ndarray)) else type(y).__name__
        raise UserError(f"sample: y must be a tensor or array (N, ...), N measurements, got {got}")
    y = torch.as_tensor(y)
    if not y.is_floating_point():
        more = "torch.view_as_real makes two of a complex one" if y.is_complex() else "y / 127.5 - 1 is of 8-bit pixels"
        raise UserError(f"sample: y must hold real floating-point numbers, got {y.dtype}: {more}")
    y = y.detach().float()
    if bad := int((~torch.isfinite(y)).sum()):
        raise UserError(
            f"sample: y has NaN or infinite values, {bad} of {y.numel()}: what is not measured is 0 in y and in forward"
        )
    return y


def _named(image_ids: Sequence[str] | None, count: int) -> list[str]:
    """Raises:
    UserError: if there are not as many names as measurements, all different.
    """
    if image_ids is None:
        return [str(row) for row in range(count)]
    if isinstance(image_ids, str) or not isinstance(image_ids, Sequence):
        raise UserError(f"sample: image_ids must be a list of names, got {type(image_ids).__name__}")
    ids = list(image_ids)
    if not all(isinstance(image_id, str) and image_id for image_id in ids):
        raise UserError(f"sample: image_ids must be names, text that is not empty, got {brief(ids)}")
    if len(ids) != count or len(set(ids)) != count:
        raise UserError(f"sample: image_ids must be {count} different names, one a row of y, got {len(set(ids))}")
    return ids


def _made(what: str, given: Any, kind: type) -> Any:
    """An object, or what a file of settings or a name says.

    Raises:
        UserError: if there is no such file, or it holds something else.
    """
    if isinstance(given, kind):
        return given
    if not isinstance(given, (str, Path)):
        raise UserError(
            f"sample: {what} must be a {kind.__name__}, or name a file of settings, got {type(given).__name__}"
        )
    text = str(given)
    if (file := named_file(text)) is None:
        raise UserError(f"sample: {what}: the file of settings {text} does not exist{near(text)}")
    kinds = {what: kind}
    return built(conformed({what: read_settings(file)}, kinds), kinds, text)[0]


def _image_shape(forward: Any, prior: Prior, given: Sequence[int] | None) -> tuple[int, int, int]:
    """(C, H, W): as it is given, as the operator has it, or else as the prior was made for it.

    Raises:
        UserError: if nobody says it, or the operator something else.
    """
    own = forward.image_shape if isinstance(forward, Operator) else None
    try:
        shape = own if given is None else tuple(operator.index(side) for side in given)
    except TypeError as error:
        raise UserError(f"sample: image_shape must be (C, H, W), got {brief(given)}") from error
    if shape is None:
        if prior.channels is None or prior.size is None:
            name = type(prior).__name__
            raise UserError(f"sample: {name} does not say the size of its images: give image_shape=(C, H, W)")
        shape = (prior.channels, *prior.size)
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"sample: image_shape must be (C, H, W), got {shape}")
    if own is not None and own != shape:
        raise UserError(f"sample: image_shape is {shape}, but {type(forward).__name__} is for images {own}")
    return shape


def _realised(forward: Any, y: Tensor, shape: tuple[int, int, int]) -> tuple[Operator, Tensor]:
    """The operator with a row for each measurement, and y as it measures it.

    Raises:
        UserError: if it is random, not callable, or y has another shape.
    """
    if isinstance(forward, OperatorFamily):
        if forward.random:
            name = type(forward).__name__
            raise UserError(f"sample: {name} draws its parameters at random: give the realised operator that made y")
        forward = forward.realise(shape, [torch.Generator() for _ in y])
    if not isinstance(forward, Operator):
        if not callable(forward):
            raise UserError(f"sample: forward must be a function or an operator, got {type(forward).__name__}")
        found, offset = operator_of(forward, shape, y)
        return found, y.reshape(len(y), *found.measurement_shape) - offset
    forward = forward.to(y.device)
    if y.shape[1:] != forward.measurement_shape:
        told = f"{type(forward).__name__} gives {forward.measurement_shape} for an image of {shape}"
        raise UserError(f"sample: {told}, y has {tuple(y.shape[1:])}")
    counts = {len(getattr(forward, name)) for name in forward.per_image}
    if counts == {1}:
        return forward.rows(torch.zeros(len(y), dtype=torch.long, device=y.device)), y
    if counts - {len(y)}:
        raise UserError(f"sample: {type(forward).__name__} is of {max(counts)} images, y of {len(y)}")
    return forward, y
