"""Flows whose vorticity is known at every time, and what every solver must do."""

import math

import pytest
import torch

from posterior import UserError
from posterior.operators import LinearOperator, NavierStokes
from posterior.operators.navier_stokes import Flow

SIDE = 16
GRID = 2 * math.pi * torch.arange(SIDE, dtype=torch.float64) / SIDE
Y, X = torch.meshgrid(GRID, GRID, indexing="ij")


def flow(**settings):
    defaults = {"reynolds": 20.0, "time": 2.0, "steps": 40, "scale": 1.0, "stride": 1, "forced": False}
    return NavierStokes(**(defaults | settings)).realise((1, SIDE, SIDE)).to(torch.float64)


def smooth(seed=0, rows=1):
    """Random fields of a few waves, largest value 0.8."""
    noise = torch.randn(rows, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    waves = torch.fft.fftfreq(SIDE, 1 / SIDE)[:, None] ** 2 + torch.fft.rfftfreq(SIDE, 1 / SIDE) ** 2
    field = torch.fft.irfft2(torch.fft.rfft2(noise) * ((waves > 0) & (waves < 10)), s=(SIDE, SIDE))
    return 0.8 * field / field.abs().amax(dim=(1, 2, 3), keepdim=True)


@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 1), (0, 3)])
def test_taylor_and_greens_vortices_decay_as_they_should(across, down):
    """w = cos(m x) cos(n y) is steady but for its decay exp(-(m^2 + n^2) t / Re)."""
    start = torch.cos(across * X) * torch.cos(down * Y)
    wanted = start * math.exp(-(across**2 + down**2) * 2.0 / 20.0)
    torch.testing.assert_close(flow().forward(start[None, None])[0, 0], wanted, rtol=0, atol=1e-13)


def test_weak_waves_are_carried_by_a_shear():
    """w = cos y has u = -sin y. To a weak r = cos(3 x), whose v = sin(3 x) / 3, the flow does -u r_x - v w_y."""
    weak, time, shear = 1e-6, 1e-2, torch.cos(Y)
    found = flow(reynolds=1e9, time=time).forward((shear + weak * torch.cos(3 * X))[None, None])[0, 0]
    rate = torch.sin(Y) * -3 * torch.sin(3 * X) + torch.sin(3 * X) / 3 * torch.sin(Y)
    change = (found - shear - weak * torch.cos(3 * X)) / (weak * time)
    torch.testing.assert_close(change, rate, rtol=0, atol=0.02 * float(rate.abs().max()))


def test_waves_meet_in_pairs():
    """dw_k / dt = sum over p + q = k of (p_y q_x - p_x q_y) / p^2 w_p w_q, a pair at a time, of 24 waves."""
    half = [(across, down) for across in range(3) for down in range(-2, 3) if (across, down) > (0, 0)]
    generator = torch.Generator().manual_seed(5)
    sizes = torch.randn(len(half), dtype=torch.complex128, generator=generator).tolist()
    waves = dict(zip(half, sizes, strict=True))
    waves |= {(-across, -down): size.conjugate() for (across, down), size in waves.items()}

    def field(of_waves):
        return sum((size * torch.exp(1j * (p[0] * X + p[1] * Y))).real for p, size in of_waves.items())

    rates: dict[tuple[int, int], complex] = {}
    for p, one in waves.items():
        for q, other in waves.items():
            turn, k = p[1] * q[0] - p[0] * q[1], (p[0] + q[0], p[1] + q[1])
            rates[k] = rates.get(k, 0) + turn / (p[0] ** 2 + p[1] ** 2) * one * other
    start, h = field(waves)[None, None], 1e-3
    near, far = (flow(reynolds=1e9, time=time, steps=2).forward(start) - start for time in (h, 2 * h))
    wanted = field(rates)
    torch.testing.assert_close((4 * near - far)[0, 0] / (2 * h), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_an_inviscid_flow_keeps_energy_and_enstrophy():
    start, operator = smooth(), flow(reynolds=1e9, time=1.0, steps=100)
    end = operator.forward(start)
    waves = (torch.fft.fftfreq(SIDE, 1 / SIDE)[:, None] ** 2 + torch.fft.fftfreq(SIDE, 1 / SIDE) ** 2).clamp_min(1)
    energy = [(torch.fft.fft2(w).abs().square() / waves).sum() for w in (start, end)]
    assert float(energy[1] / energy[0]) == pytest.approx(1, abs=1e-5)
    assert float(end.square().sum() / start.square().sum()) == pytest.approx(1, abs=1e-5)
    assert (end - start).norm() > 0.1 * start.norm()


def test_steps_are_of_fourth_order():
    start = 5 * smooth()
    exact = flow(time=1.0, steps=160).forward(start)
    errors = [float((flow(time=1.0, steps=steps).forward(start) - exact).norm()) for steps in (10, 20)]
    assert 3.2 < math.log2(errors[0] / errors[1]) < 5


def test_a_force_drives_a_fluid_at_rest():
    """w grows towards -4 cos(4 y) Re / 16, as 1 - exp(-16 t / Re)."""
    found = flow(forced=True).forward(torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64))[0, 0]
    wanted = -4 * torch.cos(4 * Y) * (20 / 16) * (1 - math.exp(-16 * 2.0 / 20))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


def test_the_gradient_is_that_of_the_flow():
    """Through the checkpoints; against a difference quotient, and against all steps kept."""
    operator, x, direction = flow(steps=12, stride=2, scale=3.0), smooth(1, 2), smooth(2, 2)
    assert not isinstance(operator, LinearOperator)
    v = torch.randn(2, *operator.measurement_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    product, h = operator.vjp(x, v), 1e-5
    quotient = (operator.forward(x + h * direction) - operator.forward(x - h * direction)) / (2 * h)
    assert float((quotient * v).sum()) == pytest.approx(float((product * direction).sum()), rel=1e-7)
    torch.testing.assert_close(operator.vjp(x[1:], v[1:]), product[1:], rtol=1e-10, atol=1e-12)


def test_what_is_seen_is_every_other_point_in_the_images_units():
    x = smooth()
    every, some = (flow(stride=stride, scale=2.0).forward(x) for stride in (1, 3))
    assert torch.equal(every[..., ::3, ::3], some)
    torch.testing.assert_close(flow(scale=1.0).forward(2 * x) / 2, every)
    assert flow(stride=3).view(some).shape == x.shape


def test_steps_that_a_shear_of_full_scale_diverges_with_are_refused():
    """At the fewest steps allowed it stays what it is; with a sixth fewer noise of 1e-9 outgrows it."""
    noise = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    start = (torch.cos(X) + 1e-9 * noise)[None, None]
    settings = {"scale": 10.0, "time": 10.0, "reynolds": 1e9}
    with pytest.raises(UserError, match=r"16x16 image by 5 radians.* take at least 177 steps$") as caught:
        flow(steps=100, **settings)
    assert "\n" not in str(caught.value)
    steady = flow(steps=177, **settings).forward(start)
    torch.testing.assert_close(steady, start, rtol=0, atol=1e-4)
    hasty = Flow((1, SIDE, SIDE), NavierStokes(steps=150, stride=1, forced=False, **settings))
    grown = hasty.to(torch.float64).forward(start)
    assert not (grown - start).abs().max() < 1


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (lambda: NavierStokes(reynolds=0.0), "reynolds must be > 0"),
        (lambda: NavierStokes(steps=0), "steps must be >= 1"),
        (lambda: NavierStokes(stride=-1), "stride must be >= 1"),
        (lambda: NavierStokes().realise((3, 16, 16)), "must have 1 channel and sides of 8 at least"),
        (lambda: NavierStokes().realise((1, 4, 16)), r"got \(1, 4, 16\)"),
    ],
)
def test_what_makes_no_sense_is_one_line(family, message):
    with pytest.raises(UserError, match=message) as caught:
        family()
    assert "\n" not in str(caught.value)
