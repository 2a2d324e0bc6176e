import copy
import logging
import pickle
import shutil

import pytest
import torch
from torch import nn

from benchmarks.tools.recipe import fill_by_recipe
from posterior.errors import UserError
from posterior.priors import DiffusionPrior, ScoreNetworkPrior, UNet

TOLERANCE = 1e-5
"""Of the largest number: measured 1e-6 for a UNet on a CPU, forward, and 1.2e-6 for its gradient."""


class Small(nn.Module):
    """Two convolutions and a number: what compiles in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x, t):
        return self.last(nn.functional.silu(self.first(x) + t.view(-1, 1, 1, 1) / 1000))


def unet():
    network = UNet(8, num_channels=32, channel_mult=(1, 2), attention_resolutions=(4,), num_head_channels=16)
    fill_by_recipe(network)
    return network


def small():
    network = Small()
    fill_by_recipe(network)
    return network


def x_of(count=2):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def gradient(prior, x):
    x = x.requires_grad_()
    return torch.autograd.grad(prior.denoise(x, 0.5).square().sum(), x)[0]


def assert_same(prior, plain):
    with torch.no_grad():
        found, wanted = prior.denoise(x_of(), 0.5), plain.denoise(x_of(), 0.5)
    assert found.is_contiguous()
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
    found, wanted = gradient(prior, x_of()), gradient(plain, x_of())
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


@pytest.fixture
def captured(monkeypatch):
    """torch.compile without a compiler: the network is taken down as one graph, which then runs as it is."""
    compile = torch.compile

    def capture(function, dynamic, mode):
        assert dynamic is False
        return compile(function, backend="eager", fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", capture)
    torch._dynamo.reset()


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("posterior")]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_network_gives_the_same(caplog):
    assert_same(DiffusionPrior(small(), compile="default"), DiffusionPrior(small()))
    assert said(caplog) == []


@pytest.mark.usefixtures("captured")
def test_a_score_network_takes_the_same_options():
    plain = ScoreNetworkPrior(small(), 0.1, 10.0, "denoised")
    assert_same(
        ScoreNetworkPrior(small(), 0.1, 10.0, "denoised", compile="default", memory_format="channels_last"), plain
    )


@pytest.mark.usefixtures("captured")
def test_the_unet_is_one_graph():
    assert_same(DiffusionPrior(unet(), compile="default"), DiffusionPrior(unet()))


def test_channels_last_gives_the_same():
    prior = DiffusionPrior(unet(), memory_format="channels_last")
    assert_same(prior, DiffusionPrior(unet()))
    weight = prior.network.input_blocks[0][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("settings", [{"compile": "default"}, {"memory_format": "channels_last"}])
def test_it_is_the_same_prior(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "compile", lambda function, **settings: lambda *arguments: function(*arguments))
    plain, prior = DiffusionPrior(unet()), DiffusionPrior(unet(), **settings)
    before = prior.denoise(x_of(), 0.5)
    assert list(prior.state_dict()) == list(plain.state_dict())
    assert prior.fingerprint() == plain.fingerprint()
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        assert torch.equal(other.denoise(x_of(), 0.5), before)
    torch.save(prior.network.state_dict(), tmp_path / "weights.pt")
    assert torch.equal(
        DiffusionPrior(unet(), checkpoint=tmp_path / "weights.pt").denoise(x_of(), 0.5), plain.denoise(x_of(), 0.5)
    )


def test_where_nothing_can_be_compiled_it_runs_as_it_is_and_says_so(monkeypatch, caplog):
    def refuse(function, **settings):
        def call(*arguments):
            raise RuntimeError("no compiler\nlong story")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    prior = DiffusionPrior(small(), compile="reduce-overhead")
    with caplog.at_level(logging.WARNING):
        first, second = prior.denoise(x_of(), 0.5), prior.denoise(x_of(), 0.5)
    assert torch.equal(first, second)
    assert torch.equal(first, DiffusionPrior(small()).denoise(x_of(), 0.5))
    assert said(caplog) == ["compile: the network cannot be compiled here and runs as it is (no compiler)"]


def test_what_is_wrong_with_the_input_is_not_the_compilers_fault(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", lambda function, **settings: lambda *arguments: function(*arguments))
    prior = DiffusionPrior(unet(), compile="default")
    with pytest.raises(UserError, match="not a multiple"):
        prior.denoise(torch.zeros(1, 3, 9, 9), 0.5)
    assert prior.compile_mode == "default"
    assert said(caplog) == []


def test_a_graphs_output_outlives_the_next_call(monkeypatch):
    held = torch.zeros(2, 3, 8, 8)

    def graph(function, **settings):
        assert settings == {"dynamic": False, "mode": "reduce-overhead"}
        return lambda x, t: held.copy_(function(x, t))

    monkeypatch.setattr(torch, "compile", graph)
    prior = DiffusionPrior(small(), prediction="x0", compile="reduce-overhead")
    first = prior.denoise(x_of(), 0.5)
    kept = first.clone()
    prior.denoise(2 * x_of(), 0.5)
    assert torch.equal(first, kept)
