"""Samplers from files with blanks, and what is chosen for them."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.tools.pooled import PooledStreams
from benchmarks.tools.tuning import StableLangevin, best_scale, read_samplers
from benchmarks.truth.problems import projection, random_mixture
from posterior import Measurement, UserError
from posterior.errors import Diverged
from posterior.noise import GaussianNoise
from posterior.samplers import AnnealedLangevin, PublishedAnnealing


def test_a_share_of_the_limit_is_a_step():
    """2 / L with L = curvature + ||A||^2 / sigma_y^2 + 1 / anchor_sigma^2, the last one with an anchor only."""
    generator = torch.Generator().manual_seed(0)
    prior, operator = random_mixture(3, generator), projection(4, (2, 4, 4), generator)
    measurement = Measurement(torch.zeros(5, 4, 1, 1), operator, GaussianNoise(0.1))
    anchors = torch.zeros(5, 2, 4, 4)
    stable = StableLangevin(0.3, schedule=PublishedAnnealing(0.1, 5), anchor_sigma=0.5)
    curvature = prior.curvature(prior.sigma_min) + (operator.norm_bound() / 0.1) ** 2
    for precision, anchor in ((4.0, anchors), (0.0, None)):
        plain = AnnealedLangevin(0.6 / (curvature + precision), schedule=stable.schedule, anchor_sigma=0.5)
        found, expected = (
            sampler.anneal(prior, measurement, anchors, anchor, PooledStreams(5)) for sampler in (stable, plain)
        )
        assert torch.equal(found, expected)
    cold = replace(stable, anchor_sigma=None)
    assert torch.isfinite(cold(prior, measurement, PooledStreams(5))).all()


def test_blanks_are_filled(tmp_path):
    file = tmp_path / "samplers.yaml"
    file.write_text("table:\n  one: {class_path: DPS, init_args: {scale: SCALE}}\n  other: {class_path: Lasso}\n")
    found = read_samplers(file, "table", {"SCALE": 0.7}, "one")
    assert found.keys() == {"one"}
    assert vars(found["one"])["scale"] == 0.7
    with pytest.raises(UserError, match="scale"):
        read_samplers(file, "table", {}, "one")


def test_a_renamed_command_answers_with_its_new_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["posterior-sampling", "calibration"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "calibration is part of judge" in capsys.readouterr().err


def test_scales_at_which_chains_diverge_are_left_out():
    def run(scale):
        if scale == 3:
            raise Diverged({"row 0": "NaN"})
        return torch.full((2,), scale if scale < 2 else float("nan"))

    assert best_scale(run, lambda x: abs(float(x[0]) - 1.2), (0.5, 1.0, 2.0, 3.0)) == 1.0
    with pytest.raises(UserError, match="diverge at every setting"):
        best_scale(run, float, (2.0, 3.0))
