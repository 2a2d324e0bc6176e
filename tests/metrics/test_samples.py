"""Numbers for all samples of an image, against scoringrules and laws that are known."""

import math

import numpy as np
import pytest
import scoringrules
import torch

from posterior import UserError
from posterior.metrics import AUSE, CRPS, EnergyScore, Residual, SampleMetric, SpreadOverError
from posterior.metrics.samples import sparsification, spread_skill
from posterior.module import PosteriorSampling
from posterior.samplers import ExactGaussian
from tests.fake_device import FakeDevice

METRICS = [CRPS(), EnergyScore(), SpreadOverError(), AUSE()]


def pairs(samples=7, images=3, shape=(2, 4, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples + 1, images, *shape, generator=generator)
    return x[1:], x[0]


def test_crps_and_energy_score_are_those_of_scoringrules():
    samples, truth = pairs()
    expected = scoringrules.crps_ensemble(truth.double(), samples.double(), m_axis=0, estimator="fair")
    np.testing.assert_allclose(CRPS()(samples, truth), expected.mean(axis=(1, 2, 3)), rtol=1e-5)
    flat = samples.flatten(2).double()
    biased = scoringrules.es_ensemble(truth.flatten(1).double(), flat.transpose(0, 1), m_axis=1)
    between = torch.stack([torch.cdist(x, x).sum() for x in flat.unbind(dim=1)]).numpy()
    fair = biased + between / 2 * (1 / 7**2 - 1 / (7 * 6))  # its second mean counts samples with themselves
    np.testing.assert_allclose(EnergyScore()(samples, truth), fair, rtol=1e-5)


@pytest.mark.parametrize("metric", [CRPS(), EnergyScore()])
@pytest.mark.parametrize("spoil", [lambda x: 0.5 * x, lambda x: 2 * x, lambda x: x + 0.7])
def test_a_score_is_least_for_samples_of_the_right_law(metric, spoil):
    samples, truth = pairs(20, 200)
    assert metric(samples, truth).mean() < metric(spoil(samples), truth).mean()


def test_spread_is_as_large_as_the_error_for_exact_samples():
    samples, truth = pairs(5, 400, (1, 8, 8))
    ratio = SpreadOverError()(samples, truth)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)
    narrow = SpreadOverError()(samples.mean(dim=0) + 0.5 * (samples - samples.mean(dim=0)), truth)
    torch.testing.assert_close(narrow, ratio / 2)


@pytest.mark.parametrize(("directions", "expected"), [(16, 1.05), (4, 1.24)])
def test_a_few_directions_have_a_larger_mean_ratio(directions, expected):
    """E of sqrt(chi^2_{8 n} / 8 / chi^2_n), n directions of equal spread and nine samples: Gamma functions."""
    rows, shape, scale = torch.eye(64)[:directions], (directions, 1, 1), 8 * directions / 2
    samples, truth = (torch.einsum("...cij,cd->...d", part, rows)[..., None, None] for part in pairs(9, 4000, shape))
    of_chi = math.exp(math.lgamma(scale + 0.5) - math.lgamma(scale))
    of_inverse = math.exp(math.lgamma((directions - 1) / 2) - math.lgamma(directions / 2))
    assert of_chi * of_inverse / 8**0.5 == pytest.approx(expected, abs=0.005)
    assert float(SpreadOverError()(samples, truth).mean()) == pytest.approx(expected, abs=0.03)


def test_sparsification_by_hand():
    """Four numbers with the errors 4, 1, 2, 3 and the spreads 1, 2, 3, 4 (times sqrt(2))."""
    error, spread = torch.tensor([4.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    samples, truth = torch.stack([error + spread, error - spread])[:, None], torch.zeros(1, 4)
    kept, best = sparsification(samples, truth)
    assert kept[0].tolist() == pytest.approx([4, 5 / 2, 7 / 3, 10 / 4])
    assert best[0].tolist() == pytest.approx([1, 3 / 2, 6 / 3, 10 / 4])
    assert float(AUSE()(samples, truth)) == pytest.approx((3 + 1 + 1 / 3 + 0) / 4 / 2.5)


def test_spread_and_skill_by_hand():
    """The same four numbers, in two bins; of two samples the variance is 2 spread^2, times (1 + 1 / 2)."""
    error, spread = torch.tensor([4.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    samples, truth = torch.stack([error + spread, error - spread])[:, None], torch.zeros(1, 4)
    said, made = spread_skill(samples, truth, 2)
    assert said[0].tolist() == pytest.approx([math.sqrt(3 * (1 + 4) / 2), math.sqrt(3 * (9 + 16) / 2)])
    assert made[0].tolist() == pytest.approx([math.sqrt((16 + 1) / 2), math.sqrt((4 + 9) / 2)])
    assert [len(one[0]) for one in spread_skill(samples, truth)] == [4, 4]  # no bin is empty


def test_exact_samples_have_the_error_that_they_say():
    said, made = spread_skill(*pairs(9, 400, (1, 16, 16)), 1)
    assert float(made.square().mean() / said.square().mean()) == pytest.approx(1, abs=0.02)


def test_a_spread_that_tells_the_error_has_no_area():
    truth = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    told = torch.stack([truth, -truth])  # the mean 0, the spread the error itself
    assert AUSE()(told, truth).abs().max() < 1e-6
    misled = torch.stack([1 / truth, -1 / truth])
    assert AUSE()(misled, truth).min() > 0.3


@pytest.mark.parametrize("count", [2, 3, 7])
def test_where_nothing_is_wrong_no_order_is_better_and_no_spread_is_wanted(count):
    """Also where the mean of equal numbers is another number in float32."""
    samples, truth = pairs(count, 2, (3, 8, 8))
    samples[:, 0] = truth[0]
    assert AUSE()(samples, truth)[0] == 0
    assert SpreadOverError()(samples, truth)[0] == 1
    assert SpreadOverError()(samples[:1].expand_as(samples), truth).tolist() == [1, pytest.approx(0, abs=1e-6)]


def test_a_spread_about_the_truth_itself_has_no_finite_ratio():
    truth = torch.zeros(1, 1, 4, 4)
    samples = torch.stack([truth + 1, truth - 1])
    assert SpreadOverError()(samples, truth).isinf().all()
    assert AUSE()(samples, truth) == 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_image_has_its_own_value_on_its_device(metric, monkeypatch):
    samples, truth = pairs()
    alone = metric(samples[:, 1:2], truth[1:2])
    torch.testing.assert_close(alone, metric(samples, truth)[1:2])
    device = FakeDevice(monkeypatch)
    with device.running():
        x = torch.empty(samples.shape, device="cuda")
        assert metric(x, x[0]).device.type == "cuda"
    assert device.counts == {}


class Twice(SampleMetric):
    name = "residual"

    def forward(self, samples, truth):
        return samples.mean(dim=(0, 2, 3, 4))


def test_what_does_not_fit_is_refused(field):
    with pytest.raises(UserError, match=r"model\.sample_metrics: one sample has no spread: num_samples must be 2"):
        PosteriorSampling(field, ExactGaussian(), metrics=[], sample_metrics=[CRPS()])
    for double in ({"sample_metrics": [CRPS(), CRPS()]}, {"sample_metrics": [Twice()]}):
        with pytest.raises(UserError, match=r"model\.metrics: two of them have the same name"):
            PosteriorSampling(field, ExactGaussian(), num_samples=2, metrics=[Residual()], **double)
