"""On a CUDA device: what is promised there. Without one these are skipped; `python -m benchmarks gpu` runs them."""

import pytest
import torch

from benchmarks.machine.gpu import DEMOS, Bench, precision, sampled
from posterior.priors import DiffusionPrior
from posterior.random import Streams, words

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

pytestmark = pytest.mark.gpu

AGREEMENT = 0.02
"""Largest difference of a number from the CPU's, median face, float32 without TF32, images in [-1, 1]: one face may go
to another mode (docs/pipeline.md, "Precision and memory")."""


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def demo():
    precision("float32")
    return Bench(smoke=False)


@pytest.mark.parametrize("name", DEMOS)
def test_samples_of_the_demo_are_the_cpus(demo, name):
    prior, samplers = demo.demo()
    ids, measurement = demo.faces(2)
    there = sampled(samplers[name], prior, ids, measurement, torch.device("cuda"))
    here = sampled(samplers[name], prior, ids, measurement, torch.device("cpu"))
    assert (there - here).abs().flatten(1).amax(dim=1).median() <= AGREEMENT


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", DEMOS)
def test_samples_repeat_to_the_bit(demo, name):
    prior, samplers = demo.demo()
    ids, measurement = demo.faces(3)
    first, second = (sampled(samplers[name], prior, ids, measurement, torch.device("cuda")) for _ in range(2))
    assert torch.equal(first, second)


def test_random_words_are_the_cpus():
    keys = torch.tensor([[1, 2], [0xFFFFFFFF, 0xDEADBEEF]], dtype=torch.int64)
    for draw in (0, 1, 2**40):
        assert torch.equal(words(keys.cuda(), draw, 1001).cpu(), words(keys, draw, 1001))


def test_random_numbers_are_the_cpus_to_a_few_ulp():
    here, there = (Streams(0, ["a", "b"], device=name).randn("it", (3, 64, 64)) for name in ("cpu", "cuda"))
    torch.testing.assert_close(there.cpu(), here, rtol=5e-7, atol=1e-9)


def test_channels_last_changes_last_digits_only():  # compiled: a part of the command, as it takes minutes
    precision("float32")
    prior, _ = Bench(smoke=False).demo()
    assert isinstance(prior, DiffusionPrior)
    prior.cuda()
    other = DiffusionPrior(prior.network, prediction=prior.prediction, memory_format="channels_last")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).cuda()
    with torch.no_grad():
        wanted, found = prior.denoise(x, 1.0), other.denoise(x, 1.0)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
