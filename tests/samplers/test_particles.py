"""Resampling: by the weights, within the row, and NaN stays to be seen."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from posterior import Streams, UserError
from posterior.samplers import FPSSMC, TDS, GeometricSigmas, MCGDiff
from posterior.samplers import particles as module
from posterior.samplers.base import unobserved
from posterior.samplers.particles import effective_number, multinomial, select, systematic
from posterior.samplers.spectrum import spectrum
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


def test_memory_is_what_is_free():
    assert module.memory_of(torch.device("cpu")) > 2**28
    assert module.memory_of(torch.device("meta")) is None


@pytest.mark.parametrize(
    ("limit", "used", "free"), [(None, None, 3000), ("max", 5, 3000), (2_000_000, 500_000, 1_500_000), (10**9, 5, 3000)]
)
def test_memory_of_a_host_is_what_it_and_its_group_have_left(limit, used, free, tmp_path, monkeypatch):
    """In bytes; the host has 3000 KiB."""
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  1000 kB\nMemAvailable:   3000 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
    monkeypatch.setattr(module, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    assert module.memory_of(torch.device("cpu")) == (1024 * free if free == 3000 else free)


@pytest.mark.parametrize("resample", [multinomial, systematic])
def test_an_infinite_weight_takes_its_row_over(resample):
    log_weights = torch.zeros(2, 5)
    log_weights[1, 2] = torch.inf
    found = resample(log_weights, torch.full((2, 5 if resample is multinomial else 1), 0.7))
    assert (found[1] == 2).all()
    assert not (found[0] == 2).all()


@dataclass(frozen=True)
class Weighed(FPSSMC):
    """Zeros, with weights that are given.

    Args:
        log_weights: of the particles of each row.
    """

    log_weights: tuple[tuple[float, ...], ...] = ()

    def particles(self, prior, measurement, rng, observe=unobserved):
        log_weights = torch.tensor(self.log_weights)
        return torch.zeros(*log_weights.shape, *measurement.image_shape), log_weights


@pytest.mark.parametrize("bad", [(-torch.inf, -torch.inf), (0.0, torch.nan), (0.0, torch.inf)])
def test_weights_that_say_nothing_give_no_image(bad):
    prior, measurement = problem(rows=2)
    samples = Weighed(log_weights=((0.0, -torch.inf), bad))(prior, measurement, Streams(0, ["a", "b"]))
    assert torch.isfinite(samples[0]).all()
    assert samples[1].isnan().all()


@pytest.mark.parametrize("kind", [FPSSMC, MCGDiff, TDS])
@pytest.mark.parametrize("rows", [1, 20])
def test_the_network_sees_few_particles_at_once_and_says_the_same(kind, rows, monkeypatch):
    """A step of 37 particles: as many images as rows, or 16."""
    ids, (prior, measurement) = [str(number) for number in range(rows)], problem(rows)
    sampler, answer, seen = kind(GeometricSigmas(3, 20.0, 0.05), 37), prior.denoise, []

    def asked(x, sigma):
        seen.append(len(x))
        return answer(x, sigma)

    monkeypatch.setattr(type(prior), "denoise", lambda self, x, sigma: asked(x, sigma))
    few = sampler(prior, measurement, Streams(0, ids))
    assert max(seen) == max(rows, 16)
    assert sum(seen) == 3 * 37 * rows
    monkeypatch.setattr(module, "TOGETHER", 37 * rows)
    torch.testing.assert_close(sampler(prior, measurement, Streams(0, ids)), few, rtol=1e-4, atol=1e-5)
    assert max(seen) == 37 * rows


def test_a_path_is_drawn_level_by_level():
    """A long one is not held as a whole."""
    _, measurement = problem(rows=1)
    drawn = Streams(0, ["a"])
    path = FPSSMC().path(spectrum(measurement, "test"), FPSSMC().schedule.sigmas(), drawn)
    first, second = next(path), next(path)
    expected = Streams(0, ["a"])
    for _ in range(2):
        expected.randn_like("path", first)
    assert torch.equal(drawn.randn_like("path", first), expected.randn_like("path", first))
    assert not torch.equal(first, second)
