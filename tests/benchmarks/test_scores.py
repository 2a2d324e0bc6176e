"""Tests of truths among samples: exact sets pass as often as stated, planted errors do not, scores meet an oracle."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import scoringrules
import torch

from benchmarks.judge.problems import Case
from benchmarks.judge.scores import (
    PixelRanks,
    band_energies,
    cauchy,
    coverage_curve,
    crps,
    energy_score,
    places_test,
    pooled_test,
    scale_tests,
    score_test,
    sparsification_curves,
    spread_skill,
)
from benchmarks.judge.verdict import ranks_along


def images(pairs=64, samples=9, side=8, correlation=0.7, seed=0):
    """Exact ones (K + 1, P, 1, side, side): rows exchangeable, pixels correlated, a mean and a width for each pair."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(samples + 1, pairs, 1, 1, 1, generator=generator)
    own = torch.randn(samples + 1, pairs, 1, side, side, generator=generator)
    mean, width = (
        torch.randn(1, pairs, 1, 1, 1, generator=generator),
        torch.rand(1, pairs, 1, 1, 1, generator=generator),
    )
    return mean + (0.3 + width) * (correlation**0.5 * shared + (1 - correlation) ** 0.5 * own)


def found(x, seed=0):
    """Test -> its finding."""
    ranks = PixelRanks.of(x, seed)
    scores = [score_test("CRPS", crps(x), seed), score_test("energy score", energy_score(x), seed)]
    return {one.test: one for one in (pooled_test(ranks, seed), places_test(ranks), *scores)}


def test_exact_sets_of_correlated_pixels_fail_as_rarely_as_stated():
    """At a level of 1 % each test refutes at most 1.5 % of 1000 exact sets."""
    p_values = [{name: one.p for name, one in found(images(32, 9, 6, seed=seed), seed).items()} for seed in range(1000)]
    for name in p_values[0]:
        share = np.mean([one[name] < 0.01 for one in p_values])
        assert share <= 0.015, (name, share)


def narrow(x, width=0.6):
    samples = x[1:]
    return torch.cat([x[:1], samples.mean(dim=0) + width * (samples - samples.mean(dim=0))])


def shifted(x, shift=0.8):
    return torch.cat([x[:1], x[1:] + shift])


def wrong_at_one_place(x):
    x = x.clone()
    x[1:, :, 0, 3, 4] += 2.0
    return x


@pytest.mark.parametrize(
    ("plant", "by"),
    [
        (narrow, ["ranks of all numbers", "CRPS", "energy score"]),
        (shifted, ["ranks of all numbers", "CRPS", "energy score"]),
        (wrong_at_one_place, ["ranks place by place"]),
    ],
)
def test_planted_errors_are_found(plant, by):
    judged = found(plant(images(128)))
    for name in by:
        assert judged[name].p < 1e-4, name
        assert not judged[name].low <= (1.0 if judged[name].kind == "score" else 0.0) <= judged[name].high
    if plant is wrong_at_one_place:
        assert judged["ranks place by place"].more["at number"] == 3 * 8 + 4


@pytest.mark.parametrize(
    ("name", "exact", "plant", "sizes"),
    [
        ("ranks of all numbers", 0.0, shifted, np.linspace(0, 1, 8)),
        ("energy score", 1.0, narrow, np.linspace(1, 0.5, 8)),
    ],
)
def test_an_error_as_large_as_stated_is_found_as_often_as_stated(name, exact, plant, sizes):
    """By 80 of 100 sets, less three standard errors."""
    stated, many = found(images(64))[name].reach(0.01), images(2000, side=2)
    effects = [abs(found(plant(many, size))[name].effect - exact) for size in sizes]
    size = float(np.interp(stated, effects, sizes))
    assert min(sizes[1], sizes[-1]) < size < max(sizes[1], sizes[-1])
    hits = sum(found(plant(images(64, seed=seed), size), seed)[name].p < 0.01 for seed in range(100))
    assert hits >= 68


def test_ranks_are_counts_and_equal_numbers_are_ranked_at_random():
    x = images(12, 5, 4)
    ranks = PixelRanks.of(x, together=5)
    below = (x[1:] < x[0]).sum(dim=0).flatten(1)
    torch.testing.assert_close(ranks.counts.sum(dim=1), torch.bincount(below.flatten(), minlength=6))
    torch.testing.assert_close(ranks.shares[0, :, 2], (below == 2).double().mean(dim=1))
    torch.testing.assert_close(ranks.shares.mean(dim=0), torch.full((12, 6), 1 / 6, dtype=torch.float64))
    same = PixelRanks.of(torch.zeros(5, 2000, 1, 1, 1))
    assert scipy.stats.chisquare(same.counts[:, 0].numpy()).pvalue > 1e-3


def test_ranks_of_yes_and_no_are_uniform():
    cases = [Case(str(number), torch.zeros(1), None) for number in range(3000)]
    values = torch.rand(10, 3000, generator=torch.Generator().manual_seed(0)) < 0.3
    ranks = ranks_along(values.double(), "f", cases, 0)
    assert scipy.stats.chisquare(np.bincount(ranks, minlength=10)).pvalue > 1e-3


def test_scores_are_those_of_scoringrules():
    x = images(6, 7, 4)
    truth, samples = x[0].flatten(1).double().numpy(), x[1:].flatten(2).double().numpy()
    expected = scoringrules.crps_ensemble(truth, samples, m_axis=0, estimator="fair").mean(axis=1)
    np.testing.assert_allclose(crps(x)[0], expected, rtol=1e-6)
    biased = scoringrules.es_ensemble(truth, samples.swapaxes(0, 1))
    spread = np.linalg.norm(samples[:, None] - samples[None], axis=3).sum(axis=(0, 1))
    np.testing.assert_allclose(energy_score(x)[0], biased - spread * (1 / (2 * 7 * 6) - 1 / (2 * 7 * 7)), rtol=1e-6)
    swapped = x[[3, 1, 2, 0, *range(4, 8)]]  # each row's score has the others as samples
    torch.testing.assert_close(crps(x)[3], crps(swapped)[0])


def test_curves_of_an_exact_sampler_are_straight_and_of_a_narrow_one_are_not():
    x = images(256, 19, seed=3)
    curve = coverage_curve(PixelRanks.of(x))
    np.testing.assert_allclose(curve.x, np.arange(1, 10) / 10)
    assert ((curve.low <= curve.x) & (curve.x <= curve.high)).mean() > 0.8
    lower = coverage_curve(PixelRanks.of(narrow(x)))
    assert (lower.high < lower.x).all()
    skill = spread_skill(x)
    assert len(skill.x) == 8
    assert (np.diff(skill.x) > 0).all()
    assert ((skill.low <= skill.x) & (skill.x <= skill.high)).mean() > 0.8
    assert (spread_skill(narrow(x)).low > spread_skill(narrow(x)).x).all()
    assert len(spread_skill(x[:, :9]).x) == 1


def test_sparsification_tells_a_spread_that_knows_where_the_error_is():
    """Half of the numbers vary 1/4 as much: alone they have 1 / (1/2 + 2) of the error of all, whatever the law."""
    x = torch.randn(20, 200, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[..., :4] /= 4
    kept, exact, least = sparsification_curves(x)
    assert kept.x[9] == 0.5
    assert kept.y[9] == pytest.approx(0.4, abs=0.01)
    assert (kept.y[-1], exact.y[-1], least.y[-1]) == (1, 1, 1)
    assert (np.abs(kept.y - exact.y) <= 3 * (kept.high - kept.low) / (2 * 1.96)).all()
    assert (least.y[:-1] < kept.y[:-1]).all()
    x[1:] = x[1:].flip(-1)  # the spread is now greatest where the error is least
    wrong, still, _ = sparsification_curves(x)
    assert (wrong.low[:-1] > still.y[:-1]).all()
    assert wrong.y[9] > 1


def test_what_is_missing_at_fine_scales_is_found_there():
    x = images(64, 9, 32, correlation=0.2)
    assert all(one.p > 0.001 for one in scale_tests(x))
    blurred = torch.cat([x[:1], torch.nn.functional.avg_pool2d(x[1:].flatten(0, 1), 3, 1, 1).view(9, *x.shape[1:])])
    assert scale_tests(blurred)[2].test == "error over spread, fine scales"
    assert scale_tests(blurred)[2].p < 1e-6
    energies = band_energies(blurred)["energy of fine scales"]
    assert (energies[0] > energies[1:].max(dim=0).values).double().mean() > 0.9
    assert scale_tests(x[..., :8, :8]) == []
    assert band_energies(x[..., :8, :8]) == {}


def test_cauchy_combines():
    assert cauchy(np.array([0.003])) == pytest.approx(0.003)
    assert cauchy(np.full(50, 0.003)) == pytest.approx(0.003)
    assert cauchy(np.array([1e-8, 0.9, 0.8, 0.9])) == pytest.approx(4e-8, rel=1e-3)
    assert cauchy(np.array([0.7, 1.0])) == pytest.approx(0.5)
    assert cauchy(np.array([0.0, 1.0])) < 1e-200
