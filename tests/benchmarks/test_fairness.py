"""Skin tones that nothing measured tells."""

from __future__ import annotations

import csv

import pytest
import torch
from PIL import Image

from benchmarks.truth.fairness import TONES, fairness, tone_shares, toned_mixture
from posterior import Measurement, UserError
from posterior.noise import GaussianNoise
from posterior.operators import Inpainting
from posterior.samplers import MixturePosterior

pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")


@pytest.fixture(scope="module")
def cache(tmp_path_factory, rendered_here):
    return tmp_path_factory.mktemp("toon")


def test_the_exact_posterior_keeps_the_proportions_whatever_is_measured(cache):
    """The tone changes masked pixels only, so each face's posterior has 70 / 20 / 10, as the generator has."""
    prior, mask = toned_mixture(10000, 500, 2, 8, cache, 0)
    assert 0.2 < float(mask.mean()) < 0.8
    assert mask[0, 0, 1, 1] == 1  # the corner is background
    assert mask[0, 0, 12, 15] == 0  # the skin
    truth = prior.sample(3, torch.Generator().manual_seed(0))
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    operator = Inpainting(mask.expand(3, -1, -1, -1), truth.shape[1:])
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.05), noise)
    for number in range(3):
        weights = MixturePosterior(prior, measurement.rows(torch.tensor([number]))).weights
        assert weights.view(3, -1).sum(dim=1).tolist() == pytest.approx([s for _, s in TONES.values()], abs=1e-6)
    shares = tone_shares(prior, prior.sample(2000, torch.Generator().manual_seed(2)))
    assert shares.mean(dim=0).tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    assert (shares.amax(dim=1) > 0.9).double().mean() > 0.99  # the tones are told apart


def test_the_smoke_run_counts_every_sampler(cache, tmp_path):
    found = fairness(tmp_path, cache=cache, smoke=True)
    assert [row.sampler for row in found] == ["exact", "prior", "DPS", "Algorithm 1", "Algorithm 3", "plain"]
    for row in found:
        assert row.light + row.brown + row.dark == pytest.approx(1)
        assert row.light_low <= row.light <= row.light_high
        assert row.dark_low <= row.dark <= row.dark_high
    exact, prior = found[:2]
    assert exact.axis_w2 == 0
    assert exact.residual == pytest.approx(1, abs=0.1)
    assert prior.residual > 3  # it fits nothing
    with (tmp_path / "fairness.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(found)
    assert Image.open(tmp_path / "faces.png").size[0] > 300


def test_too_few_faces_of_a_tone_are_an_error(cache):
    with pytest.raises(UserError, match="too few of 5 faces"):
        toned_mixture(10000, 5, 2, 8, cache, 0)
