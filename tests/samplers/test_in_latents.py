"""Samples in latents: of the exact posterior where the decoder is linear, refused where a sampler is not for them."""

from __future__ import annotations

import pytest
import torch

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators import Denoising, PhaseRetrieval, SuperResolution
from posterior.samplers import (
    DAPS,
    DDRM,
    DPS,
    FPSSMC,
    JFPS,
    LGD,
    MCG,
    MMPS,
    TDS,
    AnnealedLangevin,
    ConditionalDescent,
    DDNMPlus,
    DiffPIR,
    DPSPlus,
    GeometricAnnealing,
    GeometricSigmas,
    HamiltonianSteps,
    InLatents,
    KineticLangevin,
    LangevinSteps,
    MCGDiff,
    NoAnnealing,
    PiGDM,
    PnPDM,
    Projection,
    ProximalDenoising,
    REDDiff,
    ReverseDiffusion,
    SecondOrderAncestral,
)
from tests.latents import IMAGE_SHAPE, LinearDecoder, gaussian, gaussian_latents

SIGMA_Y, ROWS = 0.3, 800
FEW = GeometricSigmas(5, 3.0, 0.1)
NOISE = ReverseDiffusion(GeometricSigmas(40, 20.0, 0.01), SecondOrderAncestral())


def measurement(family=None):
    operator = (family or SuperResolution(2, "average")).realise(IMAGE_SHAPE)
    rng = Streams(0, ["a"], samples=[-1])
    with torch.no_grad():
        truth = gaussian_latents().decoder(rng.randn("truth", (2, 2, 2)))
    return Measurement.simulate(truth, operator, GaussianNoise(SIGMA_Y), rng.randn("noise", operator.measurement_shape))


def exact(measured):
    """Mean (48,) and covariance (48, 48) of x = W z + b given y = A x + noise, in float64."""
    decoder, (mean, covariance) = LinearDecoder(), gaussian()
    w, b, mean, covariance = (part.double() for part in (decoder.weight, decoder.bias, mean, covariance))
    matrix = measured.operator.to(torch.float64).forward(torch.eye(48).double().view(48, *IMAGE_SHAPE)).flatten(1).T
    seen = matrix @ w
    precision = covariance.inverse() + seen.T @ seen / SIGMA_Y**2
    told = covariance.inverse() @ mean + seen.T @ (measured.y.double().flatten() - matrix @ b) / SIGMA_Y**2
    return w @ (precision.inverse() @ told) + b, w @ precision.inverse() @ w.T


@pytest.mark.parametrize(
    "sampler",
    [
        AnnealedLangevin(0.03, averaged_noise=True, reverse=NOISE, schedule=NoAnnealing(200), score_sigma=0.0),
        ConditionalDescent(
            GeometricSigmas(4, 3.0, 1.0), GeometricSigmas(30, 1.0, 0.003), num_steps=8, one_step_below=0
        ),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_means_and_variances_are_those_of_the_exact_posterior(sampler):
    measured = measurement()
    with torch.no_grad():
        x = InLatents(sampler)(gaussian_latents(), measured.repeat(ROWS), Streams(0, ["a"], ROWS)).flatten(1).double()
    mean, covariance = exact(measured)
    variance = covariance.diagonal()
    off = (x.mean(dim=0) - mean) / (variance / ROWS).sqrt()
    assert off.abs().max() < 4
    ratio = x.var(dim=0) / variance
    assert (ratio - 1).abs().max() < 4 * (2 / ROWS) ** 0.5


COLD = {"reverse": ReverseDiffusion(FEW)}
VALID = [
    ReverseDiffusion(FEW),
    DPS(FEW, clip_denoised=False),
    DPSPlus(FEW, clip_denoised=False),
    LGD(FEW, clip_denoised=False),
    REDDiff(FEW),
    DAPS(FEW, 2, 0.05, LangevinSteps(3, 1e-3, 0.1)),
    PnPDM(2, 3.0, 1.0, 0.1, FEW, likelihood_step=HamiltonianSteps(3, 1e-3)),
    ConditionalDescent(GeometricSigmas(2, 3.0, 0.5), GeometricSigmas(2, 1.0, 0.1)),
    AnnealedLangevin(1e-3, schedule=GeometricAnnealing(5, 1.0), **COLD),
    KineticLangevin(schedule=GeometricAnnealing(5, 1.0), score_sigma=0.1, operator_norm=3.0, **COLD),
]
REFUSED = [
    *(Projection(FEW, clip_denoised=False), MCG(FEW, clip_denoised=False), ProximalDenoising(FEW, clip_denoised=False)),
    *(DiffPIR(FEW, clip_denoised=False), TDS(FEW, 4, clip_denoised=False), DDRM(FEW), DDNMPlus(FEW), PiGDM(FEW)),
    *(MMPS(FEW), JFPS(FEW), MCGDiff(FEW, num_particles=4), FPSSMC(FEW, num_particles=4)),
    PnPDM(2, 3.0, 1.0, 0.1, FEW),
    AnnealedLangevin(1e-3, warm_start=ProximalDenoising(FEW, clip_denoised=False), anchor_sigma=0.3, **COLD),
]


def name(sampler):
    return type(sampler).__name__


@pytest.mark.parametrize("family", [SuperResolution(2, "average"), PhaseRetrieval()], ids=name)
@pytest.mark.parametrize("sampler", VALID, ids=name)
def test_samplers_for_nonlinear_operators_give_images(sampler, family):
    measured = measurement(family)
    with torch.no_grad():
        images = InLatents(sampler)(gaussian_latents(), measured.repeat(2), Streams(0, ["a"], 2))
    assert images.shape == (2, *IMAGE_SHAPE)
    assert torch.isfinite(images).all()
    w, b = LinearDecoder().weight, LinearDecoder().bias
    seen = images.flatten(1) - b
    left = seen - seen @ torch.linalg.pinv(w).T @ w.T
    assert left.abs().max() < 1e-4 * seen.abs().max()  # what the decoder can make, and nothing else


@pytest.mark.parametrize("sampler", REFUSED, ids=name)
def test_samplers_that_need_a_linear_operator_are_refused_before_the_first_call(sampler):
    prior = gaussian_latents()
    with pytest.raises(UserError, match="needs a linear operator, got Decoded") as error:
        InLatents(sampler)(prior, measurement(), Streams(0, ["a"]))
    assert "\n" not in str(error.value)
    assert prior.cost.forward == 0


@pytest.mark.parametrize(
    ("sampler", "setting"),
    [
        (DPS(FEW), r"sampler\.clip_denoised"),
        (ConditionalDescent(clip_search=True), r"sampler\.clip_search"),
        (AnnealedLangevin(1e-3, clip=True), r"sampler\.clip"),
        (AnnealedLangevin(1e-3, warm_start=DPS(FEW), anchor_sigma=0.3), r"sampler\.warm_start\.clip_denoised"),
        (AnnealedLangevin(1e-3, reverse=ReverseDiffusion(FEW, clip_denoised=True)), r"sampler\.reverse\.clip_denoised"),
    ],
)
def test_a_sampler_that_clips_is_refused(sampler, setting):
    with pytest.raises(UserError, match=f"InLatents: {setting} is on, but latents have no bounds .*: set it to false"):
        InLatents(sampler)


def test_a_prior_of_images_and_one_of_latents_are_not_taken_for_each_other():
    measured, rng = measurement(Denoising()), Streams(0, ["a"])
    with pytest.raises(UserError, match="InLatents needs a LatentPrior, got GaussianMixturePrior"):
        InLatents(ReverseDiffusion(FEW))(gaussian_latents().latents, measured, rng)
    for sampler in (ReverseDiffusion(FEW), DPS(FEW)):
        with pytest.raises(UserError, match=r"LatentPrior has no denoiser of images.*: put the sampler into InLatents"):
            sampler(gaussian_latents(), measured, rng)


class Hiding(LinearDecoder):
    """A decoder from which every row comes back finite."""

    def forward(self, z):
        return super().forward(z).nan_to_num()


def test_latents_that_are_not_finite_are_no_image_whatever_the_decoder_makes_of_them():
    prior = gaussian_latents()
    prior.decoder = Hiding()
    measured = measurement().repeat(2)
    measured.y[1] = torch.nan
    with torch.no_grad():
        images = InLatents(ConditionalDescent(GeometricSigmas(2, 3.0, 0.5), GeometricSigmas(2, 1.0, 0.1)))(
            prior, measured, Streams(0, ["a", "b"])
        )
    assert torch.isfinite(images[0]).all()
    assert images[1].isnan().all()
