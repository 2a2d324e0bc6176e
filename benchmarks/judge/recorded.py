"""Calibration on measurements of one's own, without truth: y in two parts, one to sample from and one to hold against.

If y = A x + noise of the stated law, it can be split into two measurements of the same image with independent noise.
Samples are drawn from the first. Measured as the second was, they and the second are exchangeable given the first, if
prior, operator, noise law and sampler are all right: what the rest of the calibration asks of truths among samples is
asked of the second part among predictions. Idea: data fission, Leiner et al., JASA 2023; cf. arXiv:2510.27663.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.judge.problems import Case, Problem, Truth
from benchmarks.judge.running import Sampled
from benchmarks.judge.scores import Curves, band_energies, calibration_tests, scale_tests
from benchmarks.judge.statistics import rank_tests
from benchmarks.judge.verdict import Judged, ranks_along
from datamodules import RecordedMeasurements
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise, Likelihood, PoissonNoise
from posterior.random import Streams, stream

BALANCE = 1.0
"""a: the noise of the first part has variance sigma_y^2 (1 + a^2), that of the second sigma_y^2 (1 + 1 / a^2)."""
SHARE = 0.5
"""Of the photons, those of the first part."""
WHOLE = 0.25
"""How far a count may be from a whole number: y is kept in float32."""
HELD = "the held-out part of y"
LIMITS = """\
A pass says that the held-out parts of the measurements could not be told from what samples predict for them. Directions
that A does not measure are not seen: there all images predict the same, whatever the prior and the sampler put into
them. The sampler worked on half of the information, with the noise level of the first part. A difference may come from
the noise law, the operator, the prior or the sampler; whichever it is, samples do not predict new measurements as they
should. Errors that cancel, over measurements or between these four, pass."""


class Unknown(Truth):
    """Nobody knows the images."""

    exact = False

    def draw(self, ids: Sequence[str], seed: int, purpose: str = "truth") -> Tensor:
        raise UserError("truths of recorded measurements are not known")


def noise_of_parts(likelihood: Likelihood) -> tuple[Likelihood, Likelihood]:
    """The noise laws of the two parts.

    Raises:
        UserError: if measurements with such noise cannot be split.
    """
    if isinstance(likelihood, GaussianNoise):
        return (
            GaussianNoise(likelihood.sigma_y * (1 + BALANCE**2) ** 0.5),
            GaussianNoise(likelihood.sigma_y * (1 + BALANCE**-2) ** 0.5),
        )
    if isinstance(likelihood, PoissonNoise):
        return PoissonNoise(likelihood.rate * SHARE), PoissonNoise(likelihood.rate * (1 - SHARE))
    raise UserError(f"--recorded: measurements with {type(likelihood).__name__} cannot be split into independent parts")


def parted(measurement: Measurement, image_id: str, seed: int) -> tuple[Measurement, Measurement]:
    """One measurement (batch of 1) as two, independent given the image if its noise law is right.

    Gaussian noise: y + a w and y - w / a, w ~ N(0, sigma_y^2 I). Photon counts: each photon goes to the first part with
    probability `SHARE` (binomial thinning).

    Raises:
        UserError: if y holds no photon counts, or counts that are cut off.
    """
    operator, (one, other) = measurement.operator, noise_of_parts(measurement.likelihood)
    rng = Streams(seed, [image_id], samples=[-1])
    if isinstance(measurement.likelihood, PoissonNoise):
        first, second = _thinned(measurement, measurement.likelihood, image_id, stream(seed, image_id, -1, "split"))
    else:
        w = measurement.likelihood.sigma_y * rng.randn("split", operator.measurement_shape)
        first, second = measurement.y + BALANCE * w, measurement.y - w / BALANCE
    return tuple(  # type: ignore[return-value]
        Measurement(operator.restrict(y), operator, law) for y, law in ((first, one), (second, other))
    )


def _thinned(
    measurement: Measurement, law: PoissonNoise, image_id: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    one, other = noise_of_parts(law)
    assert isinstance(one, PoissonNoise)
    assert isinstance(other, PoissonNoise)
    seen = measured_entries(measurement)
    if bool((seen & (measurement.y >= 1)).any()):
        raise UserError(
            f"measurement {image_id} reaches 1, where photon counts are cut off: how many there were is not known, so "
            "they cannot be split"
        )
    exact = ((measurement.y.double() + 1) / 2 * law.photons).masked_fill(~seen, 0.0)
    counts = exact.round()
    if float((exact - counts).abs().max()) > WHOLE or float(counts.min()) < 0:
        raise UserError(f"measurement {image_id} holds no photon counts at rate {law.rate:g}: y = 2 k / (255 rate) - 1")
    kept = torch.binomial(counts, torch.full_like(counts, SHARE), generator=generator)
    return one.measured(kept).to(measurement.y), other.measured(counts - kept).to(measurement.y)


def measured_entries(measurement: Measurement) -> Tensor:
    """Which entries of y (1, *S) the operator measures."""
    return measurement.operator.restrict(torch.ones_like(measurement.y)) != 0


@dataclass(frozen=True)
class RecordedProblem(Problem):
    """Measurements of unknown images, split; samplers see the first parts.

    Args:
        parts_of: each measurement.
    """

    parts_of: Sequence[tuple[Measurement, Measurement]] = field(default=(), repr=False)

    def cases(self, ids: Sequence[str], seed: int, truths: Tensor | None = None) -> list[Case]:
        """The first parts; zeros stand for the truths, whatever is given."""
        first = [self.parts_of[number_of(one)][0] for one in ids]
        return [Case(one, torch.zeros(1, *self.image_shape), part) for one, part in zip(ids, first, strict=True)]


def number_of(case_id: str) -> int:
    """Of a measurement, from the name that `planned` gives it."""
    return int(case_id.rpartition("/")[2])


def recorded_problem(drawn: Problem, folder: Path, pairs: int, seed: int) -> RecordedProblem:
    """Of the measurements in a folder, at most so many.

    Args:
        drawn: with their operator and noise law.
        folder: of .npy files (`datamodules.RecordedMeasurements`).
        pairs: how many at most.
        seed: of the split.

    Raises:
        UserError: if one cannot be used.
    """
    data = RecordedMeasurements(folder, drawn.operator, drawn.likelihood, drawn.image_shape, seed, limit=pairs)
    data.setup("predict")
    parts, content = [], hashlib.blake2b(digest_size=8)
    for image_id in data.ids:
        measurement = data.measure(data.collate([image_id], data.read(image_id)[None]))
        parts.append(parted(measurement, image_id, seed))
        content.update(measurement.y.numpy().tobytes())
    return RecordedProblem(
        f"recorded-{content.hexdigest()}",
        "measurements without truth",
        drawn.prior,
        drawn.operator,
        noise_of_parts(drawn.likelihood)[0],
        drawn.image_shape,
        drawn.settings,
        Unknown(),
        parts,
    )


def predictions(problem: RecordedProblem, sampled: Sampled, seed: int) -> Tensor:
    """The second parts, row 0, and what samples predict for them, A x and noise: (K + 1, P, *S)."""
    found = []
    for case, samples in zip(sampled.pairs, sampled.ranked, strict=True):
        second = problem.parts_of[number_of(case.id)][1]
        rows = second.repeat(len(samples))
        noise = Streams(seed, [case.id], len(samples)).randn("prediction", second.y.shape[1:])
        predicted = rows.operator.restrict(rows.likelihood.sample(rows.observed(samples), noise))
        found.append(torch.cat([second.y, predicted]))
    return torch.stack(found, dim=1)


def predictive_functionals(y: Tensor, first: Tensor, cases: Sequence[Case], seed: int) -> dict[str, Tensor]:
    """Numbers of second parts y (K + 1, P, *S), by which the held one is ranked among predictions: name -> (K + 1, P).

    Each treats the rows of y alike: a random direction; the distance to the rows' mean, and of pictures its energy in
    bands of frequencies (the residual's spectrum); the distance to the first part (P, *S) and to another's.
    """
    residual = y - y.mean(dim=0)
    draws = [torch.randn(y[0, 0].numel(), generator=stream(seed, case.id, -1, "direction of y")) for case in cases]
    found = {
        "a direction of y": torch.einsum("rpj,pj->rp", y.flatten(2), torch.stack(draws)),
        "residual": residual.flatten(2).norm(dim=2),
        "distance to the first part": (y - first).flatten(2).norm(dim=2),
        "distance to a random point": (y - first.roll(1, dims=0)).flatten(2).norm(dim=2),
    }
    if y.ndim == 5:
        found |= {name.replace("energy", "residual's energy"): x for name, x in band_energies(residual).items()}
    return found


def judge_recorded(judged: Judged, problem: RecordedProblem, sampled: Sampled, seed: int) -> Curves:
    """Add to what is judged the tests of second parts among predictions; only measured entries count."""
    y = predictions(problem, sampled, seed)
    first = torch.cat([case.measurement.y for case in sampled.pairs])
    values = predictive_functionals(y, first, sampled.pairs, seed)
    judged.ranks = {name: ranks_along(value, name, sampled.pairs, seed) for name, value in values.items()}
    seen = measured_entries(sampled.pairs[0].measurement)[0]
    found, curves = calibration_tests(y[:, :, seen][..., None, None, :])
    scales = scale_tests(y) if y.ndim == 5 else []
    judged.findings = [*rank_tests(judged.ranks, judged.ranked), *found, *scales]
    judged.held = HELD
    return curves
