"""One call from Python: samples of the posterior, from any differentiable function, each from its own streams."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import posterior
from benchmarks.tools.building import built
from lightning_cli import main
from posterior import PosteriorSamples, UserError
from posterior.operators import (
    Denoising,
    FunctionOperator,
    GaussianBlur,
    LinearFunctionOperator,
    RandomInpainting,
    SuperResolution,
    operator_of,
)
from posterior.priors import GaussianFieldPrior, GaussianMixturePrior, Prior, ScoreNetworkPrior
from posterior.samplers import ConditionalDescent, Sampler
from posterior.sampling import recommended
from posterior.settings import conformed, read_settings
from posterior.shipped import CONFIGS
from tests.latents import IMAGE_SHAPE, gaussian_latents

SHAPE, SIGMA_Y = (3, 8, 8), 0.1


def pool(x: Tensor) -> Tensor:
    """A user's function, not flat as ours are."""
    return F.avg_pool2d(x, 2)


def blind(x: Tensor) -> Tensor:
    """Half of the pixels, the rest 0."""
    return x * (torch.arange(8) % 2)


@pytest.fixture
def truth(field: GaussianFieldPrior) -> Tensor:
    """Three images of the prior."""
    return field.sample_from(torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)))


def noisy(clean: Tensor, sigma: float = SIGMA_Y) -> Tensor:
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))


def drawn(field: Prior, y: Tensor, **settings: object) -> PosteriorSamples:
    settings = {"forward": pool, "sigma_y": SIGMA_Y, "prior": field, "image_shape": SHAPE} | settings
    return posterior.sample(y, **settings)  # type: ignore[arg-type]


def test_samples_have_the_mean_and_variances_of_a_gaussian_posterior():
    """12 numbers, 5 of them measured: 4000 samples, means to 5 standard errors, variances to 10 %.

    By dense matrices in float64: with S the prior's covariance, S A^T (A S A^T + s^2 I)^-1 is the gain.
    """
    generator, shape = torch.Generator().manual_seed(0), (3, 2, 2)
    turn, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))
    covariance = turn * torch.logspace(-2, 0, 12, dtype=torch.float64) @ turn.mT
    centre, matrix = 0.3 * torch.randn(12, generator=generator), torch.randn(5, 12, generator=generator) / 12**0.5
    prior = GaussianMixturePrior.full(torch.ones(1), centre.view(1, *shape), covariance.float()[None])
    y, wide = torch.tensor([[0.5, -0.3, 0.2, 0.1, -0.6]]), matrix.double()
    gain = covariance @ wide.mT @ torch.linalg.inv(wide @ covariance @ wide.mT + SIGMA_Y**2 * torch.eye(5))
    mean = centre.double() + gain @ (y[0].double() - wide @ centre.double())
    variances = (covariance - gain @ wide @ covariance).diagonal()

    def forward(x: Tensor) -> Tensor:
        return x.flatten(1) @ matrix.mT

    def gap(**settings: object) -> tuple[float, float]:
        found = drawn(prior, y, forward=forward, num_samples=4000, image_shape=shape, **settings)
        assert tuple(found.samples.shape) == (1, 4000, *shape)
        means = (found.mean[0].flatten() - mean).abs() / variances.sqrt() * 4000**0.5
        return float(means.max()), float((found.std[0].flatten() ** 2 / variances - 1).abs().max())

    shift, width = gap()
    assert shift < 5
    assert width < 0.1
    assert gap(sigma_y=2 * SIGMA_Y)[1] > 0.2  # what is wrong shows


def test_a_row_alone_is_the_row_in_a_batch(field, truth):
    """Whatever batch_size, num_samples and neighbours are; each sample to 1e-4."""
    y, ids = noisy(pool(truth)), ["a", "b", "c"]
    together = drawn(field, y, num_samples=2, image_ids=ids)
    for rows, settings in (
        ([0, 1, 2], {"num_samples": 2, "batch_size": 1}),
        ([0, 1, 2], {"num_samples": 3, "batch_size": 2}),
        ([2], {}),
        ([1, 0], {"num_samples": 2}),
    ):
        found = drawn(field, y[rows], image_ids=[ids[row] for row in rows], **settings).samples
        expected = together.samples[rows]
        shared = min(found.shape[1], 2)
        torch.testing.assert_close(found[:, :shared], expected[:, :shared], rtol=0, atol=1e-4)
    assert (drawn(field, y[:1], image_ids=["d"]).samples - together.samples[:1, :1]).abs().max() > 0.01
    assert (drawn(field, y[:1], image_ids=["a"], seed=1).samples - together.samples[:1, :1]).abs().max() > 0.01
    assert together.cost.nfe_forward == 121
    assert together.cost.nfe_backward == 0
    assert together.cost.seconds > 0
    assert together.image_ids == ids
    torch.testing.assert_close(together.std, together.samples.std(dim=1))


@pytest.mark.usefixtures("no_lpips_weights")
def test_they_are_those_of_predict(tmp_path, field, truth, monkeypatch):
    """The same y, ids, seed, prior and sampler, all by the names of files; to the last bit."""
    monkeypatch.chdir(tmp_path)
    y = noisy(SuperResolution(2).realise(SHAPE).forward(truth))
    (tmp_path / "y").mkdir()
    for name, one in zip("abc", y, strict=True):
        np.save(tmp_path / "y" / f"{name}.npy", one.numpy())
    spectrum = {"amplitude": [2e-2] * 3, "exponent": [2.0] * 3, "cutoff": [0.1] * 3, "floor": 0.2}
    init = {"mean": [0.2, 0.0, -0.1], "components": torch.eye(3).tolist(), **spectrum}
    settings = {"class_path": "posterior.priors.GaussianFieldPrior", "init_args": init}
    (tmp_path / "field.json").write_text(json.dumps(settings))
    command = ["predict", "--model.prior", "field.json", "--model.sampler", "sampler/conditional"]
    command += ["--model.num_samples", "2", "--data", "RecordedMeasurements", "--data.root", "y", "--data.seed", "5"]
    command += ["--data.operator", "SuperResolution", "--data.operator.scale", "2", "--data.image_shape", "[3, 8, 8]"]
    command += ["--data.likelihood", "GaussianNoise", "--data.likelihood.sigma_y", str(SIGMA_Y)]
    command += ["--data.batch_size", "3", "--trainer.accelerator", "cpu"]
    main([*command, "--output.dir", "run", "--output.save_samples", "true"])
    expected = np.stack([np.load(tmp_path / "run" / "samples" / f"{name}.npy") for name in "abc"])
    given = {"forward": SuperResolution(2), "num_samples": 2, "seed": 5, "image_ids": list("abc")}
    found = drawn("field.json", y.numpy(), sampler="sampler/conditional", **given)
    assert np.array_equal(found.samples.numpy(), expected)
    by_path = drawn(Path("field.json"), y, sampler=CONFIGS / "sampler" / "conditional.yaml", **given)
    assert torch.equal(by_path.samples, found.samples)


def test_ours_as_an_operator_and_as_a_function_give_the_same(field, truth):
    """Conjugate gradients in place of a basis: to 1e-3."""
    for family in (SuperResolution(2), GaussianBlur(5, 1.0), Denoising()):
        operator = family.realise(SHAPE)
        y = noisy(operator.forward(truth))
        expected = drawn(field, y, forward=family).samples
        assert torch.equal(drawn(field, y, forward=operator).samples, expected)
        torch.testing.assert_close(drawn(field, y, forward=operator.forward).samples, expected, rtol=0, atol=1e-3)


def test_images_in_0_1_are_an_affine_function(field, truth):
    """f((x + 1) / 2) with half the noise is the same problem; its value at 0 is taken off y."""
    y = noisy(pool(truth))
    found = drawn(field, (y + 1) / 2, forward=lambda x: pool((x + 1) / 2), sigma_y=SIGMA_Y / 2)
    torch.testing.assert_close(found.samples, drawn(field, y).samples, rtol=0, atol=1e-3)
    unchanged = drawn(field, (y + 1) / 2, forward=lambda x: pool((x + 1) / 2))  # the factor 2 forgotten
    assert (unchanged.samples - found.samples).abs().max() > 0.05


def test_what_is_not_measured_has_no_part_in_it(field, truth):
    """Whatever stands in y where forward is always 0."""
    y = noisy(blind(truth))
    found = drawn(field, y, forward=blind).samples
    assert torch.equal(found, drawn(field, blind(y), forward=blind).samples)


def test_a_function_that_is_not_linear_has_samples_that_fit(field, truth):
    """x + x^3 / 2: residuals are those of noise."""

    def bent(x: Tensor) -> Tensor:
        return pool(x + x**3 / 2)

    y = noisy(bent(truth))
    found = drawn(field, y, forward=bent, num_samples=2).samples
    residual = (y[:, None] - torch.stack([bent(one) for one in found])).square().mean(dim=(1, 2, 3, 4)).sqrt() / SIGMA_Y
    assert ((residual > 0.6) & (residual < 1.4)).all(), residual


@pytest.mark.parametrize(
    ("function", "linear"),
    [
        (pool, True),
        (blind, True),
        (lambda x: x[..., ::2, ::2], True),
        (lambda x: torch.view_as_real(torch.fft.rfft2(x, norm="ortho")), True),
        (lambda x: x.flatten(1) @ torch.ones(192, 3), True),
        (lambda x: 3 * x + 1, True),
        (lambda x: x.double() / 7, True),
        (torch.nn.Conv2d(3, 2, 3), True),  # its weights and offset want gradients
        (lambda x: torch.fft.rfft2(x).abs(), False),
        (lambda x: x + 0.1 * x**2, False),
        (lambda x: x.clamp(-20, 20), False),
        (lambda x: torch.where(x.abs() < 0.02, 0, x), False),
        (lambda x: x.sin(), False),
        (lambda x: x.mean(dim=(1, 2, 3)), True),
    ],
)
def test_linear_is_what_adds_up_and_its_adjoint_is_the_transpose(function, linear):
    x, z = torch.randn(2, 2, *SHAPE, generator=torch.Generator().manual_seed(3))
    y = function(x).float()
    operator, offset = operator_of(function, SHAPE, y)
    assert type(operator) is (LinearFunctionOperator if linear else FunctionOperator)
    if linear:
        torch.testing.assert_close((operator.forward(x) + offset).flatten(), y.flatten(), rtol=1e-5, atol=1e-5)
        v = operator.forward(z) + 1
        left, right = (operator.forward(x) * v).sum(), (x * operator.adjoint(v)).sum()
        assert abs(left - right) <= 1e-5 * operator.forward(x).norm() * v.norm()


def test_priors_by_object_say_their_size_and_keep_to_the_operators(field, truth):
    sized = GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, 3, 8, 8), 0.04 * torch.eye(192)[None])
    found = posterior.sample(noisy(pool(truth)), forward=pool, sigma_y=SIGMA_Y, prior=sized, image_shape=SHAPE)
    assert found.samples.shape == (3, 1, *SHAPE)
    operator = SuperResolution(2).realise(SHAPE)
    y = noisy(operator.forward(truth))
    found = posterior.sample(y, forward=operator, sigma_y=SIGMA_Y, prior=field)  # the operator says the shape
    assert found.samples.shape == (3, 1, *SHAPE)


def test_what_is_recommended_is_the_shipped_file_which_clips_no_exact_prior(field):
    kinds = {"sampler": Sampler}
    settings = conformed({"sampler": read_settings(CONFIGS / "sampler" / "conditional.yaml")}, kinds)
    (shipped,) = built(settings, kinds, "conditional")
    network = ScoreNetworkPrior(torch.nn.Conv2d(3, 3, 3), 0.01, 10.0, "denoised")
    assert recommended(network) == shipped
    assert recommended(field) == replace(shipped, clip_search=False) == ConditionalDescent()


def test_a_prior_of_latents_is_sampled_in_latents():
    """By the sampler that ships for them, and into what its decoder can make."""
    prior, y = gaussian_latents(), torch.zeros(1, 3, 2, 2)
    given = {"forward": SuperResolution(2), "image_shape": IMAGE_SHAPE, "num_samples": 2}
    found = drawn(prior, y, **given)
    assert torch.equal(found.samples, drawn(prior, y, sampler="sampler/in_latents", **given).samples)
    assert found.cost.nfe_forward == 121
    weight, bias = prior.decoder.weight, prior.decoder.bias
    seen = found.samples[0].flatten(1) - bias
    torch.testing.assert_close(seen @ torch.linalg.pinv(weight).T @ weight.T, seen, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match=r"no denoiser of images.*: put the sampler into InLatents"):
        drawn(prior, y, sampler=ConditionalDescent(), **given)


@dataclass(frozen=True)
class Lost(Sampler):
    """NaN in all chains of one image."""

    image: str

    def __call__(self, prior, measurement, rng, observe=lambda *state: None):
        x = rng.randn("x", measurement.image_shape)
        return torch.where(torch.tensor([i == self.image for i, _ in rng.rows]).view(-1, 1, 1, 1), torch.nan, x)


def test_an_image_that_diverges_is_named_and_costs_no_other(field, truth):
    y, settings = noisy(pool(truth)), {"sampler": Lost("1"), "num_samples": 2, "batch_size": 2}
    with pytest.warns(UserWarning, match="1 of 3 images have no samples: image 1, sample 0: NaN"):
        found = drawn(field, y, **settings)
    assert list(found.failed) == ["1"]
    assert found.samples[1].isnan().all()
    assert found.samples[[0, 2]].isfinite().all()
    with pytest.raises(UserError, match="image 1, sample 0: NaN"):
        drawn(field, y[1:2], image_ids=["1"], **settings)


def test_one_number_an_image_and_numpy_integers_are_taken(field, truth):
    """No sampling: what is drawn is normal numbers."""

    def brightness(x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2, 3))

    two, sampler = np.int64(2), Lost("none")
    found = drawn(
        field, brightness(truth), forward=brightness, sampler=sampler, num_samples=two, image_shape=np.array(SHAPE)
    )
    assert found.samples.shape == (3, 2, *SHAPE)
    seeded = [drawn(field, truth, forward=Denoising(), sampler=sampler, seed=seed).samples for seed in (5, np.int64(5))]
    assert torch.equal(*seeded)


def rounded(x: Tensor) -> Tensor:
    return pool((x * 127.5).round() / 127.5)


def random(x: Tensor) -> Tensor:
    return pool(x + 0.1 * torch.randn_like(x))


def centred(x: Tensor) -> Tensor:
    return pool(x - x.mean())


MASKS = (torch.arange(64).view(8, 8) % 5 < torch.tensor([2, 3, 4]).view(3, 1, 1, 1)).float()


def masked_in_order(x: Tensor) -> Tensor:
    """The first row has its own mask, whatever the batch."""
    return pool(MASKS[: len(x)] * x)


def detached_mean(x: Tensor) -> Tensor:
    return pool(x - x.mean(dim=(1, 2, 3), keepdim=True).detach())


def in_place(x: Tensor) -> Tensor:
    return pool(x.mul_(2))


Y = torch.zeros(3, 3, 4, 4)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sigma_y": None}, r"sigma_y is missing: the standard deviation of y's noise \(posterior\.estimate_sigma may"),
        ({"sigma_y": 0}, "sigma_y must be > 0"),
        ({"sigma_y": -0.1}, "sigma_y must be > 0"),
        ({"sigma_y": float("nan")}, "sigma_y must be > 0"),
        ({"sigma_y": [0.1, 0.2]}, "sigma_y must be one number, got list"),
        ({"device": "nowhere"}, "device nowhere cannot be used: "),
        ({"prior": None}, "prior is missing: an object, a file of settings, or a name such as prior/photos"),
        ({"prior": "prior/toon_faces23"}, r"does not exist: did you mean prior/toon_faces32"),
        ({"prior": "sampler/dps"}, r"posterior\.samplers\.DPS is no Prior"),
        ({"prior": "hf://google/nothing"}, "'posterior-sampling fetch hf://google/nothing' where there is a network"),
        ({"prior": 3}, "prior must be a Prior, or name a file of settings, got int"),
        ({"sampler": "sampler/nothing"}, "sampler: the file of settings sampler/nothing does not exist"),
        (
            {"image_shape": None},
            r"GaussianFieldPrior does not say the size of its images: give image_shape=",
        ),
        ({"image_shape": (8, 8)}, r"image_shape must be \(C, H, W\)"),
        ({"image_shape": (1, 8, 8)}, "GaussianFieldPrior is for images"),
        ({"num_samples": 0}, "num_samples must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"num_samples": 2.5}, r"num_samples must be an integer, got 2\.5"),
        ({"batch_size": "2"}, "batch_size must be an integer, got '2'"),
        ({"seed": 5.0}, r"seed must be an integer, got 5\.0"),
        ({"seed": None}, "seed must be an integer, got None"),
        ({"seed": 2**64}, "seed must be >= "),
        ({"image_shape": 8}, r"image_shape must be \(C, H, W\), got 8"),
        ({"image_ids": 3}, "image_ids must be a list of names, got int"),
        ({"image_ids": "abc"}, "image_ids must be a list of names, got str"),
        ({"image_ids": [3, 4, 5]}, "image_ids must be names, text .*, got "),
        ({"image_ids": ["a", "b"]}, "image_ids must be 3 different names, one a row of y, got 2"),
        ({"image_ids": ["a", "b", "a"]}, "image_ids must be 3 different names"),
        (
            {"y": torch.where(torch.arange(4) == 1, torch.nan, Y)},
            "y has NaN or infinite values, 36 of 144: what",
        ),
        ({"y": Y.byte()}, r"got torch\.uint8: y / 127\.5 - 1 is of 8-bit pixels"),
        ({"y": Y + 0j}, "got torch.complex64: torch.view_as_real makes two"),
        ({"y": 0.5}, "y must be a tensor or array .*, got float"),
        ({"y": Y[..., :2]}, r"forward gives \(3, 4, 4\) for an image of \(3, 8, 8\), y has \(3, 4, 2\)"),
        ({"y": Y[0]}, r"y has \(4, 4\): give y an axis of images before them, y\[None\]"),
        ({"forward": SuperResolution(4)}, r"gives \(3, 2, 2\) for an image of \(3, 8, 8\), y has \(3, 4, 4\)"),
        ({"forward": RandomInpainting()}, "RandomInpainting draws its parameters at random: give the realised"),
        ({"forward": 2.0}, "forward must be a function or an operator, got float"),
        (
            {"forward": lambda x: torch.from_numpy(pool(x).numpy())},
            "forward is not differentiable: autograd finds no way",
        ),
        ({"forward": lambda x: pool(x).detach()}, "forward is not differentiable: autograd finds no way"),
        ({"forward": rounded}, "forward is not differentiable: its gradient says 0 of what its values do"),
        ({"forward": lambda x: Y[: len(x)] + 0 * pool(x)}, "forward does not depend on the image"),
        ({"forward": random}, "forward gives something else when it is called again: leave its noise out"),
        ({"forward": centred}, "forward gives another result for an image alone"),
        ({"forward": masked_in_order}, "for the same image in a batch of two: call once for each y"),
        ({"forward": detached_mean}, "forward is linear, but its gradient is that of another function"),
        ({"forward": lambda x: pool(x) + pool(x).detach()}, "its gradient is that of another function"),
        ({"forward": in_place}, "forward changes the images that it is given"),
        (
            {"forward": lambda x: pool(x) * torch.ones(3, 1, 1, 1)},
            r"any number of images; for \(2, 3, 8, 8\) it",
        ),
        ({"forward": lambda x: pool(x).log()}, "forward gives NaN or infinite values"),
        ({"forward": lambda x: pool(x).sum()}, "forward must give a tensor with one row an image"),
        ({"forward": lambda x: torch.fft.fft2(pool(x))}, "got torch.complex64: torch.view_as_real makes such"),
    ],
)
def test_what_is_wrong_is_one_line_before_any_work(field, monkeypatch, tmp_path, settings, told):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    settings = {"y": Y, "prior": field} | settings
    with pytest.raises(UserError, match=told) as caught:
        drawn(settings.pop("prior"), settings.pop("y"), **settings)
    assert "\n" not in str(caught.value)
    assert field.cost.forward == 0


def test_an_operator_of_fewer_images_than_y_is_refused(field):
    two = RandomInpainting().realise(SHAPE, [torch.Generator() for _ in range(2)])
    y = torch.zeros(3, *SHAPE)
    with pytest.raises(UserError, match="Inpainting is of 2 images, y of 3"):
        drawn(field, y, forward=two)
    with pytest.raises(UserError, match=r"image_shape is \(3, 4, 4\), but Inpainting is for images \(3, 8, 8\)"):
        drawn(field, y, forward=two, image_shape=(3, 4, 4))
    with pytest.raises(UserError, match="std: one sample has no spread"):
        drawn(field, y, forward=Denoising()).std  # noqa: B018


def test_to_import_the_package_is_still_light():
    told = "import sys, posterior; assert 'sample' in posterior.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], timeout=60).returncode == 0


def test_the_function_is_no_module_whoever_was_first():
    import posterior.sampling

    assert callable(posterior.sample)
    assert posterior.sample is posterior.sampling.sample
