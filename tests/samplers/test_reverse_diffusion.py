import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution
from posterior.priors import DiffusionPrior, GaussianMixturePrior, LinearBetas, respaced_timesteps
from posterior.samplers import (
    DDIM,
    Ancestral,
    GeometricSigmas,
    RespacedSigmas,
    ReverseDiffusion,
    ReverseStep,
    SecondOrderAncestral,
)

WIDTHS = torch.tensor([0.05, 0.1, 0.2])


class FixedOutput(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z, t):
        return self.output


def test_single_steps_match_the_reference(golden_folder, relative):
    arrays = {k: torch.from_numpy(v) if v.ndim else v for k, v in np.load(golden_folder / "sampler_steps.npz").items()}
    schedule = LinearBetas()
    prior = DiffusionPrior(FixedOutput(arrays["A_model_output"]), schedule)
    noise = arrays["A_noise"]
    cases = json.loads(str(arrays["A_cases_json"]))
    assert len(cases) == 26
    for case in cases:
        timesteps, index, key = respaced_timesteps(1000, case["respacing"]), case["index"], case["key"]
        t, previous = timesteps[index], timesteps[index - 1] if index else None
        abar, abar_next = schedule.alphas_cumprod[t], 1.0 if previous is None else schedule.alphas_cumprod[previous]
        sigma, sigma_next = float(schedule.sigmas[t]), 0.0 if previous is None else float(schedule.sigmas[previous])
        x = arrays[key.removesuffix("_noclip").removesuffix("_clip") + "_x_t"] / abar**0.5
        denoised, fraction = prior.predict(x, sigma)
        if case["clip"]:
            denoised = denoised.clamp(-1, 1)
        scale = abar_next**0.5  # back to variance-preserving units
        step = Ancestral()
        assert relative(denoised, arrays[f"{key}_pred_x0"]) < 1e-4, key
        mean, std = step.moments(x, denoised, fraction, sigma, sigma_next)
        assert relative(mean * scale, arrays[f"{key}_mean"]) < 1e-4, key
        if sigma_next:
            log_variance = (std**2 * abar_next).log()
            assert relative(log_variance, arrays[f"{key}_log_variance"]) < 1e-4, key
        for name, kind in [("ddpm", step), ("ddim_eta0", DDIM(0.0)), ("ddim_eta1", DDIM(1.0))]:
            ours = kind(x, denoised, fraction, sigma, sigma_next, lambda: noise) * scale
            assert relative(ours, arrays[f"{key}_{name}"]) < 1e-4, (key, name)


def test_fixed_variances_match_the_reference(golden_folder):
    arrays = np.load(golden_folder / "sampler_steps.npz")
    schedule = LinearBetas()
    sigma, sigma_next = float(schedule.sigmas[250]), float(schedule.sigmas[249])
    for kind in ("small", "large"):
        _, std = Ancestral(kind).moments(torch.zeros(1), torch.zeros(1), None, sigma, sigma_next)
        variance = std**2 * schedule.alphas_cumprod[249]
        expected = arrays[f"A_full_250_clip_fixed_{kind}_log_variance"]
        np.testing.assert_allclose(np.log(variance), expected, rtol=1e-4)


def empty_measurement(rows, shape):
    operator = SuperResolution(2).realise(shape)
    return Measurement(torch.zeros(rows, *operator.measurement_shape), operator, GaussianNoise(1.0))


def final_variance(step, sigmas, variance):
    """Variance of a coordinate N(0, variance) after a chain with the exact denoiser: every step is linear."""
    one, state = torch.ones(()), 1 + sigmas[0] ** 2
    for sigma, sigma_next in pairwise(sigmas):
        gain = variance / (variance + sigma**2)
        kept, fresh = step.moments(one, gain * one, None, sigma, sigma_next)
        state = kept**2 * state + fresh**2
    return state


STEPS = [Ancestral("small"), Ancestral("large"), DDIM(0.0), DDIM(1.0)]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_many_steps_lose_little_variance(step):
    for variance in (0.04, 1.0, 3.0):
        assert abs(float(final_variance(step, RespacedSigmas(1000).sigmas(), variance)) / variance - 1) < 0.05


def test_few_steps_of_second_order_have_the_width_of_many(pooled):
    """N(0, c^2) from its own law at level 1, 20 levels down to 0.003: 20,000 chains, a standard error of 0.5 %."""
    prior, rows = (
        GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, 1, 1, 3), torch.diag(WIDTHS.square())[None]),
        20_000,
    )
    sigmas = GeometricSigmas(20, 1.0, 0.003).sigmas()

    def widths(step: ReverseStep) -> torch.Tensor:
        rng = pooled(rows)
        x = prior.sample(rows, torch.Generator().manual_seed(0)) + rng.randn("start", (1, 1, 3))
        return ReverseDiffusion(step=step).descend(prior, x, sigmas, rng).std(dim=0)[0, 0] / WIDTHS

    torch.testing.assert_close(
        widths(SecondOrderAncestral()), torch.tensor([0.9987, 1.0004, 1.0008]), rtol=0, atol=0.013
    )
    assert float(widths(Ancestral()).max()) < 0.9


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_unconditional_samples_have_the_variance_of_their_chain(field, step):
    shape, rows, schedule = (3, 8, 8), 600, RespacedSigmas(100)
    samples = ReverseDiffusion(schedule, step)(
        field, empty_measurement(rows, shape), Streams(0, [str(i) for i in range(rows)])
    )
    spectrum = torch.fft.rfft2(
        torch.einsum("kc,bchw->bkhw", field.components, field.centre(samples)), norm="ortho"
    ).abs()
    ratio = spectrum.square().mean(dim=0) / final_variance(step, schedule.sigmas(), field.spectrum(shape))
    assert abs(float(ratio.mean()) - 1) < 0.02  # 600 * 3 * 64 numbers: a standard error of 0.4 %
    assert (samples.mean(dim=(0, 2, 3)) - field.mean).abs().max() < 0.06


def test_from_a_level_it_samples_the_denoising_posterior(field):
    """p(x | x0 + sigma n = anchor) of a Gaussian field is Gaussian with known mean and spectrum."""
    shape, rows, sigma = (3, 8, 8), 600, 0.5
    anchor = field.sample_from(torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))).expand(
        rows, -1, -1, -1
    )
    reverse = ReverseDiffusion(RespacedSigmas(1000))
    samples = reverse.from_level(field, empty_measurement(rows, shape), anchor, sigma, Streams(0, ["a"], rows))
    mean = field.denoise(anchor[:1], sigma)
    assert float((samples.mean(dim=0) - mean[0]).square().mean().sqrt()) < 0.03
    posterior = 1 / (1 / field.spectrum(shape) + 1 / sigma**2)
    turned = torch.einsum("kc,bchw->bkhw", field.components, samples - mean)
    ratio = torch.fft.rfft2(turned, norm="ortho").abs().square().mean(dim=0) / posterior
    assert abs(float(ratio.mean()) - 1) < 0.04


def test_a_row_alone_equals_the_row_in_a_batch(field):
    reverse, shape = ReverseDiffusion(RespacedSigmas(20)), (3, 8, 8)
    together = reverse(field, empty_measurement(3, shape), Streams(0, ["a", "b", "c"]))
    alone = reverse(field, empty_measurement(1, shape), Streams(0, ["b"]))
    torch.testing.assert_close(together[1], alone[0], rtol=1e-5, atol=1e-5)


def test_clipping_keeps_the_denoised_image_in_range(field):
    shape = (3, 8, 8)
    reverse = ReverseDiffusion(RespacedSigmas(20), clip_denoised=True)
    assert reverse(field, empty_measurement(4, shape), Streams(0, list("abcd"))).abs().max() <= 1


def test_the_learned_fraction_interpolates_the_log_of_the_variance():
    zero = torch.zeros(3)
    small, large = (Ancestral(kind).moments(zero, zero, None, 0.5, 0.3)[1] for kind in ("small", "large"))
    fractions = torch.tensor([0.0, 0.5, 1.0])
    _, std = Ancestral().moments(zero, zero, fractions, 0.5, 0.3)
    torch.testing.assert_close(std, torch.tensor([small, (small * large) ** 0.5, large]))


def test_a_step_without_noise_draws_nothing(field):
    rng = Streams(0, ["a"])
    reverse, shape = ReverseDiffusion(RespacedSigmas(10), DDIM(0.0)), (3, 8, 8)
    x = reverse.from_level(field, empty_measurement(1, shape), torch.zeros(1, *shape), 1.0, rng)
    fresh = Streams(0, ["a"])
    assert torch.equal(rng.randn("reverse", (4,)), fresh.randn("reverse", (4,)))
    assert torch.isfinite(x).all()


def test_ddim_eta_has_its_range():
    with pytest.raises(UserError, match="ddim_eta"):
        DDIM(1.5)
