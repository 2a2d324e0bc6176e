"""Sound in a homogeneous medium against the plane's Green's function, and what every solver must do."""

import math

import numpy as np
import pytest
import torch

from posterior import UserError
from posterior.operators import AcousticWaves
from posterior.operators.waveform import Seismograms

FAMILY = AcousticWaves(step=1e-3, steps=400, every=1, slowest=1500, fastest=2500, shots=1)
SMALL = AcousticWaves(step=1.8e-3, steps=90, frequency=15.0, every=3, shots=2, slowest=1600, fastest=3000)
SHAPE = (1, 8, 10)


def green_in_time(times, distance, speed, frequency, finer=40):
    """Ricker's wavelet at a point, heard at a distance: convolved with H(t - r / c) / (2 pi sqrt(t^2 - r^2 / c^2))."""
    step = (times[1] - times[0]) / finer
    fine = (np.arange(len(times) * finer) + 0.5) * step
    past = fine**2 - (distance / speed) ** 2
    green = np.where(past > 0, 1 / (2 * math.pi * np.sqrt(np.abs(past))), 0)
    argument = (math.pi * (frequency * fine - 1.5)) ** 2
    wavelet = (1 - 2 * argument) * np.exp(-argument)
    return np.convolve(green, wavelet)[: len(fine)][::finer] * step


def test_a_homogeneous_medium_carries_greens_function():
    """Within 4 %: 2 % come back from the border, 1 % are the grid's."""
    operator = Seismograms((1, 20, 48), FAMILY)
    with torch.no_grad():
        heard = operator.forward(torch.zeros(1, 1, 20, 48))[0, 0].numpy()
    times = np.arange(400) * 1e-3
    source = int(np.abs(heard[:, :100]).max(axis=1).argmax())  # the loudest at first
    for pixels in (8, 16, 22):
        wanted = green_in_time(times, 10.0 * pixels, 2000.0, 12.0)
        assert np.linalg.norm(heard[source + pixels] - wanted) < 0.04 * np.linalg.norm(wanted)


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
