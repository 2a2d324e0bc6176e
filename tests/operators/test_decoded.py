"""The measurement of decoded latents: its values, its gradient, its rows."""

from __future__ import annotations

import pytest
import torch

from posterior import Measurement, stream
from posterior.noise import GaussianNoise
from posterior.operators import Decoded, MotionBlur, PhaseRetrieval, RandomInpainting, SuperResolution
from tests.latents import IMAGE_SHAPE, LATENT_SHAPE, LinearDecoder


def bent(z):
    """A decoder that is not linear, in the dtype of z."""
    decoder = LinearDecoder().to(z)
    return decoder(z).sin()


def latents(rows=2):
    return torch.randn(rows, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "family", [SuperResolution(2), RandomInpainting(), PhaseRetrieval()], ids=lambda f: type(f).__name__
)
def test_the_gradient_is_that_of_finite_differences(family):
    inner = family.realise(IMAGE_SHAPE, [stream(0, i, -1, "operator") for i in "ab"])
    operator, z = Decoded(inner, bent, LATENT_SHAPE).to(torch.float64), latents()
    v = torch.randn(2, *operator.measurement_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, h = operator.vjp(z, v), 1e-6
    for number in range(8):
        step = torch.zeros(2, 8, dtype=torch.float64)
        step[:, number] = h
        step = step.view_as(z)
        slope = (v * (operator.forward(z + step) - operator.forward(z - step))).flatten(1).sum(dim=1) / (2 * h)
        torch.testing.assert_close(found.flatten(1)[:, number], slope, rtol=1e-6, atol=1e-7)
    assert not found.requires_grad


def test_masks_follow_their_rows():
    inner = RandomInpainting().realise(IMAGE_SHAPE, [stream(0, i, -1, "operator") for i in "ab"])
    operator, z = Decoded(inner, bent, LATENT_SHAPE), latents().float()
    y = operator.forward(z)
    measurement = Measurement(y, operator, GaussianNoise(0.1)).rows(torch.tensor([1, 0, 1]))
    assert measurement.image_shape == LATENT_SHAPE
    assert torch.equal(measurement.operator.forward(z[[1, 0, 1]]), y[[1, 0, 1]])
    assert torch.equal(operator.num_measured(), inner.num_measured())
    assert torch.equal(operator.restrict(torch.ones_like(y)), inner.restrict(torch.ones_like(y)))
    assert torch.equal(operator.view(y), inner.view(y))


def test_what_was_drawn_for_an_image_is_seen():
    inner = MotionBlur(3).realise(IMAGE_SHAPE, [stream(0, "a", -1, "operator")])
    drawn = Decoded(inner, bent, LATENT_SHAPE).parameters_view()
    assert drawn is not None
    assert torch.equal(drawn, inner.parameters_view())
