"""A measurement in the coordinates of singular vectors, and who has none."""

from __future__ import annotations

import pytest
import torch

from posterior import Measurement, Streams, UserError, stream
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import (
    CartesianMRI,
    GaussianBlur,
    GaussianSensing,
    MotionBlur,
    PhaseRetrieval,
    RandomInpainting,
    SubsampledTransform,
    SuperResolution,
)
from posterior.samplers import DDRM, FPSSMC, DDNMPlus, GeometricSigmas, MCGDiff
from posterior.samplers.particles import spectrum_of_particles
from posterior.samplers.spectrum import spectrum
from tests.peers import GaussianByMatrix
from tests.protocol import IDS

SHAPE, P = (2, 8, 8), 3
FAMILIES = {
    "blur": GaussianBlur(3, 0.5),
    "blur that leaves little": GaussianBlur(7, 3.0),
    "super-resolution": SuperResolution(2),
    "masks": RandomInpainting(),
    "masks and signs": SubsampledTransform(0.5),
    "dense": GaussianSensing(40),
    "MRI": CartesianMRI(),
}
SAMPLERS = [kind(GeometricSigmas(5, 3.0, 0.1)) for kind in (DDRM, DDNMPlus, MCGDiff, FPSSMC)]
NOISE = GaussianNoise(0.05)
OTHERS = [(MotionBlur(5), NOISE), (PhaseRetrieval(), NOISE), (RandomInpainting(), PoissonNoise())]


def measured(family, likelihood=NOISE):
    """Without noise in y, of white images; and these, float64."""
    operator = family.realise(SHAPE, [stream(0, i, -1, "operator") for i in IDS]).to(torch.float64)
    truth = Streams(0, IDS).randn("truth", SHAPE, torch.float64)
    return Measurement(operator.forward(truth), operator, likelihood), truth


@pytest.mark.parametrize("name", FAMILIES)
def test_y_without_noise_is_the_image_where_it_is_observed(name):
    """||A x||^2 is the sum of (s xbar)^2; and ybar = V^T x as far as float32's gains allow."""
    measurement, truth = measured(FAMILIES[name])
    known = spectrum(measurement, "test")
    xbar = known.analyse(truth)
    torch.testing.assert_close(known.synthesise(xbar), truth, rtol=1e-5, atol=1e-5)
    energy = measurement.y.square().sum(dim=(1, 2, 3))
    torch.testing.assert_close((known.s * xbar).square().sum(dim=(1, 2, 3)), energy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(known.s * known.ybar, known.s * xbar, rtol=1e-4, atol=1e-4)
    assert known.observed.any()
    assert (known.ybar[~known.observed] == 0).all()
    assert known.noise[~known.observed].isinf().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_particles_have_their_rows(name):
    measurement, truth = measured(FAMILIES[name])
    one, many = spectrum(measurement, "test"), spectrum_of_particles(measurement, "test", P)
    particles = truth[:, None].expand(-1, P, -1, -1, -1).contiguous()
    assert many.s.shape == many.ybar.shape == (len(IDS), 1, *SHAPE)
    torch.testing.assert_close(many.ybar[:, 0], one.ybar)
    for turn in ("analyse", "synthesise"):
        found, expected = getattr(many, turn)(particles), getattr(one, turn)(truth)
        torch.testing.assert_close(found, expected[:, None].expand_as(found))


@pytest.mark.parametrize(("family", "likelihood"), OTHERS, ids=lambda value: type(value).__name__)
def test_who_has_none_is_refused_in_one_line(family, likelihood):
    measurement, _ = measured(family, likelihood)
    with pytest.raises(UserError, match=r"^Somebody needs ") as refused:
        spectrum(measurement, "Somebody")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize(("family", "likelihood"), OTHERS, ids=lambda value: type(value).__name__)
def test_samplers_refuse_before_any_call(sampler, family, likelihood):
    measurement, _ = measured(family, likelihood)
    prior = GaussianByMatrix(torch.zeros(128), torch.eye(128))
    with pytest.raises(UserError, match=f"^{type(sampler).__name__} needs"):
        sampler(prior, measurement, Streams(0, IDS))
    assert prior.cost.forward == 0


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize("bounds", [{"sigma_min": 0.2}, {"sigma_max": 2.0}], ids=str)
def test_levels_that_the_prior_has_not_are_refused_before_any_call(sampler, bounds):
    measurement, _ = measured(RandomInpainting())
    prior = GaussianByMatrix(torch.zeros(128), torch.eye(128))
    for name, value in bounds.items():
        setattr(prior, name, value)
    with pytest.raises(UserError, match="outside"):
        sampler(prior, measurement, Streams(0, IDS))
    assert prior.cost.forward == 0
