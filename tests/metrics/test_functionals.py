"""Functions of images: what samples of the posterior say of them."""

from __future__ import annotations

import pytest
import torch

from posterior import UserError
from posterior.metrics import L2, Functional
from posterior.module import PosteriorSampling
from posterior.samplers import ExactGaussian
from tests.test_module import make_batch


def brightness(x):
    return x.mean(dim=(1, 2, 3))


def is_bright(x):
    return brightness(x) > 0


class Contrast(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1).std(dim=1)


def test_columns_are_mean_interval_and_probability():
    chains = torch.randn(300, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    values = chains.mean(dim=(2, 3, 4))
    columns = Functional.of(brightness).columns(chains)
    assert list(columns) == ["brightness_mean", "brightness_10", "brightness_90"]
    torch.testing.assert_close(columns["brightness_mean"], values.mean(dim=0))
    torch.testing.assert_close(columns["brightness_90"], values.quantile(0.9, dim=0))
    (probability,) = Functional.of(is_bright).columns(chains).values()
    torch.testing.assert_close(probability, (values > 0).float().mean(dim=0))
    torch.testing.assert_close(Functional.of(Contrast())(chains[:, 0]), chains[:, 0].flatten(1).std(dim=1))


def test_a_path_that_is_no_function_is_refused():
    assert Functional.at("torch.mean", "--functional").function is torch.mean
    assert Functional.at("torch.nn.Flatten", "--functional").name == "Flatten"
    with pytest.raises(UserError, match=r"--functional: torch\.pi is no function of images"):
        Functional.at("torch.pi", "--functional")


def test_what_a_function_may_not_give_is_named():
    images = torch.zeros(3, 1, 2, 2)
    with pytest.raises(UserError, match=r"functional <lambda> gave \(3, 1, 2, 2\) .* for 3 images, expected a number"):
        Functional.of(lambda x: x)(images)
    with pytest.raises(UserError, match="functional <lambda> fails: ZeroDivisionError"):
        Functional.of(lambda x: 1 / 0)(images)


def test_the_mean_row_of_an_image_has_them(field):
    module = PosteriorSampling(field, ExactGaussian(), 5, [L2()], functionals=[brightness, is_bright, Contrast()])
    prediction = module.predict_step(make_batch("ab"), 0)
    for record in prediction.records:
        columns = {name for name in record if name.startswith(("brightness", "is_bright", "Contrast"))}
        expected = {"brightness_mean", "brightness_10", "brightness_90", "is_bright_probability"}
        expected |= {"Contrast_mean", "Contrast_10", "Contrast_90"}
        assert columns == (expected if record["sample"] == "mean" else set())
    mean = prediction.samples.mean(dim=(0, 2, 3, 4))
    found = [record["brightness_mean"] for record in prediction.records if record["sample"] == "mean"]
    assert found == pytest.approx(mean.tolist(), abs=1e-5)
    with pytest.raises(UserError, match="one sample has no interval"):
        PosteriorSampling(field, ExactGaussian(), functionals=[brightness])
    with pytest.raises(UserError, match=r"model\.functionals: two of them have the same name"):
        PosteriorSampling(field, ExactGaussian(), 2, functionals=[brightness, brightness])
