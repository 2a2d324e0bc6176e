"""What every sampler promises, whatever it is: a sampler enters by one row of `ENTRIES`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

import posterior.samplers
from benchmarks.tools.recipe import fill_by_recipe
from posterior import UserError
from posterior.checks import real, whole
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import FanBeam, GaussianBlur, MotionBlur, PhaseRetrieval, RandomInpainting, SuperResolution
from posterior.priors import (
    Decoder,
    DiffusionPrior,
    EmpiricalPrior,
    GaussianFieldPrior,
    GaussianMixturePrior,
    LatentPrior,
    UNet,
)
from posterior.samplers import (
    DAPS,
    DDIM,
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
    ExactEmpirical,
    ExactGaussian,
    ExactMixture,
    FilteredBackProjection,
    GeometricAnnealing,
    GeometricSigmas,
    HamiltonianSteps,
    InLatents,
    KineticLangevin,
    LangevinSteps,
    Lasso,
    ListedSigmas,
    MCGDiff,
    MetropolisSteps,
    PiGDM,
    PnPDM,
    Projection,
    ProximalDenoising,
    PublishedAnnealing,
    RandomisedMaximumLikelihood,
    REDDiff,
    RespacedSigmas,
    ReverseDiffusion,
    Sampler,
    TotalVariation,
    unobserved,
)
from tests.fake_device import HiddenWait
from tests.protocol import SAMPLER_CHECKS, Entry, bad_settings_are_refused, concrete, stays_on_the_device


def field() -> GaussianFieldPrior:
    """Moderately stiff, correlated colours."""
    return GaussianFieldPrior(
        mean=[0.2, 0.0, -0.1],
        components=[[0.6, 0.6, 0.52915], [0.8, -0.45, -0.39686], [0.0, 0.66144, -0.75]],
        amplitude=[2e-2, 1e-2, 1e-2],
        exponent=[2.0, 1.5, 1.0],
        cutoff=[0.1, 0.1, 0.1],
        floor=0.2,
    )


def mixture() -> GaussianMixturePrior:
    """Two overlapping modes, low rank."""
    generator = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(2, 192, 4, generator=generator))
    means = 0.3 * torch.randn(2, 3, 8, 8, generator=generator)
    return GaussianMixturePrior(
        torch.tensor([0.4, 0.6]), means, directions, torch.full((2, 4), 0.3), torch.tensor([0.05, 0.1])
    )


def one_gaussian() -> GaussianMixturePrior:
    """The first of the two."""
    both = mixture()
    parts = (getattr(both, name)[:1] for name in ("means", "directions", "variances", "rest"))
    return GaussianMixturePrior(torch.ones(1), *parts)


def given(width: float = 0.0) -> EmpiricalPrior:
    """Some images, so many that two samples of a vague measurement are two of them."""
    return EmpiricalPrior(0.4 * torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)), width)


class Mixed(Decoder):
    """Latents as large as the images: channels mixed, and bent a little."""

    channels, latent_channels, factor = 3, 3, 1

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mixing", torch.tensor([[0.6, 0.6, 0.5], [0.8, -0.4, -0.4], [0.0, 0.7, -0.7]]))

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("cd,bdhw->bchw", self.mixing, z) + 0.1 * z.sin()


def latents() -> LatentPrior:
    """Of the field."""
    return LatentPrior(field(), Mixed())


@cache
def weights() -> dict[str, Tensor]:
    unet = UNet(8, num_channels=32, channel_mult=(1, 1), attention_resolutions=(4,), num_head_channels=16)
    fill_by_recipe(unet)
    return unet.state_dict()


def network() -> DiffusionPrior:
    """A small network that has learned variances, in its first days: far from the denoiser of anything."""
    unet = UNet(8, num_channels=32, channel_mult=(1, 1), attention_resolutions=(4,), num_head_channels=16)
    unet.load_state_dict(weights())
    return DiffusionPrior(unet)


FEW, BLUR = GeometricSigmas(5, 3.0, 0.1), GaussianBlur(5, 1.0)
NOISE = ReverseDiffusion(FEW)
LEVELS, FALLING = PublishedAnnealing(growth=0.5, num_levels=5), GeometricAnnealing(5)
SMOOTHED = {"score_sigma": 0.1, "score_sigma_top": 0.3, "ending": ReverseDiffusion(ListedSigmas([0.0]))}
WARM = {"warm_start": ProximalDenoising(GeometricSigmas(3, 3.0, 0.3), clip_denoised=False), "anchor_sigma": 0.3}
BELOW = len(FEW.below(0.3)) - 1
"""Steps of reverse diffusion from the anchor."""
OF_ANNEALING = {"anchor_sigma": -0.3, "score_sigma": -0.1, "score_sigma_top": 0.0}

ENTRIES = {
    "ReverseDiffusion": Entry(NOISE, field, 5, tolerance=1e-5, ignores_y=True),
    "ReverseDiffusion, network": Entry(ReverseDiffusion(FEW, DDIM(0.5), True), network, 5, ignores_y=True),
    "DPS": Entry(DPS(RespacedSigmas(10), clip_denoised=False), field, 10, 10, SuperResolution(2), bad={"scale": 0.0}),
    "DPS, network": Entry(DPS(FEW), network, 5, 5, tolerance=1e-3, bad={"scale": -1.0}),
    "DPS, photons": Entry(DPS(FEW, scale=0.05), field, 5, 5, SuperResolution(2), PoissonNoise()),
    "DPSPlus": Entry(DPSPlus(FEW), field, 5, 5, PhaseRetrieval(), bad={"copies": 0, "spread": -0.1}),
    "Projection": Entry(Projection(FEW), field, 5, family=MotionBlur(5)),
    "MCG": Entry(MCG(FEW, clip_denoised=False), field, 5, 5, MotionBlur(5), bad={"scale": 0.0}),
    "ProximalDenoising": Entry(ProximalDenoising(FEW, covariance="jacobian"), field, 10),
    "ProximalDenoising, no basis": Entry(ProximalDenoising(ListedSigmas([3.0, 0.5, 0.0])), field, 2, 0, MotionBlur(5)),
    # three calls a level, two below 0.08
    "ConditionalDescent": Entry(
        ConditionalDescent(GeometricSigmas(3, 3.0, 0.5), GeometricSigmas(3, 1.0, 0.1)),
        field,
        3 * 3 + 2 * 3 + 3 * 3,
        bad={"num_steps": 0, "one_step_below": -1.0, "cycles": -1, "turn": 0.0},
    ),
    "ConditionalDescent, network": Entry(
        ConditionalDescent(
            GeometricSigmas(3, 3.0, 0.5), GeometricSigmas(3, 1.0, 0.003), clip_search=True, final_denoising=True
        ),
        network,
        3 * 3 + 3 + (3 + 2 + 2) + 1,
    ),
    "ConditionalDescent, no basis": Entry(
        ConditionalDescent(GeometricSigmas(2, 3.0, 0.5), GeometricSigmas(2, 1.0, 0.1)),
        field,
        2 * 3 + 3 + 2 * 3,
        0,
        MotionBlur(5),
    ),
    "PiGDM": Entry(PiGDM(FEW), field, 5, 5),
    "DiffPIR": Entry(DiffPIR(FEW, clip_denoised=False), field, 5, bad={"lam": 0.0, "zeta": 1.1}),
    "DiffPIR, no basis": Entry(DiffPIR(FEW), field, 5, 0, MotionBlur(5)),
    "DAPS": Entry(
        DAPS(FEW, 2, 0.05, LangevinSteps(3, 1e-3, 0.1)), field, 5 * 2, bad={"ode_steps": 0, "ode_bottom": 0.0}
    ),
    "DAPS, network": Entry(
        DAPS(FEW, 3, 0.05, HamiltonianSteps(3, 1e-3)), network, 5 * 3, 0, PhaseRetrieval(), tolerance=1e-3
    ),
    "DAPS, photons": Entry(
        DAPS(FEW, 1, 0.05, MetropolisSteps(3, 1e-6)), field, 5, 0, SuperResolution(2), PoissonNoise()
    ),
    "PnPDM": Entry(  # 5 levels from 3, then 4 from 1, 3 from 1/3
        PnPDM(3, 3.0, 1 / 3, 1 / 3, FEW, likelihood_step=LangevinSteps(3, 1e-3)),
        field,
        5 + 4 + 3,
        bad={"num_iterations": 0, "rho": 0.05, "rho_min": 0.0, "decay": 1.1},
    ),
    "PnPDM, no basis": Entry(PnPDM(2, 0.3, 0.3, 1.0, FEW, DDIM()), network, 2 * 3, 0, MotionBlur(5), tolerance=1e-3),
    "REDDiff": Entry(REDDiff(FEW), field, 5, bad={"lam": 0.0, "power": 2.1, "step_size": 0.0}),
    "REDDiff, network": Entry(REDDiff(FEW), network, 5, 0, PhaseRetrieval(), tolerance=1e-3),
    "DDRM": Entry(DDRM(FEW), field, 5, family=BLUR, bad={"eta": 1.1, "eta_b": -0.1}),
    "DDRM, masks": Entry(DDRM(FEW), network, 5),
    "MMPS": Entry(MMPS(FEW, num_steps=2), field, 5, 5 * 3),
    "MMPS, network": Entry(MMPS(FEW, num_steps=2), network, 5, 5 * 3, MotionBlur(5), tolerance=1e-3),
    "TDS": Entry(TDS(FEW, 4), field, 5 * 4, 5 * 4, bad={"num_particles": 0, "signal_std": 0.0}),
    "TDS, network": Entry(TDS(FEW, 2), network, 5 * 2, 5 * 2, MotionBlur(5), tolerance=1e-3),
    "DDNMPlus": Entry(  # two travels of two steps
        DDNMPlus(FEW, travel_length=2, travel_repeat=2),
        field,
        5 + 2 * 2,
        family=BLUR,
        bad={"eta": 1.1, "travel_length": 0, "travel_repeat": 0},
    ),
    "DDNMPlus, masks": Entry(DDNMPlus(FEW), network, 5),
    "JFPS": Entry(JFPS(FEW), field, 5, bad={"signal_std": 0.0}),
    "InLatents": Entry(InLatents(DPS(RespacedSigmas(10), clip_denoised=False)), latents, 10, 10, PhaseRetrieval()),
    "LGD": Entry(
        LGD(RespacedSigmas(10), clip_denoised=False),
        field,
        10,
        10,
        PhaseRetrieval(),
        bad={"scale": 0.0, "num_draws": 0},
    ),
    "MCGDiff": Entry(
        MCGDiff(FEW, num_particles=4), field, 4 * 5, family=BLUR, bad={"num_particles": 0, "eta": 0.0, "kappa": 1.0}
    ),
    "MCGDiff, masks": Entry(MCGDiff(FEW, num_particles=3), network, 3 * 5),
    "FPSSMC": Entry(FPSSMC(FEW, num_particles=4), field, 4 * 5, family=BLUR, bad={"num_particles": 0, "eta": 0.0}),
    "FPSSMC, masks": Entry(FPSSMC(FEW, num_particles=3), network, 3 * 5),
    # Algorithms 1 and 3
    "AnnealedLangevin": Entry(
        AnnealedLangevin(1e-3, averaged_noise=True, reverse=NOISE, schedule=LEVELS),
        field,
        5 + 4,
        family=BLUR,
        bad={"step_size": 0.0} | OF_ANNEALING,
    ),
    "AnnealedLangevin, warm": Entry(
        AnnealedLangevin(1e-3, reverse=NOISE, schedule=LEVELS, **WARM), field, 3 + BELOW + 4, family=RandomInpainting()
    ),
    "AnnealedLangevin, photons": Entry(
        AnnealedLangevin(1e-5, reverse=NOISE, schedule=LEVELS), field, 5 + 4, 0, SuperResolution(2), PoissonNoise()
    ),
    "KineticLangevin": Entry(
        KineticLangevin(reverse=None, schedule=FALLING, **SMOOTHED, **WARM),
        field,
        3 + (1 + 4) + 1,
        family=BLUR,
        bad={"step_fraction": 1.0, "friction": -1.0, "operator_norm": 0.0} | OF_ANNEALING,
    ),
    "KineticLangevin, told y": Entry(
        KineticLangevin(
            reverse=None,
            schedule=FALLING,
            score_sigma=0.3,
            conditional_score=True,
            ending=ConditionalDescent(descent=GeometricSigmas(4, 1.0, 0.1)),
            **WARM,
        ),
        field,
        3 + 2 * (1 + 4) + (3 + 3),  # x_s and the anchor together are at 0.21
        family=BLUR,
    ),
    "KineticLangevin, network": Entry(
        KineticLangevin(reverse=None, schedule=FALLING, **SMOOTHED, **WARM), network, 3 + (1 + 4) + 1
    ),
    "Lasso": Entry(
        Lasso(num_steps=5), field, 0, family=BLUR, deterministic=True, bad={"threshold": 0.0, "wavelet": "bior2.2"}
    ),
    "TotalVariation": Entry(
        TotalVariation(num_steps=5), field, 0, family=BLUR, deterministic=True, bad={"weight": 0.0}
    ),
    "FilteredBackProjection": Entry(
        FilteredBackProjection(), field, 0, family=FanBeam(6), deterministic=True, bad={"outside": float("nan")}
    ),
    "ExactGaussian": Entry(ExactGaussian(), field, 0, family=BLUR, stops_early=True, bad={"tolerance": 1.0}),
    "RandomisedMaximumLikelihood": Entry(
        RandomisedMaximumLikelihood(3, 4), field, 0, family=BLUR, bad={"num_steps": 0, "inner_steps": 0}
    ),
    "RandomisedMaximumLikelihood, mixture": Entry(RandomisedMaximumLikelihood(3, 4), one_gaussian, 0),
    "ExactMixture": Entry(ExactMixture(), mixture, 0),
    "ExactEmpirical": Entry(
        ExactEmpirical(),
        given,
        0,
        family=PhaseRetrieval(),
        likelihood=GaussianNoise(10.0),
        bad={"num_draws": 0, "least_draws": 0.5},
    ),
    "ExactEmpirical, blurred": Entry(ExactEmpirical(), lambda: given(0.3), 0),
    "ExactEmpirical, drawn": Entry(
        ExactEmpirical(500, 1.0), lambda: given(0.3), 0, family=PhaseRetrieval(), likelihood=GaussianNoise(3.0)
    ),
}


@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ENTRIES)
def test_a_sampler_keeps_the_protocol(name, check):
    check(ENTRIES[name])


@pytest.mark.parametrize("name", [name for name in ENTRIES if "," not in name])  # of each class the first
def test_a_sampler_stays_on_the_device(name, monkeypatch):
    stays_on_the_device(ENTRIES[name], monkeypatch)


def test_no_sampler_is_left_out():
    assert {type(entry.sampler).__name__ for entry in ENTRIES.values()} == concrete(posterior.samplers, Sampler)


@dataclass(frozen=True)
class Langevin(Sampler):
    """Plain Langevin dynamics from noise, with a place where a fault can be planted."""

    step_size: float = 1e-3
    num_steps: int = 3
    fault: Callable[..., Tensor] = lambda x, *arguments: x

    def __post_init__(self) -> None:
        real("Langevin", "step_size", self.step_size, above=0)
        whole("Langevin", "num_steps", self.num_steps, 1, 1000)

    def __call__(self, prior, measurement, rng, observe=unobserved):
        x = rng.randn("start", measurement.image_shape)
        for step in range(1, self.num_steps + 1):
            drift = prior.score(x, 0.1) + measurement.log_likelihood_grad(x)
            x = x + self.step_size * drift + (2 * self.step_size) ** 0.5 * rng.randn_like("langevin", x)
            observe("Langevin", step, self.num_steps, x)
        return self.fault(x, prior, measurement, rng, observe)


class Unchecked(Langevin):
    def __post_init__(self) -> None:
        """Takes everything."""


class Unclear(Langevin):
    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except UserError:
            raise UserError("something is out of range") from None


def changed(tensor: Tensor, x: Tensor) -> Tensor:
    tensor.mul_(1.001)
    return x


def drawn(draw: Callable[[], object], x: Tensor) -> Tensor:
    draw()
    return x


def forked(x: Tensor) -> Tensor:
    with torch.random.fork_rng():
        return x + torch.randn_like(x)


FAULTS = {
    # what is done to the samples, given (x, prior, measurement, rng, observe) -> the check that finds it
    "a norm over the batch": (lambda x, *_: x / x.norm(), "row_alone"),
    "the place in the batch": (lambda x, *_: x + torch.arange(len(x)).view(-1, 1, 1, 1), "row_alone"),
    "y is changed": (lambda x, prior, measurement, *_: changed(measurement.y, x), "arguments"),
    "the prior is changed": (lambda x, prior, *_: changed(prior.mean, x), "arguments"),
    "the mask is changed": (lambda x, prior, measurement, *_: changed(measurement.operator.mask, x), "arguments"),
    "torch's global numbers": (lambda x, *_: drawn(lambda: torch.rand(1), x), "arguments"),
    "numpy's global numbers": (lambda x, *_: drawn(np.random.rand, x), "arguments"),
    "Python's global numbers": (lambda x, *_: drawn(random.random, x), "arguments"),
    "global numbers, put back": (lambda x, *_: forked(x), "arguments"),
    "the state is changed where nobody looks": (
        lambda x, prior, measurement, rng, observe: x + 0.01 * (observe is unobserved),
        "arguments",
    ),
    "the number of samples": (lambda x, prior, measurement, rng, observe: x + 0.01 * len(rng), "more_samples"),
    "the same sample again": (lambda x, *_: x[:3].repeat(len(x) // 3, 1, 1, 1), "more_samples"),
    "a NaN that spreads": (lambda x, prior, measurement, *_: x + 0 * measurement.y.sum(), "nan_stays"),
    "a NaN that is hidden": (lambda x, *_: x.nan_to_num(), "nan_stays"),
    "an overflow that is hidden": (lambda x, *_: x.nan_to_num(), "overflow"),
    "float64": (lambda x, *_: x.double(), "result_has"),
    "one row too few": (lambda x, *_: x[1:], "result_has"),
    "a graph": (lambda x, *_: x.requires_grad_(), "result_has"),
    "a question that is not counted": (lambda x, prior, *_: x + 0 * prior._score(x, 0.1), "cost_is"),
    "a level that is asked in the end": (lambda x, prior, *_: x + 0 * prior.score(x, 0.05), "levels_outside"),
    "a question that is not stated": (lambda x, prior, *_: x + 0 * prior.score(x, 0.1), "cost_is"),
    "a step too many": (lambda x, *rest: drawn(lambda: rest[-1]("Langevin", 4, 3, x), x), "progress_is"),
    "a step that is missing": (lambda x, *rest: drawn(lambda: rest[-1]("end", 1, 2, x), x), "progress_is"),
    "a state of one row": (lambda x, *rest: drawn(lambda: rest[-1]("end", 1, 1, x[:1]), x), "progress_is"),
    "steps that begin with 0": (lambda x, *rest: drawn(lambda: rest[-1]("end", 0, 1, x), x), "progress_is"),
}


def found_by(check: Callable[[Entry], None], sampler: Sampler) -> bool:
    try:
        check(Entry(sampler, field, 3))
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    fault, beginning = FAULTS[name]
    (check,) = (check for check in SAMPLER_CHECKS if check.__name__.startswith(beginning))
    assert found_by(check, Langevin(fault=fault))


def test_every_check_finds_something_and_nothing_in_an_honest_sampler(monkeypatch):
    beginnings = {beginning for _, beginning in FAULTS.values()} | {"bad_settings"}
    for check in SAMPLER_CHECKS:
        assert any(check.__name__.startswith(beginning) for beginning in beginnings), check.__name__
        assert not found_by(check, Langevin()), check.__name__
    stays_on_the_device(Entry(Langevin(), field, 3), monkeypatch)


@pytest.mark.parametrize("sampler", [Unchecked(), Unclear()], ids=lambda sampler: type(sampler).__name__)
def test_settings_that_are_taken_or_refused_without_a_name_are_found(sampler):
    assert found_by(bad_settings_are_refused, sampler)


@pytest.mark.parametrize("fault", [lambda x, *_: x.cpu(), lambda x, *_: x / float(x.abs().max())])
def test_leaving_the_device_and_waiting_for_it_are_found(fault, monkeypatch):
    with pytest.raises((HiddenWait, DataDependentOutputException)):
        stays_on_the_device(Entry(Langevin(fault=fault), field, 3), monkeypatch)
