"""Sound in a homogeneous medium and off one pixel in it, by the plane's Green's function; what any solver must do."""

import math

import numpy as np
import pytest
import scipy.signal
import torch

from posterior import UserError
from posterior.operators import AcousticWaves
from posterior.operators.waveform import Seismograms

FAMILY = AcousticWaves(step=1e-3, steps=400, every=1, slowest=1500, fastest=2500, shots=1)
SMALL = AcousticWaves(step=1.8e-3, steps=90, frequency=15.0, every=3, shots=2, slowest=1600, fastest=3000)
SHAPE = (1, 8, 10)


TIMES, FINER = np.arange(400) * 1e-3, 40


def ricker(times, frequency=12.0):
    """The wavelet, and its second derivative by time."""
    square = (math.pi * (frequency * times - 1.5)) ** 2
    curved = 2 * (math.pi * frequency) ** 2 * (-3 + 12 * square - 4 * square**2)
    return (1 - 2 * square) * np.exp(-square), curved * np.exp(-square)


def carried(of_time, *distances, speed=2000.0):
    """A function of time, along one distance after the other: * H(t - r / c) / (2 pi sqrt(t^2 - r^2 / c^2)), Green's.

    That is infinite at its front; here it is its integral over a bin, arcosh(c t / r) / (2 pi).
    """
    ends = np.arange(len(TIMES) * FINER + 1) * TIMES[1] / FINER
    wave = of_time(ends[:-1])
    for distance in distances:
        green = np.diff(np.arccosh(np.maximum(ends * speed / distance, 1))) / (2 * math.pi)
        wave = scipy.signal.fftconvolve(wave, green)[: len(wave)]
    return wave[::FINER]


def test_a_homogeneous_medium_carries_greens_function():
    """Within 4 %: 2 % come back from the border, 1 % are the grid's."""
    operator = Seismograms((1, 20, 48), FAMILY)
    with torch.no_grad():
        heard = operator.forward(torch.zeros(1, 1, 20, 48))[0, 0].numpy()
    source = int(np.abs(heard[:, :100]).max(axis=1).argmax())  # the loudest at first
    for pixels in (8, 16, 22):
        wanted = carried(lambda times: ricker(times)[0], 10.0 * pixels)
        assert np.linalg.norm(heard[source + pixels] - wanted) < 0.04 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("row", "column"), [(14, 30), (9, 20)])
def test_a_pixel_of_faster_rock_scatters_as_born_says(row, column):
    """dp = 2 dc / c^3 area G(receiver, pixel) * G(pixel, shot) * s'', within 1 % (Tarantola, Geophysics 49, 1984)."""
    operator, pixel = Seismograms((1, 20, 48), FAMILY).to(torch.float64), torch.zeros(1, 1, 20, 48, dtype=torch.float64)
    pixel[0, 0, row, column], h = 1, 1e-3
    with torch.no_grad():
        heard = ((operator.forward(h * pixel) - operator.forward(-h * pixel)) / (2 * h))[0, 0].numpy()
    for receiver in (10, 30, 40):
        paths = (10 * math.hypot(row - 3, column - place) for place in (24, receiver))
        wanted = 2 * 500 / 2000.0**3 * 10.0**2 * carried(lambda times: ricker(times)[1], *paths)
        assert np.linalg.norm(heard[receiver] - wanted) < 0.01 * np.linalg.norm(wanted)


def test_shots_and_receivers_may_change_places():
    """Reciprocity, in any medium: the first shot at the second's receiver is the second at the first's."""
    operator = SMALL.realise(SHAPE).to(torch.float64)
    x = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    y, (one, two) = operator.forward(x)[0], operator.force.nonzero()[:, 2].tolist()
    border = operator.force.shape[-1] - SHAPE[2]
    places = [column - border // 2 for column in (one, two)]
    assert places[1] - places[0] >= 3
    torch.testing.assert_close(y[0, places[1]], y[1, places[0]], rtol=1e-6, atol=1e-6)


def test_faster_rock_is_heard_sooner():
    slow, fast = (SMALL.realise(SHAPE).forward(torch.full((1, *SHAPE), level)) for level in (-1.0, 1.0))
    loudest = [int(y[0, 0, -1].argmax()) for y in (slow, fast)]
    assert loudest[1] < loudest[0] < 29


def test_the_unit_is_the_loudness_of_the_middle():
    y = SMALL.realise(SHAPE).forward(torch.zeros(1, *SHAPE))
    assert float(y.square().mean()) == pytest.approx(1, rel=1e-4)


def test_the_gradient_is_that_of_the_waves():
    """Through the checkpoints; against a difference quotient."""
    operator, generator = SMALL.realise(SHAPE).to(torch.float64), torch.Generator().manual_seed(1)
    x, direction = (torch.rand(2, *SHAPE, generator=generator, dtype=torch.float64) - 0.5 for _ in range(2))
    v = torch.randn(2, *operator.measurement_shape, generator=generator, dtype=torch.float64)
    product, h = operator.vjp(x, v), 1e-5
    with torch.no_grad():
        quotient = (operator.forward(x + h * direction) - operator.forward(x - h * direction)) / (2 * h)
    assert float((quotient * v).sum()) == pytest.approx(float((product * direction).sum()), rel=1e-6)
    torch.testing.assert_close(operator.vjp(x[1:], v[1:]), product[1:], rtol=1e-9, atol=1e-12)


def test_the_view_is_a_picture():
    operator = SMALL.realise(SHAPE)
    view = operator.view(operator.forward(torch.zeros(2, *SHAPE)))
    assert view.shape == (2, *SHAPE)
    assert view.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (lambda: AcousticWaves(step=2e-3), "goes 0.9 pixels at 4500 m/s.* take a step of at most 0.00136"),
        (lambda: AcousticWaves(frequency=40.0), "shortest waves have 1.5 pixels.* at most 15 Hz"),
        (lambda: AcousticWaves(slowest=3000, fastest=2000), "fastest must be > 3000"),
        (lambda: AcousticWaves(shots=0), "shots must be >= 1"),
        (lambda: AcousticWaves().realise((3, 16, 16)), "must have 1 channel"),
        (lambda: AcousticWaves(shots=20).realise((1, 16, 16)), "20 shots, but a row has 16 pixels"),
        (lambda: AcousticWaves(steps=1, every=1).realise(SHAPE), "one in 1 of 1 steps is heard, and none has sound"),
        (lambda: AcousticWaves(steps=9, every=9).realise(SHAPE), "one in 9 of 9 steps is heard, and none has sound"),
    ],
)
def test_what_makes_no_sense_is_one_line(family, message):
    with pytest.raises(UserError, match=message) as caught:
        family()
    assert "\n" not in str(caught.value)
