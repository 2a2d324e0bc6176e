"""Calibration on measurements without truth: the two parts are independent, and planted faults are found."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.judge.calibrate import Asked, calibrate, calibrate_command
from benchmarks.judge.recorded import LIMITS, noise_of_parts, parted
from posterior import Measurement, UserError
from posterior.noise import GaussianNoise, PoissonNoise, VaryingNoise
from posterior.operators.inpainting import Inpainting
from posterior.operators.motion_blur import KernelBlur

SIDE, SIGMA_Y = 16, 0.1
SHAPE = (1, SIDE, SIDE)
COUNT = 64
MODULE = """
import torch

from posterior.priors import GaussianMixturePrior
from posterior.samplers import Sampler


def faces() -> GaussianMixturePrior:
    \"\"\"Three shapes at fixed places, each with smooth differences.\"\"\"
    means = torch.full((3, 1, 16, 16), -0.5)
    for number, mean in enumerate(means):
        mean[0, 2:10, 2:10] = 0.3
        mean[0, 4 : 5 + number, 4:6] = -0.6
        mean[0, 4 : 5 + number, 7:9] = -0.6
    places = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0))
    smooth = 0.04 * torch.exp(-torch.cdist(places, places).square() / 8) + 0.01 * torch.eye(256)
    return GaussianMixturePrior.full(torch.ones(3) / 3, means, smooth.expand(3, -1, -1))


class Mean(Sampler):
    def __call__(self, prior, measurement, rng, observe=lambda *state: None):
        return measurement.operator.adjoint(measurement.y)
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A prior and a wrong sampler of the user's."""
    (tmp_path / "my_priors_of_recorded.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("my_priors_of_recorded")


def kernel(shift=0):
    """3 x 3, moved to the right in 5 x 5."""
    found = torch.zeros(5, 5)
    found[1:4, 1 + shift : 4 + shift] = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    return found


def digits():
    """Images that the prior does not fit: bright strokes on black."""
    x = torch.full((COUNT, *SHAPE), -1.0)
    for number in range(COUNT):
        x[number, 0, 2 + number % 5 : 4 + number % 5, 2 : 4 + number % 7] = 1.0
        x[number, 0, 2:11, 3 + number % 6 : 5 + number % 6] = 1.0
    return x


@pytest.fixture
def asked(tmp_path, module):
    """What is asked for, of measurements that are made of images with a kernel and a noise level."""

    def made(images=None, shift=0, sigma_y=SIGMA_Y, samples=9, name="out", **more):
        if images is None:
            images = module.faces().sample(COUNT, torch.Generator().manual_seed(5))
        folder = tmp_path / f"y_{name}"
        folder.mkdir()
        noise = torch.randn(len(images), *SHAPE, generator=torch.Generator().manual_seed(7))
        y = KernelBlur(kernel(shift).expand(1, -1, -1), SHAPE).forward(images) + sigma_y * noise
        for number, one in enumerate(y.numpy()):
            np.save(folder / f"{number:03d}.npy", one)
        np.save(tmp_path / "kernel.npy", kernel().numpy())
        (tmp_path / "prior.yaml").write_text("class_path: my_priors_of_recorded.faces\n")
        task = {
            "image_shape": list(SHAPE),
            "operator": {"class_path": "posterior.operators.GivenBlur", "init_args": {"kernel": "kernel.npy"}},
            "likelihood": {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": SIGMA_Y}},
        }
        (tmp_path / "task.yaml").write_text(json.dumps(task))
        paths = (str(tmp_path / "prior.yaml"), str(tmp_path / "task.yaml"), "posterior.samplers.ExactMixture")
        return Asked(*paths, samples=samples, recorded=str(folder), allow_local=True, **more), tmp_path / name

    return made


def test_what_is_right_is_not_refuted(asked):
    judged = calibrate(*asked())
    assert not judged.refuted, judged.verdict()
    assert {one.kind for one in judged.findings} == {"rank", "pixels", "score", "spread"}


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ({"sigma_y": 1.5 * SIGMA_Y}, "distance to the first part"),
        ({"sigma_y": SIGMA_Y / 1.5}, "distance to the first part"),
        ({"shift": 1}, ""),
        ({"images": digits()}, ""),
    ],
    ids=["sigma_y x 1.5", "sigma_y / 1.5", "kernel off by one pixel", "a prior that does not fit"],
)
def test_planted_faults_are_found(asked, fault, where):
    judged = calibrate(*asked(**fault))
    assert judged.refuted, judged.verdict()
    assert where in judged.verdict()
    assert "the held-out part of y" in judged.verdict().lower() or "the error of the mean" in judged.verdict()


def test_a_sampler_that_does_not_sample_is_found(asked):
    given, folder = asked()
    assert calibrate(replace(given, sampler="my_priors_of_recorded.Mean"), folder).refuted


def test_what_is_kept_is_checked_and_the_page_says_what_it_cannot_see(asked, monkeypatch, capsys):
    given, folder = asked()
    arguments = ["--prior", given.prior, "--task", given.task, "--sampler", given.sampler, "--samples", "9"]
    calibrate_command(["run", *arguments, "--recorded", given.recorded, "--output", str(folder), "--allow-local"])
    told = capsys.readouterr().out
    monkeypatch.setattr("benchmarks.judge.running.draw", None)
    calibrate_command(["check", str(folder)])
    assert capsys.readouterr().out == told
    assert LIMITS in (folder / "calibrate.md").read_text()
    assert "Directions\nthat A does not measure are not seen" in LIMITS
    assert "64 measurements, split in two, x 9" in (folder / "calibrate.md").read_text()


def masked(y_of):
    """A measurement of a grey image, five columns not measured: y_of(clean, operator)."""
    mask = torch.ones(1, 1, 40, 40)
    mask[..., :5] = 0
    operator, x = Inpainting(mask, (1, 40, 40)), torch.full((1, 1, 40, 40), -0.4)
    return y_of(x, operator, torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))), operator.forward(x)


def test_gaussian_parts_are_independent_with_the_stated_noise():
    law = GaussianNoise(0.2)
    y, clean = masked(lambda x, operator, noise: Measurement.simulate(x, operator, law, noise))
    parts = parted(y, "a", 0)
    first, second = ((part.y - clean)[..., 5:].flatten() for part in parts)
    assert tuple(part.likelihood for part in parts) == noise_of_parts(law)
    for noise, part in zip((first, second), parts, strict=True):
        assert float(noise.std()) == pytest.approx(part.likelihood.sigma_y, rel=0.06)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 4 / 1400**0.5
    assert float(parts[0].y[..., :5].abs().max()) == 0
    torch.testing.assert_close(parted(y, "a", 0)[0].y, parts[0].y)


def test_photons_are_thinned():
    law = PoissonNoise(0.5)
    y, clean = masked(lambda x, operator, noise: Measurement.simulate(x, operator, law, noise))
    first, second = parted(y, "a", 0)
    counts = [(part.y + 1) / 2 * part.likelihood.photons for part in (first, second)]
    torch.testing.assert_close(sum(counts)[..., 5:], ((y.y + 1) / 2 * law.photons)[..., 5:], rtol=0, atol=1e-3)
    for part, count in zip((first, second), counts, strict=True):
        seen, mean = count[..., 5:], part.likelihood.photons * float((clean[..., 5:].mean() + 1) / 2)
        assert float(seen.mean()) == pytest.approx(mean, abs=5 * (mean / 1400) ** 0.5)
        assert float(seen.var()) == pytest.approx(mean, rel=0.2)
    both = torch.stack([count[..., 5:].flatten() for count in counts])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 4 / 1400**0.5
    bright = replace(y, y=torch.ones_like(y.y))
    with pytest.raises(UserError, match="measurement a reaches 1, where photon counts are cut off"):
        parted(bright, "a", 0)
    with pytest.raises(UserError, match=r"measurement a holds no photon counts at rate 0\.5"):
        parted(replace(y, y=0.97 * y.y), "a", 0)


def test_bad_inputs_are_one_line(asked, tmp_path):
    given, folder = asked()
    for change, told in (
        ({"samples": 3}, "nothing can be concluded from 256 pairs with 3 samples"),
        ({"denoised": True}, "--denoised is about truths"),
        ({"functionals": ["torch.mean"]}, "--functional is about truths"),
        ({"recorded": str(tmp_path / "nowhere")}, "nowhere"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            calibrate(replace(given, **change), folder)
        assert "\n" not in str(caught.value)
    few, folder = asked(images=digits()[:5], name="few")
    with pytest.raises(UserError, match="from 5 measurements with 9 samples each: at least 16 measurements"):
        calibrate(few, folder)
    with pytest.raises(UserError, match="measurements with VaryingNoise cannot be split"):
        noise_of_parts(VaryingNoise(torch.ones(1)))
