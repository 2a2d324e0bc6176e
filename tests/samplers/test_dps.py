import json
import math

import numpy as np
import pytest
import torch

from benchmarks.tools.recipe import fill_by_recipe
from posterior import Measurement, Streams, UserError, stream
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import GaussianBlur, Inpainting, MotionBlur, PhaseRetrieval, RandomInpainting, SuperResolution
from posterior.priors import DiffusionPrior, LinearBetas, UNet
from posterior.samplers import DDIM, DPS, MCG, Ancestral, DPSPlus, Projection, RespacedSigmas, ReverseDiffusion
from tests.peers import Levels, cases, golden, spied
from tests.samplers.test_lgd import EulerMaruyama


class JointNorm(DPS):
    """InverseBench, and the authors: the norm of all rows' residuals at once, here in equal parts."""

    def misfit(self, measurement, denoised, rng, sigma):
        distances = super().misfit(measurement, denoised, rng, sigma)
        return torch.linalg.vector_norm(distances).expand_as(distances) / len(distances)


class ProbabilityFlow(EulerMaruyama):
    """InverseBench's step without noise, half as long."""

    def moments(self, x, denoised, fraction, sigma, sigma_next):
        whole, _ = super().moments(x, denoised, fraction, sigma, sigma_next)
        still, _ = super().moments(x, x, fraction, sigma, sigma_next)
        return (whole + still) / 2, 0.0


class Given:
    """Random streams that give these numbers, whatever they are for."""

    def __init__(self, noise):
        self.noise = noise

    def randn_like(self, purpose, x):
        return self.noise.expand_as(x)


@pytest.fixture(scope="module")
def prior():
    network = UNet(
        image_size=32, num_channels=32, channel_mult=(1, 2, 2), attention_resolutions=(16, 8), num_head_channels=16
    )
    fill_by_recipe(network)
    return DiffusionPrior(network)


@pytest.fixture(scope="module")
def arrays(golden_folder):
    return {
        k: torch.from_numpy(v) if v.dtype.kind == "f" else v
        for k, v in np.load(golden_folder / "sampler_steps.npz").items()
    }


def operators(arrays):
    shape = (3, 32, 32)
    return {
        "gaussian": GaussianBlur(9, 1.5).realise(shape),
        "inpaint": Inpainting(arrays["B_mask"].float(), shape),
        "sr4": SuperResolution(4).realise(shape),
        "phase": PhaseRetrieval(2.0).realise(shape),
    }


def test_advances_match_the_reference(prior, arrays, relative):
    schedule = LinearBetas()
    cases = json.loads(str(arrays["B_cases_json"]))
    assert len(cases) == 9
    for case in cases:
        key, index = case["key"], case["index"]
        abar = schedule.alphas_cumprod[index]
        abar_next = schedule.alphas_cumprod[index - 1] if index else 1.0
        sigma, sigma_next = float(schedule.sigmas[index]), float(schedule.sigmas[index - 1]) if index else 0.0
        x = arrays[f"{key}_x_prev"] / abar**0.5
        law = GaussianNoise(0.05) if case["distance"] == "frobenius" else PoissonNoise(1.0)
        measurement = Measurement(arrays[f"{key}_y"], operators(arrays)[case["operator"]], law)
        step = DDIM(0.0) if case["sampler"] == "ddim" else Ancestral()
        dps = DPS(step=step, scale=case["scale"], clip_denoised=case["clip"])
        denoised = prior.denoise(x, sigma)
        denoised = denoised.clamp(-1, 1) if case["clip"] else denoised
        assert relative(denoised, arrays[f"{key}_x0_hat"]) < 1e-4, key
        assert relative(measurement.distance(denoised), arrays[f"{key}_norm"].view(1)) < 1e-4, key
        x_next = dps.advance(prior, measurement, x, sigma, sigma_next, Given(arrays["B_noise"]))
        assert relative(x_next * abar_next**0.5, arrays[f"{key}_x_next"]) < 1e-4, key


def test_an_images_gradient_in_a_batch_is_its_gradient_alone(prior, arrays, relative):
    """The reference divides by the batch's joint norm (C_batch_grad); ours undoes that, image by image."""
    schedule = LinearBetas()
    sigma, sigma_next = (float(s) for s in schedule.sigmas[[100, 99]])
    x = arrays["C_x_prev"] / schedule.alphas_cumprod[100] ** 0.5
    measurement = Measurement(arrays["C_y"], operators(arrays)["gaussian"], GaussianNoise(0.05))
    dps, noise = DPS(scale=0.3), torch.zeros(())
    both = dps.advance(prior, measurement, x, sigma, sigma_next, Given(noise))
    unguided = DPS(scale=1e-12).advance(prior, measurement, x, sigma, sigma_next, Given(noise))
    gradient = (unguided - both) * schedule.alphas_cumprod[99] ** 0.5 / 0.3
    norms = measurement.distance(prior.denoise(x, sigma).clamp(-1, 1))
    assert float(norms.square().sum().sqrt()) == pytest.approx(float(arrays["C_batch_norm"]), rel=1e-4)
    expected = arrays["C_batch_grad"] * arrays["C_batch_norm"] / norms.view(-1, 1, 1, 1)
    assert relative(gradient, expected) < 1e-3  # a difference of two steps loses a digit
    for row in (0, 1):
        index = torch.tensor([row])
        alone = dps.advance(prior, measurement.rows(index), x[index], sigma, sigma_next, Given(noise))
        assert relative(both[index], alone) < 1e-5


@pytest.mark.parametrize("case", cases("dps", "dps_ode"), ids="-".join)
def test_a_run_of_inversebench(case, monkeypatch):
    run = golden(*case)
    start, *fresh = run.arrays["noise"]
    levels, scaling = run.arrays["sigma"].tolist(), run.arrays["scaling"].view(-1, 1, 1, 1, 1)
    first = run.arrays["sigma_max"] / scaling[0] * start / (1 + levels[0] ** 2) ** 0.5  # it starts at sigma n
    step = (EulerMaruyama if run.setting("sde") else ProbabilityFlow)(run)
    sampler = JointNorm(Levels(levels), step, run.setting("guidance_scale"), clip_denoised=False)
    misfits, gradients = spied(monkeypatch, JointNorm, "misfit"), []
    of_misfit = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *given: (gradients.append(of_misfit(*given)), gradients[-1])[1])
    *states, final = run.states_of(sampler, {"initial": [first], "dps": fresh}, len(start))
    run.agrees(torch.stack([denoised.detach() for (_, denoised, *_), _ in misfits]), "denoised")
    run.agrees(torch.stack([misfit.detach().sum() ** 2 for _, misfit in misfits]), "loss")
    run.agrees(torch.stack([grad for (grad,) in gradients]) / scaling[:-1], "ll_grad")
    run.agrees(scaling[1:] * torch.stack(states), "state")
    run.agrees(scaling[-1] * final, "final")


def test_a_step_is_the_published_one_in_variance_preserving_units(prior, relative):
    """z' = coef1 x0 + coef2 z + std n - scale grad_z ||y - A x0||, by its own formulas, with the learned variance."""
    schedule, t = LinearBetas(), 200
    abar, abar_next = (float(a) for a in schedule.alphas_cumprod[[t, t - 1]])
    beta, generator = 1 - abar / abar_next, torch.Generator().manual_seed(0)
    z, noise = (torch.randn(2, 3, 32, 32, generator=generator) for _ in range(2))
    operator = SuperResolution(4).realise((3, 32, 32))
    measurement = Measurement(torch.randn(2, 3, 8, 8, generator=generator), operator, GaussianNoise(0.05))

    z.requires_grad_()
    epsilon, v = prior.network(z, torch.full((2,), float(t))).chunk(2, dim=1)
    x0 = ((z - (1 - abar) ** 0.5 * epsilon) / abar**0.5).clamp(-1, 1)
    (grad,) = torch.autograd.grad(measurement.distance(x0).sum(), z)
    fraction, small = (v + 1) / 2, beta * (1 - abar_next) / (1 - abar)
    std = torch.exp((fraction * math.log(beta) + (1 - fraction) * math.log(small)) / 2)
    mean = beta * abar_next**0.5 / (1 - abar) * x0 + (1 - abar_next) * (1 - beta) ** 0.5 / (1 - abar) * z
    expected = mean + std * noise - 0.3 * grad

    sigma, sigma_next = (float(s) for s in schedule.sigmas[[t, t - 1]])
    step = DPS(scale=0.3).advance(prior, measurement, z.detach() / abar**0.5, sigma, sigma_next, Given(noise))
    assert relative(step * abar_next**0.5, expected.detach()) < 1e-5


def test_a_whole_run_does_not_see_its_batch(prior):
    """Stated tolerance of DPS across batch sizes: 1e-3 absolute over 20 steps of a network (measured: below 1e-4)."""
    operator = SuperResolution(4).realise((3, 32, 32))
    y = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    measurement = Measurement(y, operator, GaussianNoise(0.05))
    dps = DPS(RespacedSigmas(20))
    together = dps(prior, measurement, Streams(0, ["a", "b", "c"]))
    alone = dps(prior, measurement.rows(torch.tensor([1])), Streams(0, ["b"]))
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-3)


def test_it_pulls_towards_the_measurement(field):
    shape = (3, 16, 16)
    truth = field.sample_from(torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)))
    operator = SuperResolution(4).realise(shape)
    measurement = Measurement.simulate(
        truth, operator, GaussianNoise(0.05), torch.zeros(4, *operator.measurement_shape)
    )
    ids = list("abcd")
    guided = DPS(RespacedSigmas(250), scale=0.5, clip_denoised=False)(field, measurement, Streams(0, ids))
    unguided = DPS(RespacedSigmas(250), scale=1e-9, clip_denoised=False)(field, measurement, Streams(0, ids))
    assert (measurement.distance(guided) < 0.3 * measurement.distance(unguided)).all()


def test_the_scale_must_be_positive():
    with pytest.raises(UserError, match="scale must be > 0"):
        DPS(scale=0.0)


def measured(truth, family, sigma_y=0.05):
    operator = family.realise(truth.shape[1:], [stream(0, str(row), -1, "operator") for row in range(len(truth))])
    noise = torch.randn(len(truth), *operator.measurement_shape, generator=torch.Generator().manual_seed(1))
    return Measurement.simulate(truth, operator, GaussianNoise(sigma_y), noise)


@pytest.mark.parametrize("family", [RandomInpainting(), SuperResolution(4, "average")])
@pytest.mark.parametrize("sampler", [MCG, Projection])
def test_projections_meet_the_measurement_to_the_letter(field, family, sampler):
    """Where A A^T is a multiple of the identity; the published inpainting step would not."""
    truth = field.sample_from(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    measurement = measured(truth, family)
    x = sampler(schedule=RespacedSigmas(50), clip_denoised=False)(field, measurement, Streams(0, ["a", "b"]))
    assert measurement.distance(x).max() < 1e-4
    unguided = ReverseDiffusion(RespacedSigmas(50))(field, measurement, Streams(0, ["a", "b"]))
    assert (measurement.distance(unguided) > 1).all()
    # the hole is filled from its surroundings: nearer to the truth than a sample that never saw them
    assert ((x - truth).flatten(1).norm(dim=1) < (unguided - truth).flatten(1).norm(dim=1)).all()


def test_the_projected_state_has_the_noise_of_its_level():
    from posterior.samplers.dps import project

    truth = torch.zeros(1, 3, 64, 64)
    measurement = measured(truth, RandomInpainting(0.5, 0.5), sigma_y=1e-6)
    x = project(torch.full_like(truth, 9.0), measurement, 2.0, torch.ones(()), Streams(0, ["a"]))
    seen = x[measurement.operator.mask.expand_as(x) == 1]
    assert float(seen.std()) == pytest.approx(2.0, rel=0.05)
    assert (x[measurement.operator.mask.expand_as(x) == 0] == 9).all()


def test_projections_need_a_linear_operator_and_say_so_before_any_evaluation(field):
    operator = PhaseRetrieval().realise((3, 16, 16))
    measurement = Measurement(torch.zeros(1, *operator.measurement_shape), operator, GaussianNoise(0.05))
    for sampler in (MCG(), Projection()):
        with pytest.raises(UserError, match=f"{type(sampler).__name__} needs a linear operator, got FourierAmplitude"):
            sampler(field, measurement, Streams(0, ["a"]))
    assert field.cost.forward == 0


def test_ps_plus_averages_over_noisy_copies(field):
    truth = field.sample_from(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    measurement = measured(truth, SuperResolution(4))
    rng = Streams(0, ["a", "b"])
    copies = [truth + 0.05 * rng.rand_like("copies", truth) for _ in range(5)]
    expected = sum(measurement.residual_norm(copy) for copy in copies) / 5
    misfit = DPSPlus().misfit(measurement, truth, Streams(0, ["a", "b"]), 1.0)
    torch.testing.assert_close(misfit, expected)
    alone = DPSPlus().misfit(measurement.rows(torch.tensor([1])), truth[1:], Streams(0, ["b"]), 1.0)
    torch.testing.assert_close(alone, misfit[1:])
    without = DPSPlus(RespacedSigmas(20), spread=0.0)(field, measurement, Streams(0, ["a", "b"]))
    plain = DPS(RespacedSigmas(20))(field, measurement, Streams(0, ["a", "b"]))
    torch.testing.assert_close(without, plain, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="copies must be >= 1"):
        DPSPlus(copies=0)


@pytest.mark.parametrize("sampler", [MCG, Projection, DPSPlus])
def test_the_other_methods_do_not_see_their_batch(field, sampler):
    """With a kernel, and so a norm ||A||, of each image's own."""
    truth = field.sample_from(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    measurement = measured(truth, MotionBlur(9))
    together = sampler(schedule=RespacedSigmas(20))(field, measurement, Streams(0, list("abcd")))
    alone = sampler(schedule=RespacedSigmas(20))(field, measurement.rows(torch.tensor([2])), Streams(0, ["c"]))
    torch.testing.assert_close(together[2], alone[0], rtol=0, atol=1e-3)


def test_ps_plus_takes_the_plain_norm_under_photon_noise(field):
    measurement = Measurement(torch.full((1, 3, 4, 4), 0.1), SuperResolution(4).realise((3, 16, 16)), PoissonNoise(1.0))
    misfit = DPSPlus(spread=0.0).misfit(measurement, torch.zeros(1, 3, 16, 16), Streams(0, ["a"]), 1.0)
    assert float(misfit) == pytest.approx(0.1 * 48**0.5, rel=1e-5)
