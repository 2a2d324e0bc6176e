"""What samplers, operators and priors must do, ours or a user's: each enters by one entry, and these checks run it."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posterior import Measurement, Streams, UserError, stream
from posterior.errors import Diverged
from posterior.noise import GaussianNoise, Likelihood
from posterior.operators import LinearOperator, OperatorFamily, RandomInpainting
from posterior.operators.base import power_iteration_norm
from posterior.priors import ClosedFormPrior, Prior
from posterior.samplers import Observer, Sampler, unobserved
from tests.fake_device import FakeDevice

IDS = ["a", "b", "c"]


@dataclass(frozen=True)
class Entry:
    """A sampler, a problem that it takes, and what it promises there.

    Args:
        sampler: a few steps long, so that a call takes a fraction of a second.
        prior: makes the prior anew.
        forward, backward: evaluations of the prior that one sample costs; 0 for a sampler that asks for none.
        family, likelihood, image_shape: of the measurement.
        tolerance: largest difference to the same row in another batch.
        bad: settings that must be refused, one at a time, by name; numbers that are NaN, infinite or negative counts
            are tried anyway.
        ignores_y: the samples are of p(x), so that a NaN in y does not show.
        stops_early: the number of steps that it announces is an upper bound.
        deterministic: all samples of an image are the same.
    """

    sampler: Sampler
    prior: Callable[[], Prior]
    forward: int
    backward: int = 0
    family: OperatorFamily = field(default_factory=RandomInpainting)
    likelihood: Likelihood = field(default_factory=lambda: GaussianNoise(0.1))
    image_shape: tuple[int, int, int] = (3, 8, 8)
    tolerance: float = 1e-4
    bad: Mapping[str, object] = field(default_factory=dict)
    ignores_y: bool = False
    stops_early: bool = False
    deterministic: bool = False

    def measurement(self, ids: list[str] = IDS) -> Measurement:
        """Of smooth random images in [-1, 1]; each depends on its id alone."""
        operator = self.family.realise(self.image_shape, [stream(0, i, -1, "operator") for i in ids])
        rng = Streams(0, ids, samples=[-1])
        truth = (0.4 * rng.randn("truth", self.image_shape)).clamp(-1, 1)
        return Measurement.simulate(truth, operator, self.likelihood, rng.randn("noise", operator.measurement_shape))

    def run(
        self,
        ids: list[str] = IDS,
        num_samples: int = 1,
        prior: Prior | None = None,
        measurement: Measurement | None = None,
        observe: Observer = unobserved,
    ) -> Tensor:
        """Samples, row k * len(ids) + b being sample k of image b; as `predict` asks for them, without gradients."""
        measurement = self.measurement(ids) if measurement is None else measurement
        with torch.no_grad():
            rows = measurement if num_samples == 1 else measurement.repeat(num_samples)
            return self.sampler(prior or self.prior(), rows, Streams(0, ids, num_samples), observe)


def row_alone_is_row_in_a_batch(entry: Entry) -> None:
    """Neighbours, and the order of the rows, change nothing beyond the entry's tolerance."""
    together = entry.run()
    for ids in (["b"], ["c", "b", "a"]):
        found = entry.run(ids)
        for row, image_id in enumerate(ids):
            gap = float((found[row] - together[IDS.index(image_id)]).abs().max())
            assert gap <= entry.tolerance, f"image {image_id} among {ids} differs by {gap:.2g}"


def arguments_and_global_state_are_left_alone(entry: Entry) -> None:
    """No tensor of prior, measurement or sampler changes, and no global random state is used.

    Two calls give the same bits, whatever the global seeds are and whether anybody observes.
    """
    prior, measurement = entry.prior(), entry.measurement()
    before = _state(entry.sampler, prior, measurement)
    samples = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (the global one is what must not be used)
        random.seed(seed)
        states = _random_states()
        observe = (lambda *state: None) if seed == 1 else unobserved
        samples.append(entry.run(prior=prior, measurement=measurement, observe=observe))
        assert _same(states, _random_states()), "the global random state has changed"
    after = _state(entry.sampler, prior, measurement)
    changed = [name for name in before if not _same(before[name], after[name])]
    assert not changed, f"the call has changed {changed}"
    assert torch.equal(samples[0], samples[1]), "two calls with other global seeds differ"


def more_samples_begin_with_the_same(entry: Entry) -> None:
    """K samples are the first K of more; and they are K samples, unless the sampler is deterministic."""
    one, three = entry.run(), entry.run(num_samples=3)
    gap = float((three[: len(IDS)] - one).abs().max())
    assert gap <= entry.tolerance, f"the first of three samples differs by {gap:.2g} from the only one"
    again = float((three[len(IDS) : 2 * len(IDS)] - one).abs().amax(dim=(1, 2, 3)).min())
    assert (again <= entry.tolerance) == entry.deterministic, f"the second sample differs by {again:.2g} from the first"


def nan_stays_in_its_row(entry: Entry) -> None:
    """A NaN in one row's y reaches no other row; in its own it shows, unless y is ignored."""
    clean, measurement = entry.run(), entry.measurement()
    measurement.y[1].view(-1)[_first_measured(measurement, 1)] = torch.nan
    samples = entry.run(measurement=measurement)
    for row in (0, 2):
        gap = float((samples[row] - clean[row]).abs().max())
        assert gap <= entry.tolerance, f"row {row} differs by {gap:.2g} when row 1 has a NaN"
    if not entry.ignores_y:
        assert not torch.isfinite(samples[1]).all(), "a NaN in y has become an ordinary image"


def overflow_of_the_prior_shows(entry: Entry) -> None:
    """If the prior's first answer is infinite, no ordinary image comes out: clipping would make one of it."""
    if entry.forward == 0:
        return
    prior = entry.prior()
    _overflow(prior)
    try:
        samples = entry.run(prior=prior)
    except Diverged:
        return
    for row, sample in enumerate(samples):
        assert not torch.isfinite(sample).all(), f"row {row}: infinity has become an ordinary image"


def result_has_shape_and_type(entry: Entry) -> None:
    """(R, C, H, W), float32, no graph, finite."""
    samples = entry.run(num_samples=2)
    assert tuple(samples.shape) == (2 * len(IDS), *entry.image_shape), tuple(samples.shape)
    assert samples.dtype == torch.float32, samples.dtype
    assert not samples.requires_grad
    assert torch.isfinite(samples).all()


def cost_is_counted(entry: Entry) -> None:
    """`Prior.cost` has what was really asked of the prior, and it is what the entry states."""
    prior = entry.prior()
    asked = _count(prior)
    entry.run(num_samples=2, prior=prior)
    rows, counted = 2 * len(IDS), (prior.cost.forward, prior.cost.backward)
    assert counted == (asked["forward"], asked["backward"]), f"counted {counted}, asked {asked}"
    stated = (entry.forward * rows, entry.backward * rows)
    assert counted == stated, f"{counted} evaluations for {rows} samples, stated {stated}"


def progress_is_observed(entry: Entry) -> None:
    """Every stage calls ``observe`` with steps 1, 2, ..., its total, and the state of all rows.

    What stands behind a comma in its name may change from step to step.
    """
    seen: list[tuple[str, int, int, tuple[int, ...]]] = []
    entry.run(observe=lambda stage, step, total, x: seen.append((stage, step, total, tuple(x.shape))))
    assert seen, "observe was never called"
    for stage, step, total, shape in seen:
        assert shape == (len(IDS), *entry.image_shape), f"{stage}, step {step}: a state of {shape}"
        assert 1 <= step <= total, f"{stage}: step {step} of {total}"
    starts = [place for place, (_, step, *_) in enumerate(seen) if step == 1]
    assert starts[:1] == [0], f"the first step is number {seen[0][1]}"
    for first, last in itertools.pairwise([*starts, len(seen)]):
        stage, _, total, _ = seen[first]
        stage = stage.partition(",")[0]
        found = [(name.partition(",")[0], step, of) for name, step, of, _ in seen[first:last]]
        assert found == [(stage, step, total) for step in range(1, last - first + 1)], f"{stage}: {found}"
        assert entry.stops_early or last - first == total, f"{stage} ends at step {last - first} of {total}"


def bad_settings_are_refused(entry: Entry) -> None:
    """In one line that names the class and the setting. Every number of the sampler is tried."""
    assert dataclasses.is_dataclass(entry.sampler), "a sampler is a dataclass, so that a config can name its settings"
    name = type(entry.sampler).__name__
    bad = [(key, value) for key, value in entry.bad.items()]
    for one in dataclasses.fields(entry.sampler):
        value = getattr(entry.sampler, one.name)
        if isinstance(value, float):
            bad += [(one.name, wrong) for wrong in (math.nan, math.inf, -math.inf)]
        elif isinstance(value, int) and not isinstance(value, bool):
            bad.append((one.name, -1))
    for key, value in bad:
        told = _refusal(entry.sampler, key, value)
        assert told is not None, f"{name} takes {key} = {value}"
        assert "\n" not in told, f"{key} = {value}: more than one line"
        assert name in told, f"{key} = {value}: {told}"
        assert key in told, f"{key} = {value}: {told}"


def levels_outside_the_priors_range_cost_nothing(entry: Entry) -> None:
    """Where the lowest or the highest level asked is outside of the range, no evaluation comes before the line."""
    prior, asked = entry.prior(), list[float]()
    inner = prior.check_range

    def heard(sigma: float | Tensor) -> None:
        asked.extend(torch.as_tensor(sigma).flatten().tolist())
        inner(sigma)

    prior.check_range = heard  # type: ignore[method-assign]
    entry.run(prior=prior)
    for name, level in (("sigma_min", min(asked, default=0) * 1.01), ("sigma_max", max(asked, default=0) / 1.01)):
        prior = entry.prior()
        setattr(prior, name, level)
        try:
            entry.run(prior=prior)
        except UserError as error:
            told = f'{name} = {level:g}: {prior.cost.forward} evaluations before "{error}"'
            assert prior.cost.forward == 0, told


def stays_on_the_device(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator all states and the samples are there, and the host waits only by `posterior.waits`."""
    entry.run()  # tables that the host keeps are made
    device = FakeDevice(monkeypatch)
    measurement, prior = entry.measurement(), device.module(entry.prior())
    rows = Measurement(device.empty(measurement.y), device.operator(measurement.operator), entry.likelihood)
    device.rows, seen = 1, []  # type: ignore[attr-defined]
    with device.running(), torch.no_grad():
        rng = Streams(0, IDS, device="cuda")
        samples = entry.sampler(prior, rows, rng, lambda stage, step, total, x: seen.append(x.device.type))
    assert samples.device.type == "cuda", samples.device
    assert set(seen) == {"cuda"}, set(seen)
    assert samples.dtype == torch.float32, samples.dtype


SAMPLER_CHECKS: tuple[Callable[[Entry], None], ...] = (
    row_alone_is_row_in_a_batch,
    arguments_and_global_state_are_left_alone,
    more_samples_begin_with_the_same,
    nan_stays_in_its_row,
    overflow_of_the_prior_shows,
    result_has_shape_and_type,
    cost_is_counted,
    progress_is_observed,
    bad_settings_are_refused,
    levels_outside_the_priors_range_cost_nothing,
)
"""All but `stays_on_the_device`, which needs pytest's ``monkeypatch``."""


def _refusal(sampler: Any, key: str, value: object) -> str | None:
    try:
        dataclasses.replace(sampler, **{key: value})
    except UserError as error:
        return str(error)
    return None


def _first_measured(measurement: Measurement, row: int) -> int:
    """The flat index of an entry of y that the operator measures."""
    measured = measurement.operator.restrict(torch.ones_like(measurement.y))[row].flatten()
    return int(measured.nonzero()[0])


def _random_states() -> list[object]:
    return [torch.random.get_rng_state(), np.random.get_state(), random.getstate()]  # noqa: NPY002


def _state(sampler: Sampler, prior: Prior, measurement: Measurement) -> dict[str, object]:
    """Copies of all that a call is handed, by name."""
    parts = {"y": measurement.y, "training": prior.training, "gradients": torch.is_grad_enabled()}
    parts |= {f"prior.{name}": value for name, value in [*prior.named_parameters(), *prior.named_buffers()]}
    parts |= {f"operator.{k}": v for k, v in vars(measurement.operator).items() if not k.startswith("_kept")}
    parts |= {f"likelihood.{k}": v for k, v in vars(measurement.likelihood).items()}
    parts |= {f"sampler.{k}": repr(v) for k, v in vars(sampler).items()}
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in parts.items()}


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _behind(prior: Prior, change: Callable[[Tensor], Tensor]) -> None:
    """Changes, from now on, the images (or scores) that a prior answers, behind its own count."""
    prior = getattr(prior, "latents", prior)  # of images that are decoded
    name = "_score" if isinstance(prior, ClosedFormPrior) else "_predict"  # a closed form's denoiser asks its score
    inner = getattr(prior, name)

    def changed(x: Tensor, sigma: float | Tensor) -> object:
        found = inner(x, sigma)
        return change(found) if isinstance(found, Tensor) else (change(found[0]), *found[1:])

    setattr(prior, name, changed)


def _count(prior: Prior) -> dict[str, int]:
    """Counts, from now on, what is asked of a prior."""
    asked = {"forward": 0, "backward": 0}

    def counted(image: Tensor) -> Tensor:
        asked["forward"] += len(image)
        if image.requires_grad:
            image.register_hook(lambda grad: asked.update(backward=asked["backward"] + len(grad)))
        return image

    _behind(prior, counted)
    return asked


def _overflow(prior: Prior) -> None:
    """The first answer of a prior is infinite."""
    answers = itertools.count()
    _behind(prior, lambda image: image + torch.inf if next(answers) == 0 else image)


# operators


def operator_is_linear_with_its_adjoint(operator: LinearOperator, rows: int = 2) -> None:
    """<A x, v> = <x, A^T v> in float64; entries that are not measured hold 0; norm and solves are what they say."""
    wide, generator = operator.to(torch.float64), torch.Generator().manual_seed(0)
    x, z = (torch.randn(rows, *operator.image_shape, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.randn(rows, *operator.measurement_shape, generator=generator, dtype=torch.float64)
    y = wide.forward(x)
    assert y.shape[1:] == operator.measurement_shape
    assert abs((y * v).sum() - (x * wide.adjoint(v)).sum()) <= 1e-10 * y.norm() * v.norm(), "not the transpose"
    torch.testing.assert_close(wide.forward(2 * x - z), 2 * y - wide.forward(z), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(wide.restrict(y), y, rtol=0, atol=0)
    measured = wide.restrict(torch.ones_like(y)).flatten(1).sum(dim=1)
    assert (operator.num_measured().expand(rows) == measured).all()
    iterated = power_iteration_norm(operator, num_steps=2000, tolerance=1e-10)
    torch.testing.assert_close(operator.norm().double(), iterated, rtol=1e-4, atol=0)
    assert operator.norm_bound() >= float(iterated.max()) * (1 - 1e-6)
    for shift in (0.01, 2.0):
        solved = wide.solve(x, shift)
        back = wide.adjoint(wide.forward(solved)) + shift * solved
        assert (back - x).norm() < 1e-4 * x.norm(), "solve is no inverse"


def operator_rows_are_its_images(operator: LinearOperator) -> None:
    """An image alone has what it has in a batch, and the picture of y has the image's size."""
    x = torch.randn(2, *operator.image_shape, generator=torch.Generator().manual_seed(0))
    y, alone = operator.forward(x), operator.rows(torch.tensor([1]))
    torch.testing.assert_close(alone.forward(x[1:]), y[1:], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(alone.adjoint(y[1:]), operator.adjoint(y)[1:], rtol=1e-6, atol=1e-6)
    view = operator.view(y)
    assert view.shape[-2:] == operator.image_shape[1:]
    assert view.abs().max() <= 1


OPERATOR_CHECKS: tuple[Callable[[LinearOperator], None], ...] = (
    operator_is_linear_with_its_adjoint,
    operator_rows_are_its_images,
)


# priors


@dataclass(frozen=True)
class PriorEntry:
    """A prior and exact samples of it.

    Args:
        prior: the prior.
        samples: x0 (N, C, H, W), N of some thousands.
    """

    prior: Prior
    samples: Tensor


def score_and_denoiser_obey_tweedie(entry: PriorEntry) -> None:
    """score = (D - x) / sigma^2, for one level for all images and for one level each."""
    prior, x = entry.prior, entry.samples[:3] + 0.1
    levels = torch.tensor([0.3, 0.7, 2.0])
    each = prior.denoise(x, levels)
    for row, sigma in enumerate(levels.tolist()):
        one = x[row : row + 1]
        torch.testing.assert_close(each[row : row + 1], prior.denoise(one, sigma), rtol=1e-4, atol=1e-5)
        expected = (prior.denoise(one, sigma) - one) / sigma**2
        torch.testing.assert_close(prior.score(one, sigma), expected, rtol=1e-3, atol=1e-4)


def denoiser_is_the_conditional_mean(entry: PriorEntry) -> None:
    """D(x0 + sigma n, sigma) misses x0 by what x tells nothing of: uncorrelated with 1, x, D and tanh(x).

    Within five standard errors, over all entries of the images.
    """
    x0, prior = entry.samples, entry.prior
    generator = torch.Generator().manual_seed(1)
    for sigma in (0.2, 1.0):
        x = x0 + sigma * torch.randn(x0.shape, generator=generator)
        with torch.no_grad():
            denoised = prior.denoise(x, sigma)
        for name, function in (("1", torch.ones_like(x)), ("x", x), ("D", denoised), ("tanh(x)", x.tanh())):
            products = ((x0 - denoised) * function).flatten(1).double().mean(dim=1)
            error = abs(float(products.mean())) / (float(products.std()) / len(products) ** 0.5)
            assert error < 5, f"sigma {sigma}: the error is correlated with {name}, {error:.1f} standard errors from 0"


def curvature_is_bounded_as_stated(entry: PriorEntry) -> None:
    """x^T H x <= `Prior.curvature` for H minus the Hessian of log p_sigma, in random directions, at samples."""
    prior, x0 = entry.prior, entry.samples[:64]
    generator = torch.Generator().manual_seed(2)
    for sigma in (0.1, 1.0):
        x = x0 + sigma * torch.randn(x0.shape, generator=generator)
        direction = torch.randn(x0.shape, generator=generator)
        direction = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        h = 1e-2 * sigma
        change = prior.score(x + h * direction, sigma) - prior.score(x - h * direction, sigma)
        curvature = -(change * direction).flatten(1).sum(dim=1) / (2 * h)
        assert float(curvature.max()) <= prior.curvature(sigma) * 1.02, f"sigma {sigma}: {float(curvature.max())}"


def levels_and_images_are_refused_in_one_line(entry: PriorEntry) -> None:
    """Noise levels outside the prior's range, and images of another shape if it is made for one."""
    x = entry.samples[:2]
    for sigma in (-0.1, math.nan):
        with _one_line("outside"):
            entry.prior.denoise(x, sigma)
    assert entry.prior.check_images(tuple(x.shape[1:])) is None
    if entry.prior.channels is not None:
        with _one_line("channels"):
            entry.prior.check_images((entry.prior.channels + 1, *x.shape[2:]))


PRIOR_CHECKS: tuple[Callable[[PriorEntry], None], ...] = (
    score_and_denoiser_obey_tweedie,
    denoiser_is_the_conditional_mean,
    curvature_is_bounded_as_stated,
    levels_and_images_are_refused_in_one_line,
)


@contextmanager
def _one_line(word: str) -> Iterator[None]:
    with pytest.raises(UserError, match=word) as caught:
        yield
    assert "\n" not in str(caught.value)


def concrete(module: object, base: type) -> set[str]:
    """Names of a module's classes of a kind that can be made."""
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, base)]
    return {cls.__name__ for cls in classes if not inspect.isabstract(cls)}
