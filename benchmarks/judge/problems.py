"""Problems whose posterior is known exactly: a prior in closed form, an operator, a noise law."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.tools.building import built
from benchmarks.truth.annealing import hard_mixture, ring_posterior
from benchmarks.truth.problems import projection, random_mixture
from posterior.checks import real, whole
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise, Likelihood
from posterior.operators import Dense, LinearOperator, Operator, OperatorFamily
from posterior.operators.base import Diagonal
from posterior.priors import EmpiricalPrior, GaussianFieldPrior, GaussianMixturePrior, Prior, RingPrior
from posterior.random import Streams, stream
from posterior.samplers import (
    ExactGaussian,
    GeometricSigmas,
    MixturePosterior,
    ReverseDiffusion,
    SecondOrderAncestral,
    posterior_of,
)
from posterior.samplers.base import Observer, unobserved
from posterior.samplers.exact_empirical import check_noise
from posterior.samplers.reverse_diffusion import initial_noise
from posterior.settings import conformed, file_digests, overlaid, read_settings
from posterior.shipped import CONFIGS

SHIPPED = CONFIGS / "problem"
SEEN = 0.5
"""A direction is measured if its singular value is at least this share of the largest."""
MOST_NUMBERS = 1_000_000
NAMED_ONLY = ("digits-*", "ct-*")
"""Problems that are judged only where they are named: most samplers refuse operators that are not linear; and those of
one field of science."""
TOP, LOWEST = 100.0, 1e-3
"""Levels between which truths are drawn, as far as a prior has them; numbers of an image are about 1."""


class Truth(ABC):
    """What is known of a prior: draws; if it has a closed form, its log density and its posteriors."""

    exact: ClassVar[bool] = True
    """Whether posteriors are known."""

    @property
    def of_any_law(self) -> bool:
        """Whether they are for every operator and noise law; otherwise for linear ones and Gaussian noise."""
        return False

    @abstractmethod
    def draw(self, ids: Sequence[str], seed: int, purpose: str = "truth") -> Tensor:
        """A sample of the prior for each id, (B, C, H, W), which depends on (seed, id, purpose) alone."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """So many samples of the prior, (count, C, H, W), from one generator.

        Raises:
            UserError: if it has no closed form.
        """
        raise UserError(f"{type(self).__name__}: only a prior in closed form is drawn from one generator")

    def log_prior(self, x: Tensor) -> Tensor | None:
        """Log density of the prior, up to a constant, (B,); None if it is not known."""
        return None

    def posterior(self, measurement: Measurement, count: int, generator: torch.Generator) -> Tensor:
        """Exact samples (count, C, H, W) of p(x | y) for the measurement of one image, where they are known."""
        raise NotImplementedError(f"{type(self).__name__} knows no posterior")

    def modes(self, x: Tensor) -> Tensor | None:
        """The mode that each sample belongs to, (B,); None where there are none to speak of."""
        return None


class DensityTruth(Truth):
    """Of a prior that knows how to draw and its log density."""

    def __init__(self, prior: GaussianMixturePrior | RingPrior | EmpiricalPrior) -> None:
        self.prior = prior

    def draw(self, ids: Sequence[str], seed: int, purpose: str = "truth") -> Tensor:
        return torch.cat([self.sample(1, stream(seed, one, -1, purpose)) for one in ids])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.prior.sample(count, generator)

    def log_prior(self, x: Tensor) -> Tensor:
        return self.prior.log_prob(x)


class MixtureTruth(DensityTruth):
    """Of a Gaussian mixture: its posteriors are mixtures."""

    prior: GaussianMixturePrior

    def posterior(self, measurement: Measurement, count: int, generator: torch.Generator) -> Tensor:
        return MixturePosterior(self.prior, measurement).sample(count, generator)

    def modes(self, x: Tensor) -> Tensor | None:
        return self.prior.responsibilities(x).argmax(dim=1) if len(self.prior.weights) > 1 else None


class FieldTruth(Truth):
    """Of a Gaussian field: its posteriors are Gaussian."""

    def __init__(self, prior: GaussianFieldPrior, image_shape: tuple[int, int, int]) -> None:
        self.prior, self.image_shape = prior, image_shape

    def draw(self, ids: Sequence[str], seed: int, purpose: str = "truth") -> Tensor:
        return self.prior.sample_from(Streams(seed, ids, samples=[-1]).randn(purpose, self.image_shape))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.prior.sample_from(torch.randn(count, *self.image_shape, generator=generator))

    def log_prior(self, x: Tensor) -> Tensor:
        centred = self.prior.centre(x)
        return -0.5 * (centred * self.prior.filter(centred, 1 / self.prior.spectrum(x.shape))).flatten(1).sum(dim=1)

    def posterior(self, measurement: Measurement, count: int, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=generator))
        return ExactGaussian()(self.prior, measurement.repeat(count), Streams(seed, ["exact"], count))


class EmpiricalTruth(DensityTruth):
    """Of given images: their posteriors are the images with other weights; modes are the labels of the nearest ones.

    Args:
        prior: the images.
        blur: level of noise at which its density is read.
    """

    prior: EmpiricalPrior

    def __init__(self, prior: EmpiricalPrior, blur: float) -> None:
        super().__init__(prior)
        self.blur = blur

    @property
    def of_any_law(self) -> bool:
        return self.prior.width == 0

    def log_prior(self, x: Tensor) -> Tensor:
        return self.prior.log_prob(x, max(self.blur, self.prior.sigma_min)).float()

    def posterior(self, measurement: Measurement, count: int, generator: torch.Generator) -> Tensor:
        return posterior_of(self.prior, measurement, generator).sample(count, generator)

    def modes(self, x: Tensor) -> Tensor | None:
        return None if self.prior.labels is None else self.prior.labels[self.prior.nearest(x)]


class RingTruth(DensityTruth):
    """Of the ring in the plane: its posteriors are known on a grid."""

    prior: RingPrior

    def posterior(self, measurement: Measurement, count: int, generator: torch.Generator) -> Tensor:
        return ring_posterior(self.prior, measurement, count, generator)


class LearnedTruth(Truth):
    """Of any prior: the law of its own reverse diffusion, in many small steps of second order.

    Those are within 0.1 % of the widths of the limit of ever smaller steps, which is what the scores define; the
    levels of a DDPM schedule are far apart at its end, where an image's finest scales are drawn.

    Args:
        prior: whose network is asked.
        image_shape: (C, H, W).
        denoised: end with one denoising step, D(x, sigma_min), as samplers of pictures do. Otherwise the image is x
            at sigma_min: its law is p * N(0, sigma_min^2 I), whose scores are the network's own (docs/method.md
            section 9).
        num_steps: network calls of a draw.
        together: images at a time.
        observe: sees every state.
    """

    exact = False

    def __init__(
        self,
        prior: Prior,
        image_shape: tuple[int, int, int],
        denoised: bool = False,
        num_steps: int = 250,
        together: int = 64,
        observe: Observer = unobserved,
    ) -> None:
        self.prior, self.image_shape, self.denoised = prior, image_shape, denoised
        self.num_steps, self.together, self.observe = num_steps, together, observe

    def draw(self, ids: Sequence[str], seed: int, purpose: str = "truth") -> Tensor:
        lowest, top = max(self.prior.sigma_min, LOWEST), min(self.prior.sigma_max, TOP)
        sigmas = GeometricSigmas(self.num_steps, top, lowest).sigmas()
        levels = sigmas if self.denoised else sigmas[:-1]
        found = []
        for start in range(0, len(ids), self.together):
            rng = Streams(seed, [f"{one}/{purpose}" for one in ids[start : start + self.together]], samples=[-1])
            x = initial_noise(self.image_shape, levels[0], rng)
            found.append(
                ReverseDiffusion(step=SecondOrderAncestral()).descend(self.prior, x, levels, rng, self.observe)
            )
        return torch.cat(found)


def truth_of(prior: Prior, image_shape: tuple[int, int, int], blur: float = 0.0) -> Truth | None:
    """What is known exactly of a prior; None if it has no closed form."""
    if isinstance(prior, EmpiricalPrior):
        return EmpiricalTruth(prior, blur)
    if isinstance(prior, GaussianMixturePrior):
        return MixtureTruth(prior)
    if isinstance(prior, GaussianFieldPrior):
        return FieldTruth(prior, image_shape)
    if isinstance(prior, RingPrior):
        return RingTruth(prior)
    return None


@dataclass(frozen=True)
class Case:
    """One image of a problem and its measurement; exact samples are drawn when they are asked for.

    Args:
        id: the name of its random streams.
        truth: x, (1, C, H, W), drawn from the prior.
        measurement: of x.
    """

    id: str
    truth: Tensor
    measurement: Measurement


@dataclass(frozen=True)
class Problem:
    """A prior whose posteriors are known, an operator and a noise law.

    Args:
        name: a word.
        tells: what a sampler shows on it, in a few words.
        prior: in closed form: Gaussian field, Gaussian mixture, ring, given images.
        operator: linear; where it is random, every image has its own. Of any kind for given images of width 0.
        likelihood: Gaussian noise; of any kind likewise.
        image_shape: (C, H, W).
        settings: what it was made from, if from a file.
        truth: what is known of the prior; by default all that its closed form gives.
        blur: standard deviation of noise that is added to truths, exact samples and a sampler's own, before they are
            compared: a law of single points has no widths.

    Raises:
        UserError: if the posterior is not known exactly.
    """

    name: str
    tells: str
    prior: Prior
    operator: OperatorFamily
    likelihood: Likelihood
    image_shape: tuple[int, int, int]
    settings: Any = None
    truth: Truth = field(default=None, repr=False)  # type: ignore[assignment]
    blur: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        real(f"problem {self.name}", "blur", self.blur, least=0)
        if self.truth is not None and not self.truth.exact:
            self.prior.check_images(self.image_shape)
            return
        certificate = "a sampler can be certified under any prior by another command: calibrate"
        truth = truth_of(self.prior, self.image_shape, self.blur) if self.truth is None else self.truth
        if truth is None:
            raise UserError(
                f"problem {self.name}: {type(self.prior).__name__} has no closed form, so its posterior is not known "
                f"exactly ({certificate})"
            )
        if not truth.of_any_law and not isinstance(self.likelihood, GaussianNoise):
            raise UserError(
                f"problem {self.name}: the posterior is known under Gaussian noise only, not {self.likelihood} "
                f"({certificate})"
            )
        self.prior.check_images(self.image_shape)
        object.__setattr__(self, "truth", truth)
        one = self.realise(["check"])
        if isinstance(self.prior, EmpiricalPrior):
            check_noise(self.prior, self.likelihood)
        if not truth.of_any_law and not isinstance(one, LinearOperator):
            raise UserError(
                f"problem {self.name}: the posterior is known for linear operators only, not {type(one).__name__} "
                f"({certificate})"
            )

    @property
    def dimension(self) -> int:
        """Numbers of an image."""
        return math.prod(self.image_shape)

    def realise(self, ids: Sequence[str], seed: int = 0) -> Operator:
        """The operator of a batch of images."""
        return self.operator.realise(self.image_shape, [stream(seed, one, -1, "operator") for one in ids])

    def cases(self, ids: Sequence[str], seed: int, truths: Tensor | None = None) -> list[Case]:
        """Images drawn from the prior, and their measurements: each depends on (seed, id) alone.

        Args:
            ids: of the images.
            seed: of images, operators and noise.
            truths: images (B, C, H, W) that were drawn before; None: they are drawn.
        """
        found: list[Case] = []
        if not ids:
            return found
        truths = self.truth.draw(ids, seed) if truths is None else truths
        for one, truth in zip(ids, truths.split(1), strict=True):
            operator = self.realise([one], seed)
            noise = Streams(seed, [one], samples=[-1]).randn("measurement", operator.measurement_shape)
            found.append(Case(one, truth, Measurement.simulate(truth, operator, self.likelihood, noise)))
        return found

    def measure(self, truth: Tensor, ids: Sequence[str], seed: int, generator: torch.Generator) -> Measurement:
        """Of images (B, C, H, W) of whatever source; the noise of all is drawn from one generator."""
        operator = self.realise(ids, seed)
        noise = torch.randn(len(truth), *operator.measurement_shape, generator=generator)
        return Measurement.simulate(truth, operator, self.likelihood, noise)

    def batch(self, cases: Sequence[Case], seed: int) -> Measurement:
        """The measurements of several cases as one batch."""
        operator = self.realise([case.id for case in cases], seed)
        return Measurement(torch.cat([case.measurement.y for case in cases]), operator, self.likelihood)

    def exact(self, case: Case, count: int, seed: int) -> Tensor:
        """Exact samples (count, C, H, W) of p(x | y)."""
        return self.exact_each(case.measurement, [case.id], count, seed)[:, 0]

    def exact_each(self, measurement: Measurement, ids: Sequence[str], count: int, seed: int) -> Tensor:
        """The same of a batch, (count, B, C, H, W): those of an image depend on (seed, id) alone."""
        found = [
            self.truth.posterior(measurement.rows(torch.tensor([row])), count, stream(seed, one, -1, "exact"))
            for row, one in enumerate(ids)
        ]
        return torch.stack(found, dim=1)

    def blurred(self, x: Tensor, image_id: str, seed: int, purpose: str) -> Tensor:
        """Images (N, C, H, W) of one case as they are compared: with noise that (seed, id, purpose) decide."""
        if not self.blur:
            return x
        return x + self.blur * Streams(seed, [image_id], len(x)).randn(f"blur of {purpose}", x.shape[1:])

    def references(self, cases: Sequence[Case], seed: int) -> Tensor:
        """A point for each case, (B, C, H, W), to measure distances from: another draw of the prior."""
        return self.truth.draw([case.id for case in cases], seed, "reference")

    def parts(self, case: Case) -> dict[str, Callable[[Tensor], Tensor]]:
        """Name of a subspace -> coordinates of x (B, C, H, W) in it, (B, n), orthonormal.

        What y sees, and what it does not see; without the operator's `diagonal`, none.
        """
        basis = self._diagonal if not self.operator.random else _diagonal_of(case.measurement.operator)
        if basis is None:
            return {}
        gains = basis.gains.expand(1, *basis.analyse(case.truth).shape[1:]).reshape(-1)
        seen = gains >= SEEN**2 * gains.max()
        found: dict[str, Callable[[Tensor], Tensor]] = {}
        for name, mask in (("measured", seen), ("unmeasured", ~seen)):
            if mask.any():
                found[name] = functools.partial(_coordinates, basis, mask)
        return found

    @functools.cached_property
    def _diagonal(self) -> Diagonal | None:
        return _diagonal_of(self.realise(["diagonal"]))

    @functools.cached_property
    def digest(self) -> str:
        """Of all that decides its measurements and posteriors."""
        if self.settings is None:
            told: Any = [repr(self.operator), repr(vars(self.operator)), repr(self.likelihood)]
        else:
            parts = {name: self.settings[name] for name in ("prior", "operator", "likelihood")}
            told = [parts, sorted(file_digests(parts).values())]
        truth = {name: value for name, value in vars(self.truth).items() if isinstance(value, (bool, int, float, str))}
        law = [type(self.truth).__name__, sorted(truth.items()), state_of(self.prior)]
        text = json.dumps([self.name, law, list(self.image_shape), told], default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def state_of(prior: Prior) -> str:
    """Digest of a prior's parameters, buffers and plain settings, to the bit."""
    whole = hashlib.blake2b(digest_size=8)
    for name, value in prior.state_dict().items():
        whole.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        whole.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    plain = {name: value for name, value in vars(prior).items() if isinstance(value, (bool, int, float, str, tuple))}
    whole.update(f"{type(prior).__qualname__} {sorted(plain.items())!r}".encode())
    return whole.hexdigest()


def _diagonal_of(operator: Operator) -> Diagonal | None:
    return operator.diagonal() if isinstance(operator, LinearOperator) else None


def _coordinates(basis: Diagonal, mask: Tensor, x: Tensor) -> Tensor:
    return basis.analyse(x).flatten(1)[:, mask]


@dataclass(frozen=True)
class RandomProjection(OperatorFamily):
    """y = M x, M (rows, d) of normal numbers of variance 1 / d, the same for all images.

    Args:
        rows: numbers measured, >= 1.
        seed: of M.
    """

    rows: int
    seed: int = 0

    def __post_init__(self) -> None:
        whole("RandomProjection", "rows", self.rows, 1, MOST_NUMBERS)

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Dense:
        return projection(self.rows, image_shape, stream(self.seed, "projection", -1, "operator"))


@dataclass(frozen=True)
class Coordinates(OperatorFamily):
    """Some numbers of an image, in row-major order.

    Args:
        entries: which, from 0.
    """

    entries: Sequence[int]

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Dense:
        size = math.prod(image_shape)
        if not self.entries or not all(0 <= entry < size for entry in self.entries):
            raise UserError(f"Coordinates: entries must be from 0 to {size - 1} for images {tuple(image_shape)}")
        return Dense(torch.eye(size)[list(self.entries)], image_shape)


def random_modes(num_components: int = 6, seed: int = 0) -> GaussianMixturePrior:
    """A mixture of wide and narrow Gaussians in 32 dimensions, images (2, 4, 4); see `random_mixture`."""
    whole("random_modes", "num_components", num_components, 1, 1000)
    return random_mixture(num_components, stream(seed, "mixture", -1, "prior"))


def two_modes(distance: float = 2.0, width: float = 0.2, numbers: int = 8) -> GaussianMixturePrior:
    """Two Gaussians of equal weight at +- distance / 2 along the first coordinate, images (1, 1, numbers).

    Args:
        distance: between the centres, > 0.
        width: standard deviation of each, > 0.
        numbers: dimensions, >= 2.
    """
    real("two_modes", "distance", distance, above=0)
    real("two_modes", "width", width, above=0)
    whole("two_modes", "numbers", numbers, 2, MOST_NUMBERS)
    means = torch.zeros(2, 1, 1, numbers)
    means[:, 0, 0, 0] = torch.tensor([-distance / 2, distance / 2])
    covariances = width**2 * torch.eye(numbers).expand(2, -1, -1)
    return GaussianMixturePrior.full(torch.tensor([0.5, 0.5]), means, covariances)


def hidden_bits(bits: int = 8, spread: float = 0.1, seed: int = 0) -> GaussianMixturePrior:
    """The hard instance of the paper's Section 2, images (2 bits, 1, 1); see `hard_mixture`."""
    whole("hidden_bits", "bits", bits, 1, 12)
    real("hidden_bits", "spread", spread, above=0)
    return hard_mixture(bits, spread, stream(seed, "hard instance", -1, "prior"))


PARTS: dict[str, Any] = {
    "tells": str,
    "image_shape": tuple[int, int, int],
    "prior": Prior,
    "operator": OperatorFamily,
    "likelihood": Likelihood,
}
OPTIONAL: dict[str, Any] = {"blur": float}


def read_problem(path: Path, allow_local: bool = False, changes: Any = None) -> Problem:
    """The problem of a YAML file with the keys of `PARTS`, perhaps of `OPTIONAL`; its name is the file's.

    Args:
        path: of the file.
        allow_local: whether classes may come from files that are not installed.
        changes: settings laid over those of the file.

    Raises:
        UserError: naming the file and what is wrong in it, or that its posterior is not known in closed form.
    """
    settings = read_settings(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: a problem has the settings {', '.join(PARTS)}")
    settings = overlaid(settings, changes or {})
    missing = [name for name in PARTS if name not in settings]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing: a problem has {', '.join(PARTS)}")
    try:
        checked = conformed(settings, PARTS | {key: OPTIONAL[key] for key in OPTIONAL if key in settings}, allow_local)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    classes = {name: PARTS[name] for name in ("prior", "operator", "likelihood")}
    prior, operator, likelihood = built({name: checked[name] for name in classes}, classes, str(path))
    shape = tuple(checked["image_shape"])
    for number in shape:
        whole(f"{path}: image_shape", "a side", number, 1, MOST_NUMBERS)
    plain = json.loads(json.dumps(checked, default=str))
    try:
        blur = checked.get("blur", 0.0)
        return Problem(path.stem, checked["tells"], prior, operator, likelihood, shape, plain, blur=blur)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def shipped(folder: Path = SHIPPED) -> dict[str, Path]:
    """Name -> file of the problems that come with the project, in the order of their names."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _named_only(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in NAMED_ONLY)


def chosen(wanted: Sequence[str], allow_local: bool = False, option: str = "--problems") -> list[Problem]:
    """Problems by name, by pattern (``toon-*``), or by the path of a file.

    If none is named, all that are shipped but those that fit `NAMED_ONLY`.

    Raises:
        UserError: naming the option that asks, and what is there, if one is not.
    """
    there = shipped()
    files: dict[Path, None] = {}
    for one in wanted or [name for name in there if not _named_only(name)]:
        found = [path for name, path in there.items() if fnmatch.fnmatchcase(name, one)]
        if not found and Path(one).suffix in (".yaml", ".yml"):
            found = [Path(one)]
        if not found:
            raise UserError(f"{option}: there is no problem {one!r}; there are {', '.join(there)}, or a file of yours")
        files |= dict.fromkeys(found)
    problems = [read_problem(path, allow_local) for path in files]
    names = [problem.name for problem in problems]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{option}: two problems are called {name}: rename a file")
    return problems
