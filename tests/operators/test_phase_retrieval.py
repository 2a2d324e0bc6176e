import numpy as np
import pytest
import torch

from posterior.operators import PhaseRetrieval


def test_amplitudes_match_the_reference(golden_folder, relative):
    arrays = np.load(golden_folder / "operators.npz")
    x = torch.from_numpy(arrays["x"])[None]
    operator = PhaseRetrieval(2.0).realise(x.shape[1:])
    assert operator.measurement_shape == (3, 384, 384)
    assert relative(operator.forward(x)[0], arrays["phase_y"]) < 1e-5


@pytest.mark.parametrize("shape", [(3, 8, 12), (1, 7, 9)])
def test_the_vector_jacobian_product_is_exact(shape):
    """Against autograd, and against a difference quotient, in float64."""
    generator = torch.Generator().manual_seed(0)
    operator = PhaseRetrieval(2.0).realise(shape)
    x = torch.randn(2, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, *operator.measurement_shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    product = operator.vjp(x.detach(), v)
    (automatic,) = torch.autograd.grad(operator.forward(x), x, v)
    torch.testing.assert_close(product, automatic, rtol=1e-10, atol=1e-12)
    h = 1e-6
    with torch.no_grad():
        quotient = (operator.forward(x + h * direction) - operator.forward(x - h * direction)) / (2 * h)
    assert float((quotient * v).sum()) == pytest.approx(float((direction * product).sum()), rel=1e-6)


def test_an_amplitude_of_zero_has_no_pull():
    operator = PhaseRetrieval(2.0).realise((1, 8, 8))
    product = operator.vjp(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 12, 12))
    assert product.abs().max() == 0


def test_an_image_alone_equals_the_image_in_a_batch():
    operator = PhaseRetrieval().realise((3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    v = torch.randn(2, *operator.measurement_shape)
    torch.testing.assert_close(operator.forward(x)[1:], operator.forward(x[1:]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(operator.vjp(x, v)[1:], operator.vjp(x[1:], v[1:]), rtol=1e-5, atol=1e-6)


def test_a_turned_image_has_the_same_amplitudes():
    operator = PhaseRetrieval().realise((3, 16, 16))
    x = torch.randn(1, 3, 16, 16)
    turned = x.flip(-1, -2)
    torch.testing.assert_close(operator.forward(x), operator.forward(turned), rtol=1e-4, atol=1e-5)


def test_the_view_is_a_picture_of_the_spectrum():
    operator = PhaseRetrieval().realise((3, 16, 16))
    view = operator.view(operator.forward(torch.rand(2, 3, 16, 16)))
    assert view.shape == (2, 3, 16, 16)
    assert view.min() >= -1
    assert view.max() <= 1
    assert view[:, :, 7:9, 7:9].mean() > view.mean() + 0.3  # the zero frequency is in the middle
