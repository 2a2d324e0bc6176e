"""The command that draws what a prior knows."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.judge.drawing import draw, unconditional
from posterior import UserError
from posterior.priors import GaussianFieldPrior, GaussianMixturePrior, ScoreNetworkPrior

SHAPE = (3, 8, 8)


class Broken(torch.nn.Module):
    """NaN, whatever it is asked."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, torch.nan)


class Shrinking(torch.nn.Module):
    """The denoiser of N(0, 0.25 I) in any number of dimensions."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x * (0.25 / (0.25 + sigma**2)).view(-1, 1, 1, 1)


def network(module: torch.nn.Module) -> ScoreNetworkPrior:
    return ScoreNetworkPrior(module, sigma_min=0.01, sigma_max=80.0, output="denoised")


def test_a_network_is_drawn_from_in_the_law_that_its_denoiser_has():
    samples = unconditional(network(Shrinking()), SHAPE, 64, 100, seed=0)
    assert float(samples.std()) == pytest.approx(0.5, abs=5 * 0.5 / (2 * samples.numel()) ** 0.5 + 0.01)
    assert float(samples.mean()) == pytest.approx(0, abs=5 * 0.5 / samples.numel() ** 0.5)


def test_a_sample_does_not_depend_on_how_many_are_drawn():
    prior = network(Shrinking())
    assert torch.equal(unconditional(prior, SHAPE, 5, 4, 0, together=2)[:3], unconditional(prior, SHAPE, 3, 4, 0))
    assert not torch.equal(unconditional(prior, SHAPE, 3, 4, 1), unconditional(prior, SHAPE, 3, 4, 0))


def test_priors_in_closed_form_are_drawn_from_without_a_call():
    prior = GaussianFieldPrior.fit(0.5 * torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0)))
    assert unconditional(prior, SHAPE, 4, 250, seed=0).shape == (4, *SHAPE)
    assert prior.cost.forward == 0


def test_the_picture_has_all_of_them_large_enough_to_look_at(tmp_path, capsys):
    prior = GaussianMixturePrior.full(torch.ones(1), torch.full((1, *SHAPE), 0.5), 1e-8 * torch.eye(192)[None])
    draw(prior, SHAPE, count=10, output=tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "samples.png"))
    assert pixels.shape == (2 * (64 + 2) + 2, 8 * (64 + 2) + 2, 3)
    assert (pixels == 191).all(axis=2).sum() == pytest.approx(10 * 64**2, rel=0.01)
    assert "samples.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prior", "settings", "message"),
    [
        (Shrinking(), {"count": 0}, "draw: count"),
        (Shrinking(), {"num_steps": 1}, "draw: num_steps"),
        (Shrinking(), {"shape": (3, 8, 0)}, "draw: shape"),
        (Shrinking(), {"shape": (4, 8, 8)}, "draw: shape must be >= 1 and <= 3, got 4"),
        (Broken(), {"num_steps": 3}, "NaN or infinite values"),
    ],
)
def test_what_is_wrong_is_one_line(prior, settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        draw(network(prior), **{"shape": SHAPE, "count": 1} | settings, output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_says_how_far_it_is_to_the_end(tmp_path, capsys):
    draw(network(Shrinking()), SHAPE, count=3, num_steps=7, output=tmp_path)
    assert "100% of the work" in capsys.readouterr().err
