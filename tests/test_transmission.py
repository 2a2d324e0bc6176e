"""Photons behind matter, against scipy's Poisson law, and the scale of CT images."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators import FanBeam, ParallelBeam, RandomInpainting
from posterior.transmission import WATER, Hounsfield, TransmissionPhotons
from tests.fake_device import FakeDevice

SIDE = 8
OPERATOR = ParallelBeam(3).realise((1, SIDE, SIDE))
X = 0.5 * torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
CLEAN = OPERATOR.forward(X)


def law(photons=200.0, **settings):
    return TransmissionPhotons(photons, **settings).along(OPERATOR)


def mean_counts(photons=200.0, width=20.0):
    """Beer and Lambert's law by hand: mu = WATER (1 + HU / 1000), HU = 1000 x, along lengths of a matrix."""
    mu = WATER * (1 + X.double().flatten(1))
    lengths = OPERATOR.matrix.to_dense().double() * width  # in cm
    return photons * torch.exp(-(mu @ lengths.mT)).view(CLEAN.shape)


def test_the_scale_is_hounsfields():
    scale = Hounsfield(-1000.0, 2000.0, 0.2)
    hu = torch.tensor([-1000.0, 0.0, 500.0, 2000.0])
    x = scale.image(hu)
    assert x.tolist() == pytest.approx([-1, -1 / 3, 0, 1])
    torch.testing.assert_close(scale.units(x), hu)
    assert scale.attenuation(x).tolist() == pytest.approx([0.0, 0.2, 0.3, 0.6])
    torch.testing.assert_close(scale.of_attenuation(scale.attenuation(x)), x)
    assert Hounsfield().attenuation(torch.zeros(())) == pytest.approx(WATER)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"low": -1500.0}, "low must be >= -1000"),
        ({"low": 100.0, "high": 100.0}, "high must be > 100"),
        ({"water": 0.0}, "water must be > 0"),
        ({"high": math.nan}, "high must be"),
    ],
)
def test_bad_scales_are_refused(settings, told):
    with pytest.raises(UserError, match=f"^Hounsfield: {told}"):
        Hounsfield(**settings)


@pytest.mark.parametrize("name", ["photons", "width"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_bad_doses_are_refused(name, value):
    with pytest.raises(UserError, match=f"^TransmissionPhotons: {name} must be > 0"):
        TransmissionPhotons(**{name: value})


def test_counts_are_quantiles_of_beer_and_lamberts_law():
    noise = torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(1))
    found = law().counts(law().sample(CLEAN, noise))
    expected = scipy.stats.poisson.ppf(scipy.stats.norm.cdf(noise.double()), mean_counts())
    assert np.array_equal(found.numpy(), expected)
    torch.testing.assert_close(law().passing(CLEAN).double(), mean_counts(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("count", [0, 1, 7, 190, 100_000])
def test_the_density_is_poissons_and_the_score_its_gradient(count):
    photons = law(1e5)
    y = photons.measured(torch.full(CLEAN.shape, float(count), dtype=torch.float64))
    assert torch.isfinite(y).all()
    assert (photons.counts(y) == count).all()
    clean = CLEAN.double().requires_grad_()
    density = photons.log_prob(y, clean)
    np.testing.assert_allclose(
        density.detach(), scipy.stats.poisson.logpmf(count, mean_counts(1e5)), rtol=1e-6, atol=1e-4
    )
    (grad,) = torch.autograd.grad(density.sum(), clean)
    torch.testing.assert_close(photons.score(y, CLEAN.double()), grad, rtol=1e-5, atol=1e-3)


def test_y_is_near_what_is_observed_and_its_variance_the_inverse_information():
    """y - A x over its standard deviation is standard normal, but for O(lambda^-1/2); the score has variance 1 / V."""
    photons = TransmissionPhotons(1e5).along(OPERATOR)
    clean = CLEAN.repeat(200, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    y = photons.sample(clean, noise)
    deviation = (y - clean) / photons.variance(clean) ** 0.5
    assert abs(float(deviation.mean())) < 0.02
    assert float(deviation.var()) == pytest.approx(1, abs=0.03)
    assert float((photons.score(y, clean) ** 2 * photons.variance(clean)).mean()) == pytest.approx(1, abs=0.03)
    assert photons.annealed(0.1, y).variance(y).min() > 0.1


def test_the_distance_is_the_norm_where_many_photons_arrive():
    thin = TransmissionPhotons(1e6, width=0.5).along(OPERATOR)  # little attenuation: all rays have about one variance
    noise = torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(3))
    y = thin.sample(CLEAN, noise)
    expected = GaussianNoise(thin.sigma_y).distance(y, CLEAN)
    torch.testing.assert_close(thin.distance(y, CLEAN), expected, rtol=0.1, atol=0)
    assert (thin.distance(y, CLEAN) < thin.distance(y, CLEAN + 0.1)).all()


def test_a_measurement_knows_the_paths_of_its_rays():
    noise = torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(1))
    measured = Measurement.simulate(X, OPERATOR, TransmissionPhotons(1e4), noise)
    torch.testing.assert_close(measured.y, law(1e4).sample(CLEAN, noise))
    alone = measured.rows(torch.tensor([1])).to("cpu")
    expected = OPERATOR.adjoint(law(1e4).score(measured.y, CLEAN))[1:]
    torch.testing.assert_close(alone.log_likelihood_grad(X[1:]), expected)
    residual = Measurement.simulate(
        X.repeat(20, 1, 1, 1),
        OPERATOR,
        TransmissionPhotons(1e5),
        Streams(0, [f"{n}" for n in range(40)], samples=[-1]).randn("noise", OPERATOR.measurement_shape),
    ).relative_residual(X.repeat(20, 1, 1, 1))
    assert float(residual.mean()) == pytest.approx(1, abs=0.05)


def test_a_count_of_zero_is_legal_and_a_detector_without_any_photon_is_not():
    photons = law()
    counts = torch.ones(CLEAN.shape)
    counts[0, 0, 1] = 0  # one view of all detectors
    y = photons.of_counts(counts)
    assert torch.isfinite(y).all()
    assert torch.isfinite(photons.score(y, CLEAN)).all()
    counts[1, 0, :, 4] = 0
    with pytest.raises(UserError, match=r"TransmissionPhotons: detector 4 counts no photon in any of 3 views"):
        photons.of_counts(counts)
    with pytest.raises(UserError, match=r"TransmissionPhotons: detector \d+ counts no photon"):
        law(1e-3).sample(CLEAN, torch.zeros_like(CLEAN))
    for bad in (-1.0, math.nan):
        with pytest.raises(UserError, match=r"TransmissionPhotons: counts must be numbers >= 0"):
            photons.of_counts(torch.full_like(counts, bad))


def test_other_rays_have_other_paths():
    other = ParallelBeam(3, arc_degrees=60.0).realise((1, SIDE, SIDE))
    torch.testing.assert_close(
        law().along(other).passing(CLEAN), TransmissionPhotons(200.0).along(other).passing(CLEAN)
    )
    once = law()
    assert once.along(OPERATOR) is once


def test_counts_of_another_shape_or_without_rays_are_refused():
    with pytest.raises(UserError, match=r"^TransmissionPhotons: its rays are not known: take what along\(operator\)"):
        TransmissionPhotons().of_counts(torch.ones(CLEAN.shape))
    shape = ", ".join(map(str, CLEAN.shape[1:]))
    for bad in (torch.ones(CLEAN.shape[1:]), torch.ones(1, *CLEAN.shape), torch.ones(2, 1, 3, CLEAN.shape[3] + 1)):
        with pytest.raises(UserError, match=rf"^TransmissionPhotons: counts must be \(images, {shape}\), got"):
            law().of_counts(bad)


def test_it_is_a_law_of_rays_alone():
    operator = RandomInpainting().realise((1, 4, 4), [torch.Generator()])
    with pytest.raises(UserError, match=r"TransmissionPhotons is a law of integrals along rays: .* not Inpainting"):
        Measurement(torch.zeros(1, 1, 4, 4), operator, TransmissionPhotons())


def test_it_stays_on_the_device(monkeypatch):
    device = FakeDevice(monkeypatch)
    operator = device.operator(FanBeam(3).realise((1, SIDE, SIDE)))
    with device.running():
        y = torch.empty(2, *operator.measurement_shape, device="cuda")
        photons = TransmissionPhotons().along(operator)
        found = [photons.score(y, y), photons.distance(y, y), photons.log_prob(y, y), photons.variance(y)]
        found.append(photons.annealed(0.1, y).variance(y))
        assert device.counts == {}
    assert {part.device.type for part in found} == {"cuda"}
