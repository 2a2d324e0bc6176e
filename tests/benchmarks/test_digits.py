"""Problems under given digits: how much their measurements leave open, what is compared, what the judge says."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
import yaml

from benchmarks.judge import judge, read_problem
from benchmarks.judge.command import of_object
from benchmarks.judge.problems import Problem, chosen, shipped
from benchmarks.judge.running import Budget, Cell, ExactSets, Sizes, run
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import PhaseRetrieval, Saturation
from posterior.priors import EmpiricalPrior
from posterior.random import stream
from posterior.samplers import ExactEmpirical, Sampler, posterior_of

NAMES = [name for name in shipped() if name.startswith("digits-")]
FEW = Budget("few", Sizes(8, 60, 60, 9), Sizes(2, 6, 10, 4))
"""Images of 144 numbers make a small problem."""


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_problem_leaves_20_to_200_digits(name):
    """The median over measurements, as the effective number; classes are its modes."""
    (problem,) = chosen([name])
    assert problem.blur == 0.02
    cases = problem.cases([f"{name}/compared/{number}" for number in range(6)], 0)
    posteriors = [posterior_of(problem.prior, case.measurement, stream(0, case.id, -1, "exact")) for case in cases]
    assert 20 <= statistics.median(float(one.num_images) for one in posteriors) <= 200
    truths = torch.cat([case.truth for case in cases])
    classes = problem.truth.modes(problem.blurred(truths, "x", 0, "truth"))
    assert torch.equal(classes, problem.truth.modes(truths))
    if "phase" in name:
        half = problem.prior.labels >= 10
        for one in posteriors:
            assert float(one.weights[half].sum()) == pytest.approx(0.5, abs=1e-3)


def test_they_are_judged_where_they_are_named():
    assert len(NAMES) == len(chosen(["digits-*"])) == 6
    assert not {problem.name for problem in chosen([])} & set(NAMES)


@pytest.fixture(scope="module")
def problem():
    """120 digits in 12x12 pixels, which saturate."""
    prior = EmpiricalPrior.from_file(shipped()["two-modes"].parents[1] / "data" / "digits_images.idx.gz", count=120)
    images = torch.nn.functional.interpolate(prior.pictures(torch.arange(120)), size=12, mode="area")
    labelled = EmpiricalPrior(images, labels=torch.arange(120) % 3)
    return Problem("few", "tells", labelled, Saturation(-0.5, 3), GaussianNoise(0.3), (1, 12, 12), blur=0.02)


class Likeliest(Sampler):
    """The most probable image, every time."""

    def __call__(self, prior, measurement, rng, observe=None):
        found = []
        for row in range(len(rng)):
            one = measurement.rows(torch.tensor([row]))
            found.append(posterior_of(prior, one, torch.Generator()).weights.argmax())
        return prior.pictures(torch.stack(found))


class Flattened(ExactEmpirical):
    """Samples under a likelihood whose noise is twice too large."""

    def __call__(self, prior, measurement, rng, observe=lambda *state: None):
        wrong = type(measurement)(measurement.y, measurement.operator, GaussianNoise(0.6))
        return super().__call__(prior, wrong, rng, observe)


def test_the_exact_sampler_passes_and_wrong_ones_do_not(problem):
    given = {"exact": ExactEmpirical(), "flattened": Flattened(), "likeliest": Likeliest()}
    found = judge(given, [problem], FEW, quiet=True).found
    assert not found["exact"][0].refuted, found["exact"][0].verdict()
    assert found["flattened"][0].verdict().startswith("Too wide")
    assert found["likeliest"][0].verdict().startswith("Too narrow")


def test_noise_is_added_where_sets_are_compared_and_kept_nowhere(problem, tmp_path):
    sizes = Sizes(2, 5, 3, 2, sets=2)
    found = run(of_object("exact", ExactEmpirical()), problem, sizes, 0, tmp_path)
    sets = ExactSets(tmp_path, 0).of(problem, found.cases[0], sizes).sets
    points = {tuple(one) for one in problem.prior.images.flatten(1).tolist()}
    for path in tmp_path.rglob("*.npz"):
        kept = Cell.read(path)
        assert {tuple(one) for one in kept.samples.reshape(-1, 144).tolist()} <= points
        assert {tuple(one) for one in kept.truth.reshape(-1, 144).tolist()} <= points
    compared = [*found.samples, *found.ranked, *sets, *(case.truth for case in found.pairs)]
    for x in compared:
        nearest = problem.prior.pictures(problem.prior.nearest(x))
        assert float((x - nearest).std()) == pytest.approx(0.02, rel=0.25)
    again = run(of_object("exact", ExactEmpirical()), problem, sizes, 0, tmp_path, sample=False)
    np.testing.assert_array_equal(np.stack(again.samples), np.stack(found.samples))


def test_the_blur_is_part_of_a_problem_and_its_absence_of_none(problem):
    def digest(**settings):
        return Problem("few", "x", problem.prior, problem.operator, GaussianNoise(0.3), (1, 12, 12), **settings).digest

    assert digest() == digest(blur=0.0) != digest(blur=0.02) == problem.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": {"init_args": {"width": 0.1}}}, "the posterior is known for linear operators only"),
        ({"likelihood": {"init_args": {"sigma_y": 1e-6}}}, "y is continuous and has no noise"),
        ({"blur": -0.1}, "blur must be >= 0"),
        ({"blur": "much"}, "blur"),
    ],
)
def test_what_has_no_exact_posterior_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        read_problem(shipped()["digits-saturation"], changes=changes)
    assert "\n" not in str(caught.value)


def test_all_sixty_thousand_are_a_file_away(tmp_path):
    """A problem of one's own that lays other files over the shipped one."""
    settings = yaml.safe_load(shipped()["digits-phase-retrieval"].read_text())
    settings["prior"] = {
        "class_path": "posterior.priors.EmpiricalPrior.from_file",
        "init_args": {"path": "mine", "size": 32},
    }
    settings["operator"] = {"class_path": "posterior.operators.PhaseRetrieval"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    pixels = np.random.default_rng(0).integers(256, size=(7, 28, 28), dtype=np.uint8)
    (tmp_path / "mine").write_bytes(bytes([0, 0, 8, 3]) + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes())
    found = read_problem(tmp_path / "mine.yaml")
    assert len(found.prior) == 7
    assert found.truth.modes(found.truth.draw(["a"], 0)) is None  # no labels were named
    assert isinstance(found.operator, PhaseRetrieval)
