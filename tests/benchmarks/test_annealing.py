"""The theory's claims, with tolerances from Monte Carlo error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.truth.annealing import annealing, hard_instance, lemma_f1, lemma_f2, ring, ring_posterior
from benchmarks.truth.problems import anchored
from posterior import Measurement
from posterior.noise import GaussianNoise
from posterior.operators import Dense
from posterior.priors import RingPrior


def test_lemma_f1_the_variance_dips_over_time():
    """Var X_t = 1 - 2 u (1 - u) / (1 + eta^2), lowest at t* = eta^2 ln 2 / (1 + eta^2) (Figure 3)."""
    eta2 = 0.5
    dip = lemma_f1(eta2, rows=100_000)
    assert np.abs(dip.measured - dip.stated).max() < dip.tolerance < 0.03
    lowest = int(dip.measured.argmin())
    assert dip.measured[lowest] == pytest.approx(1 - 1 / (2 * (1 + eta2)), abs=dip.tolerance)
    assert dip.times[lowest] == pytest.approx(eta2 * math.log(2) / (1 + eta2), rel=0.25)


def test_lemma_f2_plain_langevin_enters_the_shell_and_the_annealed_sampler_does_not():
    crossing = lemma_f2(rows=20, h=0.01, steps_per_level=4)  # as long a time as by default, in larger steps
    assert crossing.error.magnitude == pytest.approx(176, rel=0.02)
    assert crossing.error.norm(4) == pytest.approx(0.1)
    assert crossing.plain == 1.0
    assert crossing.annealed == 0.0
    assert crossing.annealed_levels.min() > 0.8  # |X|^2 / d stays that of the prior


def test_a_warm_start_makes_the_ring_easy():
    """Figure 1, E.4: anchors as near as the ring is wide lead to p(x | x0, y); far ones leave wrong shares."""
    near, far = ring(rows=1000, anchor_sigmas=(0.1, 1.0))
    assert near.distance < 1.5 * near.floor
    assert far.distance / far.floor > near.distance / near.floor


def test_the_rings_exact_samples_are_those_of_rejection():
    prior, generator = RingPrior(0.2), torch.Generator().manual_seed(0)
    y, anchor = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0.4, 0.7]).view(1, 2, 1, 1)
    measurement = Measurement(y, Dense(torch.tensor([[1.0, 0.0]]), RingPrior.IMAGE_SHAPE), GaussianNoise(0.3))
    exact = ring_posterior(prior, anchored(measurement, anchor, 0.4), 20_000, generator).flatten(1)
    x = prior.sample(200_000, generator).flatten(1)
    misfit = ((x - anchor.flatten()) / 0.4).square().sum(dim=1) + ((x[:, 0] - 0.5) / 0.3).square()
    kept = x[torch.rand(len(x), generator=generator) < (-0.5 * misfit).exp()]
    assert len(kept) > 5000
    torch.testing.assert_close(exact.mean(dim=0), kept.mean(dim=0), rtol=0, atol=0.02)
    torch.testing.assert_close(exact.T.cov(), kept.T.cov(), rtol=0, atol=0.01)


def test_the_hard_instance_is_easy_with_a_warm_start_only():
    result = hard_instance(rows=200)
    assert result.exact_share > 0.99  # f is one to one: y decides the mode
    assert result.warm_error < 0.01
    assert result.warm_share > 0.99
    assert result.cold_share < 0.1  # near 1 / 256: the samples sit where they started
    assert result.cold_error > 0.9


def test_the_benchmark_runs_in_its_small_size(tmp_path, capsys):
    annealing(tmp_path, smoke=True)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("Lemma F.1", "Lemma F.2", "ring of width", "hard instance"))
    assert (tmp_path / "annealing.png").stat().st_size > 10_000
