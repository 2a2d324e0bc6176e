"""Linear inverse scattering against sums over Hankel functions that the test writes itself."""

import math

import pytest
import scipy.special
import torch

from posterior import UserError
from posterior.operators import InverseScattering, LinearOperator

SMALL = InverseScattering(wavelengths=2.5, radius=1.5, transmitters=3, receivers=5, contrast=0.2)
SHAPE = (1, 6, 8)


def scattered(contrast, wavelengths, radius, transmitter, receiver):
    """k^2 sum G(r - r') f(r') G(r' - r_t) area, pixel by pixel, in metres for a wavelength of 3 m.

    Args:
        contrast: f, (H, W).
        transmitter, receiver: angles.
    """
    height, width = contrast.shape
    pixel = 3.0 * wavelengths / max(height, width)
    k, far = 2 * math.pi / 3.0, radius * 3.0 * wavelengths
    total = 0j
    for row in range(height):
        for column in range(width):
            place = complex((column - (width - 1) / 2) * pixel, (row - (height - 1) / 2) * pixel)
            paths = [abs(place - far * complex(math.cos(a), math.sin(a))) for a in (transmitter, receiver)]
            waves = [0.25j * complex(scipy.special.hankel1(0, k * path)) for path in paths]
            total += k**2 * waves[0] * waves[1] * float(contrast[row, column]) * pixel**2
    return total


def picture(seed=0, rows=2):
    return torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def test_fields_are_borns_double_sum():
    x = picture()
    found = SMALL.fields(x)
    for row, transmitter, receiver in ((0, 0, 0), (0, 2, 1), (1, 1, 4)):
        angles = 2 * math.pi * transmitter / 3, 2 * math.pi * receiver / 5
        wanted = scattered(0.2 * (x[row, 0] + 1) / 2, 2.5, 1.5, *angles)
        assert abs(complex(found[row, transmitter, receiver]) - wanted) < 1e-12 * abs(wanted)


def test_y_is_the_field_without_that_of_grey_in_a_unit_of_norm_one():
    x, operator = picture(), SMALL.realise(SHAPE).to(torch.float64)
    change = SMALL.fields(x) - SMALL.fields(torch.zeros_like(x))
    y = torch.complex(*operator.forward(x).unbind(1))
    unit = (change.abs().max() / y.abs().max()).item()
    torch.testing.assert_close(y * unit, change, rtol=1e-5, atol=1e-5 * unit)
    assert float(operator.norm()) == pytest.approx(1, abs=1e-4)
    other = InverseScattering(2.5, 1.5, 3, 5, contrast=7.0).realise(SHAPE).to(torch.float64)
    torch.testing.assert_close(other.forward(x), operator.forward(x), rtol=1e-5, atol=1e-7)


def test_the_adjoint_is_the_transpose_to_the_last_digits():
    operator = SMALL.realise(SHAPE).to(torch.float64)
    assert isinstance(operator, LinearOperator)
    x, generator = picture(1), torch.Generator().manual_seed(2)
    v = torch.randn(2, *operator.measurement_shape, generator=generator, dtype=torch.float64)
    y = operator.forward(x)
    assert abs((y * v).sum() - (x * operator.adjoint(v)).sum()) < 1e-12 * y.norm() * v.norm()


def test_solves_are_those_of_the_matrix_and_rows_do_not_meet():
    operator = SMALL.realise(SHAPE).to(torch.float64)
    columns = operator.forward(torch.eye(48, dtype=torch.float64).view(48, *SHAPE)).flatten(1)  # the transpose of A
    b = picture(3)
    wanted = torch.linalg.solve(columns @ columns.mT + 0.01 * torch.eye(48), b.flatten(1).mT).mT.view_as(b)
    torch.testing.assert_close(operator.solve(b, 0.01), wanted, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(operator.forward(b)[1:], operator.forward(b[1:]), rtol=1e-12, atol=1e-14)


def test_transmitter_and_receiver_may_change_places():
    """Reciprocity: with as many of either, u_tr = u_rt."""
    even = InverseScattering(2.5, 1.5, transmitters=4, receivers=4).fields(picture())
    torch.testing.assert_close(even, even.mT, rtol=1e-12, atol=1e-14)


def test_what_varies_faster_than_half_a_wavelength_is_hardly_heard():
    """Ewald's disc: spatial frequencies up to 2 a wavelength, here a third of a cycle a pixel."""
    operator = InverseScattering(wavelengths=24 / 6, transmitters=24, receivers=24).realise((1, 24, 24))
    columns, fade = torch.arange(24.0), torch.hann_window(24)  # an edge has all frequencies
    slow, fast = ((fade[:, None] * fade * torch.cos(2 * math.pi * f * columns))[None, None] for f in (0.15, 0.45))
    assert operator.forward(fast).norm() < 0.05 * operator.forward(slow).norm()


def test_the_view_is_a_picture():
    operator = SMALL.realise(SHAPE)
    view = operator.view(operator.forward(picture().float()))
    assert view.shape == (2, *SHAPE)
    assert view.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (lambda: InverseScattering(radius=0.5), "radius must be >= 1"),
        (lambda: InverseScattering(receivers=0), "receivers must be >= 1"),
        (lambda: InverseScattering(contrast=float("nan")), "contrast must be > 0"),
        (lambda: InverseScattering().realise((3, 128, 128)), "must have 1 channel"),
        (lambda: InverseScattering().realise((1, 32, 32)), "1.5 pixels a wavelength .* take at most 16 wavelengths"),
    ],
)
def test_what_makes_no_sense_is_one_line(family, message):
    with pytest.raises(UserError, match=message) as caught:
        family()
    assert "\n" not in str(caught.value)
