import pytest
import torch

from posterior import UserError
from posterior.operators import Saturation

SHAPE = (1, 4, 6)


def test_means_are_cut_off_at_the_level():
    x = torch.linspace(-1, 1, 24).view(1, *SHAPE)
    y = Saturation(0.1, 2).realise(SHAPE).forward(x)
    blocks = [[float(x[0, 0, r : r + 2, c : c + 2].mean()) for c in (0, 2, 4)] for r in (0, 2)]
    assert y[0, 0].tolist() == [pytest.approx([min(value, 0.1) for value in row]) for row in blocks]
    assert max(map(max, blocks)) > 0.1 > min(map(min, blocks))


@pytest.mark.parametrize("scale", [1, 2])
def test_the_vector_jacobian_product_is_exact(scale):
    generator = torch.Generator().manual_seed(0)
    operator = Saturation(0.2, scale).realise(SHAPE)
    x = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, *operator.measurement_shape, generator=generator, dtype=torch.float64)
    (automatic,) = torch.autograd.grad(operator.forward(x), x, v)
    torch.testing.assert_close(operator.vjp(x.detach(), v), automatic)
    assert 0 < float((automatic == 0).double().mean()) < 1


@pytest.mark.parametrize(
    ("settings", "message"), [((1.0, 1), "level"), ((0.0, 0), "scale"), ((0.0, 5), "does not divide")]
)
def test_what_does_not_fit_is_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        Saturation(*settings).realise(SHAPE)
