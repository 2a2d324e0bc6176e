"""Images in [0, 1] taken for those in [-1, 1]: told where it is sure, and never of a right measurement."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import posterior
from posterior import value_range
from posterior.measurement import Measurement
from posterior.noise import GaussianNoise, Likelihood
from posterior.operators import CartesianMRI, Denoising, GaussianBlur, OperatorFamily, PhaseRetrieval, SuperResolution
from posterior.operators.function import operator_of
from posterior.priors import GaussianFieldPrior, Prior
from posterior.random import Streams
from posterior.samplers import ConditionalDescent, GeometricSigmas
from posterior.sampling import UNIT_RANGE
from posterior.settings import conformed, read_settings
from posterior.settings.building import built
from posterior.shipped import CONFIGS
from posterior.value_range import of_unit_range
from tests.latents import IMAGE_SHAPE, LATENT_SHAPE, gaussian, gaussian_latents

TASKS = ("toon_deblurring", "toon_inpainting", "toon_super_resolution")


@pytest.fixture(scope="module")
def prior() -> Prior:
    kinds = {"prior": Prior}
    settings = {"prior": read_settings(CONFIGS / "prior" / "mixture_toon32.yaml")}
    found: Prior = built(conformed(settings, kinds), kinds, "prior")[0]
    return found


@pytest.fixture(scope="module")
def faces() -> Tensor:
    """64 that the prior was not fitted to."""
    with np.load(CONFIGS / "data" / "toon_faces32.npz") as file:
        return torch.from_numpy(file["images"][:64]).float() / 127.5 - 1


def task(name: str, images: Tensor, halved: bool = False) -> Measurement:
    """What a shipped task measures of images, or of (images + 1) / 2 with half of the noise."""
    kinds = {"operator": OperatorFamily, "likelihood": Likelihood}
    family, likelihood = built(conformed(read_settings(CONFIGS / "task" / f"{name}.yaml"), kinds), kinds, name)
    ids = [str(number) for number in range(len(images))]
    operator = family.realise((3, 32, 32), [torch.Generator().manual_seed(number) for number in range(len(images))])
    noise = Streams(0, ids, samples=[-1]).randn("noise", operator.measurement_shape)
    share = 0.5 if halved else 1.0
    level = GaussianNoise(share * likelihood.sigma_y)
    return Measurement.simulate((images + 1) / 2 if halved else images, operator, level, noise)


def told(prior: Prior, measurement: Measurement) -> bool:
    return of_unit_range(prior, measurement, seed=0, batch_size=32)


def drawn(prior: Prior, measurement: Measurement, brightness: value_range.Brightness, batch_size: int) -> Tensor:
    """Dark shares and spreads of all draws, (2, `value_range.DRAWS`)."""
    found = value_range.of_draws(prior, measurement, brightness, 0, batch_size)
    return torch.cat([torch.stack(part) for part in found], dim=1)


def parts(count: int) -> list[Tensor]:
    return list(torch.arange(64).split(count))


@pytest.mark.parametrize("name", TASKS)
def test_no_right_measurement_of_a_face_is_taken_for_a_wrong_one(name, prior, faces):
    right = task(name, faces)
    for rows in [*parts(1), *parts(4), *parts(64)]:
        assert not told(prior, right.rows(rows))


@pytest.mark.parametrize("name", TASKS)
def test_wrong_ones_are_found_four_together_always_and_alone_often(name, prior, faces):
    wrong = task(name, faces, halved=True)
    assert all(told(prior, wrong.rows(rows)) for rows in parts(4)[:2])
    assert any(told(prior, wrong.rows(rows)) for rows in parts(1)[:6])


def test_what_is_said_is_one_line_and_changes_no_sample(prior, faces, monkeypatch):
    """By a function of one's own, which is asked in [-1, 1]."""
    sampler = ConditionalDescent(GeometricSigmas(2, 2.0, 0.7), GeometricSigmas(3, 1.0, 0.1), calls=100, cycles=0)

    def drawn(y: Tensor, forward=lambda x: F.avg_pool2d(x, 2), sigma_y=0.05) -> Tensor:
        return posterior.sample(y, forward=forward, sigma_y=sigma_y, prior=prior, sampler=sampler).samples

    clean = F.avg_pool2d(faces[:4], 2)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    wrong = (clean + 1) / 2 + 0.05 * noise
    with pytest.warns(UserWarning, match=r"sample: y looks like .* in \[0, 1\].*2 \* y - forward\(1\) and 2 \* s"):
        found = drawn(wrong)
    assert "\n" not in UNIT_RANGE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(2 * wrong - 1, sigma_y=0.1)  # both remedies of the line
        drawn(wrong, forward=lambda x: F.avg_pool2d((x + 1) / 2, 2))
        monkeypatch.setattr("posterior.sampling.of_unit_range", lambda *asked: False)
        assert torch.equal(drawn(wrong), found)


def test_the_prior_is_not_asked_where_brightness_tells_nothing(prior, faces):
    grey = faces[(faces < -0.5).flatten(1).sum(dim=1).argmax()][None]
    noise = GaussianNoise(0.05)
    field = GaussianFieldPrior([0.8] * 3, torch.eye(3).tolist(), [2e-2] * 3, [2.0] * 3, [0.1] * 3, 0.2)
    bright = (grey + 1) / 2
    signed = torch.randn(500, 3072, generator=torch.Generator().manual_seed(0)) / 55
    random, _ = operator_of(lambda x: x.flatten(1) @ signed.T, (3, 32, 32), torch.zeros(1, 500))
    of_pixels = [Denoising().realise((3, 32, 32)), GaussianBlur(5, 1.0).realise((3, 32, 32))]
    others = [PhaseRetrieval().realise((3, 32, 32)), random, SuperResolution(16).realise((3, 32, 32))]
    mri = CartesianMRI(4.0, 0.08).realise((2, 32, 32), [torch.Generator()])
    before = prior.cost.forward
    assert not any(told(prior, Measurement(one.forward(grey), one, noise)) for one in of_pixels)  # a right one: dark
    assert not any(told(prior, Measurement(one.forward(bright), one, noise)) for one in others)
    assert not told(prior, Measurement(mri.forward(bright[:, :2]), mri, noise))
    above = Measurement(bright * 255, of_pixels[0], noise)  # another mistake, which has another name
    assert not told(prior, above)
    assert prior.cost.forward == before
    assert not told(field, Measurement(bright, of_pixels[0], noise))  # its own images are bright
    assert field.cost.forward == 32 * value_range.LEVELS  # the first 32 draws tell


def test_what_the_question_costs_is_said_where_it_is_asked(prior, faces, capsys):
    right, wrong = (task(TASKS[0], faces[:4], halved) for halved in (False, True))
    assert not told(prior, right)
    assert capsys.readouterr().err == ""
    before = prior.cost.forward
    assert told(prior, wrong)
    spent = prior.cost.forward - before
    assert spent == value_range.DRAWS * value_range.LEVELS
    line = capsys.readouterr().err
    assert f"at most {spent} calls" in line
    assert line.count("\n") == 1


def test_draws_and_what_is_said_do_not_depend_on_the_batch(prior, faces):
    wrong = task("toon_inpainting", faces[:3], halved=True)
    white = wrong.operator.forward(torch.ones_like(faces[:3]))
    brightness = value_range.Brightness(white, wrong.likelihood.sigma_y)
    found = [drawn(prior, wrong, brightness, size) for size in (64, 7)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-3)  # a number more or less is dark
    assert found[0].shape == (2, value_range.DRAWS)


def test_draws_of_a_prior_of_latents_are_those_of_its_images():
    """Their brightness has the deviation of W z + b, z normal: the spread of 64 draws, to 4 standard errors."""
    prior, operator = gaussian_latents(), Denoising().realise(IMAGE_SHAPE)
    asked = Measurement(torch.zeros(1, *IMAGE_SHAPE), operator, GaussianNoise(0.01))
    brightness = value_range.Brightness(torch.ones(1, *IMAGE_SHAPE), 0.01)
    _, spread = drawn(prior, asked, brightness, 64)
    mean, covariance = gaussian()
    normal = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    z = mean + normal @ torch.linalg.cholesky(covariance).T
    expected = prior.decoder(z.view(-1, *LATENT_SHAPE)).flatten(1).std(dim=1, correction=0)
    assert abs(spread.mean() - expected.mean()) < 4 * expected.std() / value_range.DRAWS**0.5
