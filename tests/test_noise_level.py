"""The noise level that is read off a measurement: right where it can be, with an honest interval, else refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posterior import NoiseLevel, UserError, estimate_sigma
from posterior.operators import GaussianSensing


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ramp(*shape):
    """A plane of brightness, which is no noise."""
    return torch.linspace(-0.8, 0.8, shape[-1]) + torch.linspace(-0.3, 0.1, shape[-2])[:, None] + torch.zeros(shape)


@pytest.mark.parametrize("sigma", [0.01, 0.2, 30.0])
@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (3, 64, 64), (64, 96)])
def test_planes_are_no_noise_and_the_scale_is_any(shape, sigma):
    """White noise has its level, within 5 standard errors of a median of that many, whatever plane is below it."""
    y = ramp(*shape) + sigma * normal(*shape)
    found = estimate_sigma(y)
    assert found.sigma / sigma == pytest.approx(1, abs=5 * 2 / y.numel() ** 0.5)
    assert found.low < found.sigma < found.high
    assert (found.high - found.low) / sigma < 8 * 2 / y.numel() ** 0.5
    doubled = estimate_sigma(2 * y - 1)  # from [0, 1] to [-1, 1]
    assert (doubled.sigma, doubled.low) == pytest.approx((2 * found.sigma, 2 * found.low), rel=1e-6)


def test_the_interval_holds_the_level_of_white_noise_19_times_in_20():
    """100 pictures of 64x64: 95 % is 95, 3 standard deviations below are 89; half as wide it would be 67 or so."""
    found = [estimate_sigma(normal(64, 64, seed=seed)) for seed in range(100)]
    assert sum(one.low <= 1 <= one.high for one in found) >= 89
    half = [(one.sigma + 0.5 * (one.low - one.sigma), one.sigma + 0.5 * (one.high - one.sigma)) for one in found]
    assert sum(low <= 1 <= high for low, high in half) < 89


def test_edges_move_it_little_and_upwards():
    """Squares of 8x8 pixels, black and white: a quarter of all differences see a corner."""
    squares = (torch.arange(64) // 8 % 2 * 2 - 1).double()
    y = squares[:, None] * squares + 0.1 * normal(2, 3, 64, 64)
    assert 0.1 < estimate_sigma(y).sigma < 0.15
    across = squares + 0.1 * normal(2, 3, 64, 64)  # stripes have no corners
    assert estimate_sigma(across).sigma == pytest.approx(0.1, rel=0.05)


def test_what_is_masked_or_cut_off_has_no_part_in_it():
    y, mask = ramp(3, 64, 64) + 0.1 * normal(3, 64, 64), torch.ones(64, 64)
    mask[:, 20:44] = 0
    for given in (mask, mask.bool().numpy(), mask.expand(3, 64, 64)):
        assert estimate_sigma(mask * y, given).sigma == pytest.approx(0.1, rel=0.05)
    spoilt = torch.where(mask > 0, y, 100 * normal(3, 64, 64, seed=1))
    assert estimate_sigma(spoilt, mask) == estimate_sigma(mask * y, mask)
    assert estimate_sigma(torch.where(mask > 0, y, torch.nan), mask) == estimate_sigma(mask * y, mask)
    assert estimate_sigma(y.clamp(-0.5, 0.5)).sigma == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("repeats", [2, 5])
def test_repeats_tell_it_under_any_operator(repeats):
    """With the exact interval, which holds 1 in 19 of 20: 200 sets, at least 181 (3 standard deviations)."""
    operator = GaussianSensing(64).realise((1, 16, 16), [torch.Generator().manual_seed(0)])
    clean = operator.forward(normal(1, 1, 16, 16).float()).double()
    held = 0
    for seed in range(200):
        found = estimate_sigma(clean + 0.3 * normal(repeats, *clean.shape[1:], seed=seed), repeats=True)
        held += found.low <= 0.3 <= found.high
    assert 181 <= held < 200
    assert found.sigma == pytest.approx(0.3, rel=0.3)


def test_numbers_that_lie_far_apart_are_no_rounding():
    """Few of them, and few repeats: the gaps between the numbers are none that rounding left."""
    y = torch.tensor([0.0, 10.0, 100.0]) + 0.1 * normal(3, 3)
    found = estimate_sigma(y, repeats=True)
    assert found.low < 0.1 < found.high
    steps = (100 * normal(1, 3, 64, 64) + 2 * normal(3, 3, 64, 64, seed=1)).round()  # finer than the noise
    assert estimate_sigma(steps, repeats=True).sigma == pytest.approx(2, rel=0.05)


def test_float32_arrays_of_either_library_give_the_same():
    y = normal(64, 64).float()
    assert estimate_sigma(y.numpy()) == estimate_sigma(y)
    told = estimate_sigma(y)
    assert str(told) == (
        f"{told.sigma:.4g} (95 %: {told.low:.4g} to {told.high:.4g}; "
        "median of differences, bootstrap over 16x16 blocks)"
    )
    assert isinstance(told, NoiseLevel)


NOISY = normal(3, 64, 64)


@pytest.mark.parametrize(
    ("y", "settings", "told"),
    [
        ([[0.0]], {}, "must be a tensor or array, got list"),
        (np.zeros((64, 64), np.uint8), {}, r"real floating-point numbers, got torch\.uint8: y / 127\.5 - 1"),
        (torch.fft.fft2(NOISY), {}, "take its real and its imaginary part"),
        (torch.where(NOISY > 3, torch.nan, NOISY), {}, r"NaN or infinite values, \d+ of 12288"),
        (normal(100), {}, r"must be pictures .*, got \(100,\); of other measurements it takes several of the same"),
        (normal(5, 1, 1000, 1), {}, r"must be pictures"),
        (normal(3, 8, 8), {}, "108 differences of neighbours .* it takes 400, in 4 blocks"),
        (NOISY, {"mask": torch.ones(32, 32)}, r"mask is \(32, 32\), y \(3, 64, 64\)"),
        (NOISY, {"mask": torch.zeros(64, 64)}, "0 differences of neighbours that are all measured"),
        (NOISY.clamp(-0.1, 0.1), {}, "differences of neighbours that are all measured and not cut off"),
        (NOISY * (NOISY[0] > 0.5), {}, r"a: 0 stands in 70% of y, .* if that is what is not measured, give a mask"),
        ((NOISY * (NOISY[0] > 0.5)).round(decimals=2), {}, r"0 stands in \d+% of y"),
        (ramp(64, 64).round(decimals=1), {}, "more than half of the differences are 0"),
        ((8 * ramp(3, 64, 64) + 0.3 * NOISY).round() / 8, {}, "or y is rounded to steps"),
        (normal(1, 3, 8, 8), {"repeats": True}, "must be .* 2 or more measurements, got"),
        (normal(8), {"repeats": True}, r"2 or more measurements, got \(8,\)"),
        (torch.ones(3, 8), {"repeats": True}, "the repeats are all the same"),
        (normal(3, 800) + torch.arange(3)[:, None], {"repeats": True}, "differ in their means by more than noise does"),
        (normal(3, 800) * (torch.arange(800) % 5 > 0), {"repeats": True}, r"0 stands in 20% of y.* y\[:, kept\]"),
        ((normal(1, 800) + 0.3 * normal(3, 800, seed=1)).clamp(-0.5, 3), {"repeats": True}, r"-0\.5 stands in \d+%"),
        ((9 * normal(1, 800) + 0.3 * normal(3, 800, seed=1)).round(), {"repeats": True}, "y is rounded to steps"),
        (NOISY, {"mask": "left"}, "mask must be a tensor or array, got str"),
        (normal(3, 800), {"repeats": True, "mask": torch.ones(800)}, r"mask is of pictures; .* y\[:, kept\]"),
    ],
)
def test_what_it_cannot_do_is_refused_in_a_line(y, settings, told):
    with pytest.raises(UserError, match=told) as caught:
        estimate_sigma(y, **settings)
    assert "\n" not in str(caught.value)
