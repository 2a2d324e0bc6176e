"""Visibilities against the EHT's released data and against Fourier sums that the test writes itself."""

import cmath
import math

import numpy as np
import pytest
import torch

from posterior import UserError, stream
from posterior.operators import EHTGains, EHTVisibilities, LinearOperator
from posterior.operators.interferometry import DAY, EHT_2017, SOURCE, coverage, pairs, thermal_noise

CODES = {"AA": "ALMA", "AP": "APEX", "AZ": "SMT", "JC": "JCMT", "LM": "LMT", "PV": "PV", "SM": "SMA"}
RELEASED = """
04.17638898 AA AP 245468.5781 -1581707.2500 0.00668962
04.17638898 AA LM 2296160768.0000 -3406346496.0000 0.00340977
04.17638898 AA PV -3129523456.0000 -5346145280.0000 0.00373233
04.17638898 AA JC 5017013248.0000 -4222189056.0000 0.00786565
04.17638898 AP AZ 2880824832.0000 -4606504448.0000 0.04530475
04.17638898 AZ JC 2135992064.0000 385906176.0000 0.09943345
04.17638898 AZ PV -6010638848.0000 -738021568.0000 0.04229451
04.17638898 AZ LM -584893440.0000 1201751040.0000 0.03447202
04.17638898 JC PV -8146510848.0000 -1123936768.0000 0.07625523
04.17638898 LM PV -5425715712.0000 -1939793408.0000 0.02813212
06.16527772 AA SM 6196845568.0000 -3579465216.0000 0.00443523
06.16527772 AP SM 6197048320.0000 -3577879040.0000 0.04294750
06.16527772 AP LM 2092700032.0000 -3153171200.0000 0.02564086
06.16527772 AZ SM 3150434816.0000 688830720.0000 0.05014084
06.16527772 JC SM -7593.8999 -118633.3906 0.07567970
06.16527772 LM SM 4104299008.0000 -424731648.0000 0.03219912
"""
"""Hours, stations, u and v in wavelengths, error in jansky, of 10 s each: EHT data product 2019-D01-01,
SR1_M87_2017_101_lo_hops_netcal_StokesI.txt (2017 April 11, 227.0707 GHz)."""
SHAPE = (1, 6, 8)
FEW = {"scans": 5, "seconds": 10.0}


def released():
    names = [station.name for station in EHT_2017]
    for line in RELEASED.split("\n")[1:-1]:
        hours, one, two, u, v, error = line.split()
        yield float(hours), names.index(CODES[one]), names.index(CODES[two]), float(u), float(v), float(error)


def baseline(one, two):
    """Which baseline, and the sign in which the data have it."""
    order = list(zip(*pairs(len(EHT_2017)), strict=True))
    return (order.index((one, two)), 1) if one < two else (order.index((two, one)), -1)


def test_baselines_are_those_of_the_released_data():
    for hours, one, two, u, v, _ in released():
        found_u, found_v, seen = coverage(EHT_2017, DAY, np.array([hours]), SOURCE)
        place, sign = baseline(one, two)
        gap = math.hypot(sign * found_u[0, place] - u, sign * found_v[0, place] - v)
        assert gap < 1e-3 * math.hypot(u, v)
        assert seen[0, place]


def test_thermal_noise_is_that_of_the_released_data():
    noise = thermal_noise(EHT_2017, 10.0)
    ratios = [noise[baseline(one, two)[0]] / error for _, one, two, _, _, error in released()]
    assert np.log(ratios).std() < 0.2
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(thermal_noise(EHT_2017, 40.0), noise / 2)


def test_the_source_sets_in_spain_before_it_does_in_hawaii():
    u, v, seen = coverage(EHT_2017, DAY, np.array([1.0, 7.5]), SOURCE)
    names = [station.name for station in EHT_2017]
    place, _ = baseline(names.index("ALMA"), names.index("PV"))
    pacific, _ = baseline(names.index("JCMT"), names.index("SMA"))
    assert seen[:, place].tolist() == [True, False]
    assert seen[:, pacific].tolist() == [False, True]
    assert np.hypot(u, v)[seen].max() < 2 * 6.4e6 / 1.32e-3  # no baseline is longer than the Earth is wide


def brightness(x, brightest, pixel):
    """Jansky of each pixel (H, W), of side ``pixel`` microarcseconds."""
    return brightest * 1e-3 * (x + 1) / 2 * pixel**2


def visibility(flux, u, v, pixel):
    """sum I exp(2 pi i (u l + v m)), l to the left and m upwards, a pixel at a time."""
    height, width = flux.shape
    side, total = pixel * math.pi / 180 / 3600 * 1e-6, 0j
    for row in range(height):
        for column in range(width):
            east, north = ((width - 1) / 2 - column) * side, ((height - 1) / 2 - row) * side
            total += float(flux[row, column]) * cmath.exp(2j * math.pi * (u * east + v * north))
    return total


def picture(seed=0, rows=2):
    return torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def streams(count):
    return [stream(0, f"image {n}", -1, "operator") for n in range(count)]


def test_visibilities_are_fourier_sums_in_units_of_thermal_noise():
    family = EHTVisibilities(field_of_view=80.0, brightness=0.5, **FEW)
    operator, x = family.realise(SHAPE).to(torch.float64), picture()
    y = torch.complex(*operator.forward(x).unbind(1))
    u, v, seen = family.observation
    noise, sigma_y = thermal_noise(EHT_2017, 10.0), family.thermal_sigma(SHAPE)
    grey = brightness(torch.zeros(6, 8), 0.5, 10.0)
    scans = [tuple(place) for place in np.argwhere(seen)[::7]]
    assert len(scans) > 5
    for scan, place in scans:
        at = u[scan, place], v[scan, place], 10.0
        wanted = visibility(brightness(x[1, 0], 0.5, 10.0), *at) - visibility(grey, *at)
        assert abs(complex(y[1, scan, place]) / sigma_y - wanted / noise[place]) < 1e-5 * abs(wanted) / noise[place]
    assert (y[:, ~torch.from_numpy(seen)] == 0).all()
    assert int(operator.num_measured()) == 2 * seen.sum()


def test_the_adjoint_is_the_transpose_to_the_last_digits():
    operator = EHTVisibilities(**FEW).realise(SHAPE).to(torch.float64)
    assert isinstance(operator, LinearOperator)
    x, generator = picture(1), torch.Generator().manual_seed(2)
    v = torch.randn(2, *operator.measurement_shape, generator=generator, dtype=torch.float64)
    y = operator.forward(x)
    assert abs((y * v).sum() - (x * operator.adjoint(v)).sum()) < 1e-12 * y.norm() * v.norm()
    assert float(operator.norm()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(operator.restrict(y), y, rtol=0, atol=0)
    back = operator.solve(x, 0.01)
    torch.testing.assert_close(operator.adjoint(operator.forward(back)) + 0.01 * back, x, rtol=1e-5, atol=1e-5)


def test_gains_multiply_visibilities_of_the_source_itself():
    calibrated = EHTVisibilities(**FEW).realise(SHAPE).to(torch.float64)
    operator, x = EHTGains(**FEW).realise(SHAPE, streams(2)).to(torch.float64), picture()
    wanted = torch.complex(*calibrated.forward(x + 1).unbind(1)) * torch.view_as_complex(operator.gains)
    torch.testing.assert_close(torch.complex(*operator.forward(x).unbind(1)), wanted, rtol=1e-12, atol=1e-15)
    gains = torch.view_as_complex(operator.gains)
    names = [station.name for station in EHT_2017]
    triangle = [baseline(names.index(a), names.index(b)) for a, b in (("ALMA", "LMT"), ("LMT", "PV"), ("PV", "ALMA"))]
    parts = [gains[..., place] if sign > 0 else gains[..., place].conj() for place, sign in triangle]
    assert (parts[0] * parts[1] * parts[2]).angle().abs().max() < 1e-5  # float32 gains
    assert gains.abs().log().std() == pytest.approx(0.1 * 2**0.5, rel=0.2)
    alone = EHTGains(**FEW).realise(SHAPE, streams(2)[1:])
    assert torch.equal(alone.gains, EHTGains(**FEW).realise(SHAPE, streams(2)).gains[1:])


def test_the_product_with_the_jacobian_is_exact():
    operator, x = EHTGains(**FEW).realise(SHAPE, streams(2)).to(torch.float64), picture().requires_grad_()
    y = operator.forward(x)
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (automatic,) = torch.autograd.grad(y, x, v)
    torch.testing.assert_close(operator.vjp(x.detach(), v), automatic, rtol=1e-12, atol=1e-14)


def test_views_are_pictures():
    for operator in (EHTVisibilities(**FEW).realise(SHAPE), EHTGains(**FEW).realise(SHAPE, streams(2))):
        view = operator.view(operator.forward(picture().float()))
        assert view.shape == (2, *SHAPE)
        assert view.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (lambda: EHTVisibilities(field_of_view=0.0), "EHTVisibilities: field_of_view must be > 0"),
        (lambda: EHTVisibilities(first=3.0, last=2.0), "last must be >= 3"),
        (lambda: EHTVisibilities(first=16.0, last=20.0), "no two stations see M87 from 16 to 20 h"),
        (lambda: EHTVisibilities().realise((3, 8, 8)), "EHTVisibilities: images must have 1 channel"),
        (lambda: EHTGains(spread=-0.1), "EHTGains: spread must be >= 0"),
        (lambda: EHTGains(first=12.0, last=14.0), "EHTGains: at most .* closure amplitudes need 6"),
    ],
)
def test_what_makes_no_sense_is_one_line(family, message):
    with pytest.raises(UserError, match=message) as caught:
        family()
    assert "\n" not in str(caught.value)
