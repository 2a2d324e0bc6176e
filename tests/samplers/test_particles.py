"""Resampling: by the weights, within the row, and NaN stays to be seen."""

from __future__ import annotations

import pytest
import torch

from posterior import Streams, UserError
from posterior.samplers import FPSSMC
from posterior.samplers import particles as module
from posterior.samplers.particles import effective_number, multinomial, select, systematic
from tests.samplers.test_mcg_diff import problem

WEIGHTS = torch.tensor([0.0, 0.45, 0.05, 0.2, 0.3, 0.0])


def shares(index: torch.Tensor, count: int) -> torch.Tensor:
    """How often each particle was chosen, over all draws, in units of their number."""
    return torch.bincount(index.flatten(), minlength=count) / index.numel()


def test_multinomial_draws_are_by_the_weights():
    """Within 5 standard errors; those of weight 0 never, not even by the ends of (0, 1]."""
    uniforms = Streams(0, ["a", "b"]).rand_like("test", torch.empty(2, 20000))
    found = multinomial((WEIGHTS.log() + 700.0).expand(2, -1), uniforms)
    errors = (WEIGHTS * (1 - WEIGHTS) / found.numel()).sqrt()
    assert ((shares(found, 6) - WEIGHTS).abs() <= 5 * errors).all()
    ends = multinomial(WEIGHTS.log()[None], torch.tensor([[2.0**-24, 0.45, 0.5, 1.0]]))
    assert ends.tolist() == [[1, 1, 2, 4]]


def test_systematic_draws_give_each_its_share_rounded_up_or_down():
    log_weights = torch.randn(500, 7, generator=torch.Generator().manual_seed(0))
    found = systematic(log_weights, Streams(0, [str(n) for n in range(500)]).rand_like("test", log_weights[:, :1]))
    expected = 7 * log_weights.softmax(dim=1)
    children = torch.nn.functional.one_hot(found, 7).sum(dim=1)
    assert ((children - expected).abs() < 1 + 1e-5).all()
    errors = ((expected - expected.floor()) * (expected.ceil() - expected) / 500).mean(dim=0).sqrt()
    assert ((children - expected).mean(dim=0).abs() < 5 * errors).all()


@pytest.mark.parametrize("resample", [multinomial, systematic])
def test_a_row_is_resampled_by_itself_and_a_nan_takes_it_over(resample):
    log_weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(3, 5 if resample is multinomial else 1, generator=torch.Generator().manual_seed(1))
    together = resample(log_weights, uniforms)
    assert torch.equal(resample(log_weights[1:2], uniforms[1:2]), together[1:2])
    spoiled = log_weights.clone()
    spoiled[1, 3] = torch.nan
    found = resample(spoiled, uniforms)
    assert torch.equal(found[[0, 2]], together[[0, 2]])
    assert (found[1] == 3).all()


def test_select_follows_the_indices_of_each_row():
    x = torch.arange(2 * 3).view(2, 3, 1, 1, 1).expand(2, 3, 1, 2, 2)
    found = select(x, torch.tensor([[2, 2, 0, 1], [0, 1, 1, 2]]))
    assert found.shape == (2, 4, 1, 2, 2)
    assert found[..., 0, 0, 0].tolist() == [[2, 2, 0, 1], [3, 4, 4, 5]]


def test_the_effective_number_is_that_of_equal_weights():
    log_weights = torch.tensor([[5.0, 5.0, 5.0, 5.0], [0.0, 0.0, -torch.inf, -torch.inf], [0.0, -99.0, -99.0, -99.0]])
    torch.testing.assert_close(effective_number(log_weights), torch.tensor([4.0, 2.0, 1.0]))


def test_particles_that_do_not_fit_memory_are_refused_before_any_call(monkeypatch):
    prior, measurement = problem(rows=2)
    monkeypatch.setattr(module, "memory_of", lambda device: 10_000)
    with pytest.raises(UserError, match="num_particles 200 for 2 rows") as refused:
        FPSSMC(num_particles=200)(prior, measurement, Streams(0, ["a", "b"]))
    assert "\n" not in str(refused.value)
    assert prior.cost.forward == 0


def test_memory_is_that_of_the_machine():
    assert module.memory_of(torch.device("cpu")) > 2**28
    assert module.memory_of(torch.device("meta")) is None
