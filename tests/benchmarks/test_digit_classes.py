"""Classes of samples beside exact shares: a wrong share is found, a right one is not; what is no digit is counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.digits.classes import Finite, ShareTest, class_shares, digit_classes
from benchmarks.digits.classifier import labelled
from benchmarks.digits.density import HELD_OUT, Unlike, digit_width, evenly, held_out_log_density
from benchmarks.digits.picture import FRAME, colours, sorted_sheet
from benchmarks.digits.prior import digit_prior
from benchmarks.judge.problems import Case
from benchmarks.judge.verdict import ranks_along
from posterior import UserError
from posterior.idx import read_idx
from posterior.measurement import Measurement
from posterior.metrics.digits import ClassProbability, confidence
from posterior.metrics.distribution import rank_p_value
from posterior.metrics.functionals import Functional
from posterior.noise import GaussianNoise
from posterior.operators import PhaseRetrieval
from posterior.priors import EmpiricalPrior
from posterior.samplers import posterior_of
from posterior.shipped import CONFIGS
from tests.conftest import SHARED

IMAGES, LABELS = (CONFIGS / "data" / f"digits_{name}.idx.gz" for name in ("images", "labels"))
SHARES = torch.tensor([[0.5, 0.3, 0.195, 0.005, 0.0], [0.9, 0.05, 0.03, 0.015, 0.005], [0.998, 0.002, 0, 0, 0]])


def drawn(shares, count, seed):
    draws = torch.Generator().manual_seed(seed)
    found = [torch.multinomial(one, count, replacement=True, generator=draws) for one in shares]
    return torch.stack([one.bincount(minlength=shares.shape[1]) for one in found])


def test_right_shares_pass_as_often_as_they_should():
    found = [ShareTest.of(drawn(SHARES, 64, seed), SHARES, seed, 199) for seed in range(150)]
    refuted = sum(one.pooled <= 0.05 for one in found)
    assert refuted <= 16  # 7.5 expected, standard deviation 2.7
    assert sum(one.pooled <= 0.5 for one in found) >= 50  # and the law is no wider than it should be
    assert sum(bool(one.invented or one.dropped) for one in found) <= 2
    mean = sum(one.off for one in found) / len(found)
    assert mean == pytest.approx(found[0].floor, rel=0.1)


@pytest.mark.parametrize(
    ("wrong", "invented", "dropped"),
    [
        ([[0.3, 0.5, 0.195, 0.005, 0.0], [0.9, 0.05, 0.03, 0.015, 0.005], [0.998, 0.002, 0, 0, 0]], [], []),
        ([[0.5, 0.3, 0.195, 0.005, 0.0], [0.9, 0.05, 0.03, 0.015, 0.005], [0.8, 0.2, 0, 0, 0]], [1], []),
        ([[0.8, 0.0, 0.195, 0.005, 0.0], [0.9, 0.05, 0.03, 0.015, 0.005], [0.998, 0.002, 0, 0, 0]], [], [1]),
    ],
)
def test_a_planted_wrong_share_is_found(wrong, invented, dropped):
    found = ShareTest.of(drawn(torch.tensor(wrong), 200, 5), SHARES, 0)
    assert found.pooled < 0.005
    assert (found.invented, found.dropped) == (invented, dropped)
    assert found.off > 1.5 * found.floor


def test_an_impossible_class_is_refuted_however_few_are_expected():
    counts = torch.tensor([[62, 2, 0]])
    assert ShareTest.of(counts, torch.tensor([[1.0, 0.0, 0.0]])).pooled < 1e-3
    assert ShareTest.of(torch.tensor([[64, 0, 0]]), torch.tensor([[1.0, 0.0, 0.0]])).pooled == 1


@pytest.mark.parametrize(
    ("counts", "shares", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4) / 4, r"counts \(2, 3\) and shares \(2, 4\)"),
        (torch.zeros(1, 2), torch.ones(1, 2) / 2, r"counts \(1, 2\)"),
        (torch.ones(1, 2), torch.ones(1, 2), "do not sum to 1"),
    ],
)
def test_numbers_that_are_no_counts_or_shares_are_refused(counts, shares, message):
    with pytest.raises(UserError, match=message):
        ShareTest.of(counts, shares)


def test_exact_shares_are_bayes_rule():
    images = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels, y = torch.tensor([0, 1, 2, 0, 1, 2, 2]), torch.tensor([[[[0.3]]]])
    operator = Finite.read("digits-super-resolution", {}).problem.operator.realise((1, 4, 4))
    measurement = Measurement(y, operator, GaussianNoise(0.2))
    likelihoods = torch.exp(-((0.3 - images.mean(dim=(1, 2, 3)).double()) ** 2) / (2 * 0.2**2))
    expected = torch.tensor([float(likelihoods[labels == label].sum()) for label in range(3)]) / likelihoods.sum()
    prior = EmpiricalPrior(images, labels=labels)
    found = class_shares(posterior_of(prior, measurement, torch.Generator()), labels)
    torch.testing.assert_close(found, expected.double())
    wide = EmpiricalPrior(images, 0.1, labels)
    nonlinear = PhaseRetrieval().realise((1, 4, 4))
    seen = Measurement(nonlinear.forward(images[:1]), nonlinear, GaussianNoise(1.0))
    with pytest.raises(UserError, match="by importance draws only"):
        class_shares(posterior_of(wide, seen, torch.Generator().manual_seed(0)), labels)


@pytest.fixture(scope="module")
def held_out():
    return labelled(HELD_OUT, HELD_OUT.with_name("digits_held_out_labels.idx.gz"))


@pytest.fixture(scope="module")
def few():
    return EmpiricalPrior.from_file(IMAGES, LABELS, count=600, size=32)


def test_the_density_is_that_of_the_prior_of_that_width_and_a_planted_width_is_found(few, held_out):
    x = held_out[0][:5]
    found = held_out_log_density(few, x, [0.2, 0.5])
    for place, width in enumerate((0.2, 0.5)):
        wide = EmpiricalPrior(few.images, width)
        torch.testing.assert_close(found[:, place], wide.log_prob(x), rtol=1e-9, atol=1e-6)
    planted = EmpiricalPrior(few.images, 0.3).sample(100, torch.Generator().manual_seed(0))
    unlike = Unlike.of(few, planted, [0.1, 0.2, 0.26, 0.3, 0.34, 0.4, 0.8])
    assert unlike.width == 0.3


def test_what_is_no_digit_is_counted_by_one_mark_or_the_other(few, held_out):
    digits, labels = held_out
    unlike = Unlike.of(few, digits)
    for mark in (unlike.improbable, unlike.undecided):
        assert float(mark(digits).double().mean()) == pytest.approx(0.01, abs=0.002)
    squares = torch.full((20, 1, 32, 32), -1.0)
    squares[:, :, 2:30, 2:30] = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert unlike.improbable(squares).all()
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    one, other = order[:250], order[250:]
    blends = ((digits[one] + digits[other]) / 2)[labels[one] != labels[other]]
    assert float(unlike.undecided(blends).double().mean()) > 0.05
    assert not unlike.improbable(blends).any()  # nearer to all digits than another digit is


def test_ranks_of_a_class_probability_find_wrong_shares_of_classes(held_out):
    """Truths 4 or 9, half and half; a sampler that is right, and one that forgets nines two times of three."""
    digits, labels = held_out
    nine = Functional.at("posterior.metrics.digits.nine", "--functional")
    assert nine.name == "digit_9"
    values = {label: nine(digits[labels == label]) for label in (4, 9)}
    assert values[9].median() > 0.99
    assert values[4].median() < 0.01

    def rank(share, seed):
        draws = torch.Generator().manual_seed(seed)
        probabilities = torch.cat([torch.full((1, 150), 0.5), torch.full((9, 150), share)])
        chosen = torch.rand(10, 150, generator=draws) < probabilities
        place = torch.rand(10, 150, generator=draws)
        of = {label: value[(place * len(value)).long()] for label, value in values.items()}
        cases = [Case(str(number), digits[:1], None) for number in range(150)]
        return rank_p_value(torch.from_numpy(ranks_along(torch.where(chosen, of[9], of[4]), "nine", cases, seed)), 9, 5)

    assert rank(0.5, 0) > 0.01
    assert rank(1 / 6, 1) < 1e-4


def test_the_functionals_are_a_law_over_classes(held_out):
    digits, _ = held_out
    every = torch.stack([ClassProbability(digit)(digits[:40]) for digit in range(10)], dim=1)
    torch.testing.assert_close(every.sum(dim=1), torch.ones(40))
    torch.testing.assert_close(confidence(digits[:40]), every.max(dim=1).values)
    with pytest.raises(UserError, match="digit must be >= 0 and <= 9, got 10"):
        ClassProbability(10)


def test_the_sheet_is_sorted_by_class_in_frames_of_its_colour():
    samples, classes = (
        torch.stack([torch.full((1, 4, 4), value) for value in (1.0, 0.0, -1.0)]),
        torch.tensor([2, 12, 0]),
    )
    sheet = sorted_sheet(samples, classes)
    side = 4 + 2 * FRAME
    assert sheet.shape[0] == side
    for place, (value, label) in enumerate(((0, 0), (255, 2), (128, 12))):
        tile = sheet[:, place * side : (place + 1) * side]
        assert (tile[FRAME:-FRAME, FRAME:-FRAME] == value).all()
        expected = (255 * colours(torch.tensor([label]))[0]).round()
        assert (tile[0] == expected).all()
    assert (sheet[:, 3 * side :] == 255).all()


def test_the_command_counts_draws_and_goes_on(tmp_path, capsys):
    settings = {"measurements": 2, "samples": 8, "output": tmp_path}
    digit_classes(["digits-one-bit"], ["sampler/exact_empirical"], **settings)
    told = (tmp_path / "classes.md").read_text()
    head, _, row = (line.split(" | ") for line in told.splitlines())
    cells = dict(zip((cell.strip("| ") for cell in head), (cell.strip("| ") for cell in row), strict=True))
    assert cells["measurements x samples"] == "2 x 8"
    assert float(cells["p"]) > 0.001
    assert cells["improbable"] == "0.0%"  # exact samples are digits of the prior
    assert 1000 < (tmp_path / "digits-one-bit.png").stat().st_size < 150_000
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    digit_classes(["digits-one-bit"], ["sampler/exact_empirical"], **settings)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == times
    assert (tmp_path / "classes.md").read_text() == told


def test_what_cannot_be_counted_is_one_line(tmp_path):
    with pytest.raises(UserError, match="classes are counted under an EmpiricalPrior, not RingPrior"):
        digit_classes(["ring"], output=tmp_path)
    for given in ({"images": IMAGES}, {"labels": LABELS}):
        with pytest.raises(UserError, match="images and labels belong together"):
            digit_classes(["digits-one-bit"], **given, output=tmp_path)
    with pytest.raises(UserError, match="the posterior is known under Gaussian noise only"):
        digit_classes(["digits-super-resolution", "digits-one-bit"], width=0.3, output=tmp_path)
    with pytest.raises(UserError, match="shown must be >= 0 and <= 1"):
        digit_classes(measurements=2, shown=2, output=tmp_path)
    with pytest.raises(UserError, match="held-out digits must be >= 100"):
        Unlike.of(EmpiricalPrior(torch.zeros(3, 1, 32, 32)), torch.zeros(99, 1, 32, 32))
    with pytest.raises(UserError, match="width must be > 0"):
        held_out_log_density(EmpiricalPrior(torch.zeros(3, 1, 4, 4)), torch.zeros(2, 1, 4, 4), [0.0])
    with pytest.raises(UserError, match=r"the prior has images \(1, 4, 4\), held-out ones are \(1, 5, 5\)"):
        held_out_log_density(EmpiricalPrior(torch.zeros(3, 1, 4, 4)), torch.zeros(2, 1, 5, 5), [0.1])
    with pytest.raises(UserError, match="501 images are wanted, there are 500"):
        digit_width(HELD_OUT, count=501)
    assert not list(tmp_path.iterdir())


def test_digits_of_the_prior_are_as_near_to_held_out_ones_as_the_floor(tmp_path, capsys):
    """Samples of the empirical prior are training digits; noisy ones are told apart from them."""
    rows = {}
    for width in (0.0, 0.5):
        prior = EmpiricalPrior.from_file(IMAGES, size=32, width=width)
        digit_prior(prior, IMAGES, count=200, output=tmp_path / str(width))
        lines = (tmp_path / str(width) / "digit_prior.md").read_text().splitlines()
        rows[width] = {(cells := [cell.strip() for cell in line.split("|")])[1]: cells[2:] for line in lines}
    floor, same, noisy = rows[0.0]["training digits"], rows[0.0]["samples"], rows[0.5]["samples"]
    assert math.isclose(float(same[0]), float(floor[0]), rel_tol=0.5)
    assert float(noisy[0]) > 5 * float(floor[0])
    assert float(same[1]) == pytest.approx(float(floor[1]), abs=0.1)
    assert float(noisy[1]) < float(floor[1]) - 0.2
    assert (tmp_path / "0.0" / "samples.png").stat().st_size > 1000


ORIGINALS = [name for name in ("images-idx3", "labels-idx1") if (SHARED / "mnist" / f"t10k-{name}-ubyte.gz").is_file()]


@pytest.mark.parametrize("name", ORIGINALS)  # no cases in a clone, which has no more than what ships
def test_the_held_out_digits_are_every_twentieth_of_the_originals(name):
    original = read_idx(SHARED / "mnist" / f"t10k-{name}-ubyte.gz", "idx")
    ours = HELD_OUT.with_name(f"digits_held_out_{name.partition('-')[0]}.idx.gz")
    np.testing.assert_array_equal(read_idx(ours, "idx"), original[::20])


def test_an_even_choice_keeps_both_ends():
    assert evenly(torch.arange(10), 4).tolist() == [0, 3, 6, 9]
