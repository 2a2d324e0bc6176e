import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from benchmarks.tools.recipe import fill_by_recipe
from posterior import Measurement, UserError
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import Dense
from posterior.priors import CosineBetas, DiffusionPrior, LinearBetas, UNet
from posterior.samplers import AnnealedLangevin, PublishedAnnealing, RespacedSigmas, ReverseDiffusion


def small_unet(**changes):
    settings = {"image_size": 16, "num_channels": 32, "channel_mult": (1, 1), "attention_resolutions": (8,)}
    network = UNet(**settings | changes)
    fill_by_recipe(network)
    return network


class Linear(nn.Module):
    """Predicts x0 exactly for data N(0, I): the optimal denoiser is z sqrt(abar)."""

    def __init__(self, schedule, prediction):
        super().__init__()
        self.abar, self.prediction = torch.from_numpy(schedule.alphas_cumprod).float(), prediction

    def forward(self, z, t):
        abar = self.abar[t.round().long()].view(-1, 1, 1, 1)
        if self.prediction == "v":  # D = sqrt(abar) z - sqrt(1 - abar) v: nothing is left to predict
            return torch.zeros_like(z)
        return abar.sqrt() * z if self.prediction == "x0" else (1 - abar).sqrt() * z


@pytest.mark.parametrize("schedule", [LinearBetas(), CosineBetas()])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_all_predictions_give_the_optimal_denoiser(schedule, prediction):
    prior = DiffusionPrior(Linear(schedule, prediction), schedule, prediction)
    x = torch.randn(2, 3, 4, 4)
    for t in (0, 100, 600):
        sigma = float(schedule.sigmas[t])
        torch.testing.assert_close(prior.denoise(x, sigma), x / (1 + sigma**2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
def test_the_score_is_that_of_the_smoothed_data(prediction):
    """Data N(0, I) has the score -x / (1 + sigma^2), on the grid and (nearly) off it, for floats and tensors."""
    schedule = LinearBetas()
    prior = DiffusionPrior(Linear(schedule, prediction), schedule, prediction)
    x = torch.randn(2, 3, 4, 4)
    for t in (0, 100, 600):
        sigma = float(schedule.sigmas[t])
        # at t = 0 the difference D - x of float32 images is divided by 1e-4
        torch.testing.assert_close(prior.score(x, sigma), -x / (1 + sigma**2), rtol=2e-3, atol=5e-3)
        levels = torch.full((2,), sigma * 1.001)
        torch.testing.assert_close(prior.score(x, levels), -x / (1 + sigma**2), rtol=3e-2, atol=1e-2)


def test_annealed_langevin_samples_the_posterior_of_a_network(pooled):
    """One pixel of data N(0, 1) behind the network interface: mean and variance of p(x | y)."""
    schedule, rows = LinearBetas(), 20_000
    prior = DiffusionPrior(Linear(schedule, "epsilon"), schedule)
    measurement = Measurement(torch.ones(rows, 1, 1, 1), Dense(torch.ones(1, 1), (1, 1, 1)), GaussianNoise(0.5))
    sampler = AnnealedLangevin(
        0.01, schedule=PublishedAnnealing(0.03, 150, 10), reverse=ReverseDiffusion(RespacedSigmas(100))
    )
    samples = sampler(prior, measurement, pooled(rows))
    variance = 0.2  # 1 / (1 + 1 / 0.25), and Euler-Maruyama's 2.5 %
    assert abs(float(samples.mean()) - 0.8) < 5 * (variance / rows) ** 0.5 + 0.01
    assert abs(float(samples.var()) / (variance / (1 - 0.01 * 5 / 2)) - 1) < 5 * (2 / rows) ** 0.5 + 0.02


def test_the_network_sees_the_fractional_time():
    seen = []

    class Spy(nn.Module):
        def forward(self, z, t):
            seen.append(t)
            return z

    prior = DiffusionPrior(Spy(), LinearBetas())
    sigmas = prior.noise_schedule.sigmas
    prior.denoise(torch.zeros(2, 3, 4, 4), torch.tensor([sigmas[7], (sigmas[7] * sigmas[8]) ** 0.5]))
    prior.denoise(torch.zeros(2, 3, 4, 4), float(sigmas[999]))
    torch.testing.assert_close(seen[0], torch.tensor([7.0, 7.5]), rtol=1e-4, atol=1e-4)
    assert seen[1].tolist() == [999.0, 999.0]


def test_levels_outside_the_schedule_are_refused():
    prior = DiffusionPrior(small_unet())
    for sigma in (0.0, 0.009, 200.0):
        with pytest.raises(UserError, match=r"outside \[0\.0100005, 157\.407\]"):
            prior.denoise(torch.zeros(1, 3, 16, 16), sigma)


def test_learned_variance_is_a_fraction_beside_the_denoised_image():
    x = torch.randn(1, 3, 16, 16)
    denoised, fraction = DiffusionPrior(small_unet(learn_sigma=True)).predict(x, 1.0)
    assert denoised.shape == fraction.shape == x.shape
    assert DiffusionPrior(small_unet(learn_sigma=False)).predict(x, 1.0)[1] is None


def test_the_prior_is_frozen_but_passes_gradients_to_its_input():
    prior, x = DiffusionPrior(small_unet()), torch.randn(1, 3, 16, 16, requires_grad=True)
    assert not any(p.requires_grad for p in prior.parameters())
    (grad,) = torch.autograd.grad(prior.denoise(x, 0.5).sum(), x)
    assert grad.abs().max() > 0
    assert prior.cost.backward == 1


@pytest.mark.parametrize("suffix", [".pt", ".legacy.pt", ".safetensors"])
def test_checkpoints_load_strictly(tmp_path, suffix):
    source, path = small_unet(), tmp_path / f"weights{suffix}"
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(source.state_dict(), path)
    if suffix == ".legacy.pt":
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=False)
    loaded = DiffusionPrior(small_unet(), checkpoint=path).network
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))


def test_a_checkpoint_of_another_architecture_lists_its_keys(tmp_path):
    torch.save(small_unet(attention_resolutions=(), learn_sigma=False).state_dict(), tmp_path / "other.pt")
    with pytest.raises(UserError) as error:
        DiffusionPrior(small_unet(), checkpoint=tmp_path / "other.pt")
    text = str(error.value)
    assert "\n" not in text
    for part in [
        "other.pt",
        "missing: ",
        "input_blocks.3.1.norm.weight",
        "of another shape: out.2.weight (3, 32, 3, 3)",
    ]:
        assert part in text
    torch.save(small_unet().state_dict() | {"extra": torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(UserError, match="1 unexpected: extra"):
        DiffusionPrior(small_unet(), checkpoint=tmp_path / "more.pt")


def test_bad_checkpoint_files_are_named(tmp_path):
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "noise.safetensors").write_bytes(b"not a checkpoint")
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "pickle.pt")  # executes code unless weights_only
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    for name in ["missing.pt", "noise.pt", "noise.safetensors", "pickle.pt", "list.pt"]:
        with pytest.raises(UserError, match=name):
            DiffusionPrior(small_unet(), checkpoint=tmp_path / name)


def test_annealed_langevin_samples_the_gaussian_that_stands_for_photon_noise(pooled):
    """One pixel of data N(0, 1), y = 0.2 from 25.5 photons at most: variance 2 (y + 1) / R, as stated."""
    schedule, rows = LinearBetas(), 20_000
    prior = DiffusionPrior(Linear(schedule, "epsilon"), schedule)
    measurement = Measurement(torch.full((rows, 1, 1, 1), 0.2), Dense(torch.ones(1, 1), (1, 1, 1)), PoissonNoise(0.1))
    sampler = AnnealedLangevin(
        2e-3, schedule=PublishedAnnealing(0.02, 60, 40), reverse=ReverseDiffusion(RespacedSigmas(100))
    )
    x = sampler(prior, measurement, pooled(rows))
    variance = 1 / (1 + 25.5 / 2.4)
    assert float(x.mean()) == pytest.approx(variance * 0.2 * 25.5 / 2.4, abs=5 * (variance / rows) ** 0.5 + 2e-3)
    assert float(x.var()) == pytest.approx(variance, rel=0.05)


class Fixed(nn.Module):
    """A network with a given output, which notes its input."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z, t):
        self.z, self.t = z, t
        return self.output


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_a_network_without_training_error_denoises_perfectly(prediction):
    """What training asks of the output is what denoising reads off it."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, 3, 8, 8, generator=generator) for _ in range(2))
    sigma = np.array([0.02, 0.3, 2.0, 50.0])
    network = Fixed(torch.zeros_like(x0))
    prior = DiffusionPrior(network, LinearBetas(), prediction)
    network.output = -prior.training_error(x0, noise, sigma)  # the target
    assert prior.training_error(x0, noise, sigma).abs().max() == 0
    levels = torch.from_numpy(sigma).float()
    trained_z, trained_t = network.z, network.t
    x = x0 + levels.view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(prior.denoise(x, levels), x0, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(network.z, trained_z)
    torch.testing.assert_close(network.t, trained_t, rtol=1e-4, atol=1e-2)


def test_a_learned_variance_is_not_trained():
    prior = DiffusionPrior(small_unet(learn_sigma=True))
    x = torch.zeros(1, 3, 16, 16)
    with pytest.raises(UserError, match="set learn_sigma to false"):
        prior.training_error(x, x, np.array([1.0]))
