import math
from itertools import pairwise

import pytest
import torch

from posterior import Measurement, UserError
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution
from posterior.priors import LinearBetas
from posterior.samplers import (
    AdmissibleAnnealing,
    GeometricAnnealing,
    GeometricSigmas,
    KarrasSigmas,
    Level,
    ListedSigmas,
    NoAnnealing,
    PublishedAnnealing,
    QuadraticSigmas,
    RespacedSigmas,
)
from tests.peers import cases, golden


@pytest.fixture
def measurement():
    operator = SuperResolution(2).realise((1, 4, 4))
    return Measurement(torch.zeros(1, 1, 2, 2), operator, GaussianNoise(0.05))


def test_published_schedule_is_geometric_then_linear(measurement):
    levels = PublishedAnnealing(growth=0.009, num_levels=1000).levels(measurement, 1e-5)
    variances = [level.variance for level in levels]
    assert len(levels) == 1000
    assert variances[-1] == 0.05**2
    for above, below in pairwise(variances):
        assert above == pytest.approx(below + 0.009 * min(below, 1.0))
    assert variances[-1] * 1.009**100 == pytest.approx(variances[-101])
    assert variances[0] == pytest.approx(4.0, rel=0.02)  # 669 geometric levels, then 330 of 0.009
    assert [level.num_steps for level in levels[:2]] == [0, 1]


def test_steps_per_level_and_plain_langevin(measurement):
    assert [level.num_steps for level in PublishedAnnealing(0.1, 4, steps_per_level=3).levels(measurement, 1)] == [
        0,
        3,
        3,
        3,
    ]
    assert NoAnnealing(7).levels(measurement, 1) == [Level(0.05**2, 0), Level(0.05**2, 7)]


def test_admissible_schedule_keeps_the_theorys_inequalities(measurement):
    schedule = AdmissibleAnnealing(alpha=1.0, radius=2.0, accuracy=0.5, inverse_failure=2.0)
    step_size = 1e-2
    levels = schedule.levels(measurement, step_size)[::-1]  # upward, as the definition goes
    norm, m, d = float(measurement.operator.norm()), 4, 16
    assert levels[0].variance == 0.05**2
    assert levels[-1].variance >= (2.0 * norm / 0.5) ** 2 * d / 1.0
    growths = [above.variance / below.variance - 1 for below, above in pairwise(levels)]
    assert all(0 < g <= 1 for g in growths)
    assert growths == sorted(growths)  # ratios grow with the noise
    for g, level in zip(growths, levels, strict=False):
        time = m * g + math.log(2.0 / 0.5)
        assert g * norm**2 * math.sqrt(time**2 * m + time * 4.0) <= level.variance * (1 + 1e-9)
        assert level.num_steps == math.ceil(time / step_size - 1e-9)
        larger = 1.01 * g
        if larger < 1:
            time = m * larger + math.log(2.0 / 0.5)
            assert larger * norm**2 * math.sqrt(time**2 * m + time * 4.0) > level.variance
    assert levels[-1].num_steps == 0


def test_an_endless_admissible_schedule_is_refused(measurement):
    with pytest.raises(UserError, match="more than 50 levels"):
        AdmissibleAnnealing(alpha=1e-3, radius=100.0, max_levels=50).levels(measurement, 1e-3)


def test_respaced_levels_fall_to_zero_and_can_start_below():
    schedule, grid = RespacedSigmas(100), LinearBetas().sigmas
    sigmas = schedule.sigmas()
    assert len(sigmas) == 101
    assert sigmas[0] == grid[999]
    assert sigmas[-2:] == [grid[0], 0.0]
    assert all(a > b for a, b in pairwise(sigmas))
    below = schedule.below(0.3)
    assert below[0] == 0.3
    assert all(sigma in sigmas for sigma in below[1:])
    assert below[1] == max(sigma for sigma in sigmas if sigma < 0.3)


@pytest.mark.parametrize(
    "build",
    [
        lambda: PublishedAnnealing(growth=0.0),
        lambda: PublishedAnnealing(growth=float("nan")),
        lambda: RespacedSigmas("abc"),
        lambda: RespacedSigmas(0),
        lambda: PublishedAnnealing(num_levels=1),
        lambda: PublishedAnnealing(steps_per_level=0),
        lambda: NoAnnealing(0),
        lambda: AdmissibleAnnealing(alpha=0.0, radius=1.0),
        lambda: AdmissibleAnnealing(alpha=1.0, radius=1.0, accuracy=1.5),
    ],
)
def test_settings_out_of_range_are_refused(build):
    with pytest.raises(UserError):
        build()


def test_listed_levels_fall_to_zero():
    assert ListedSigmas([0.5, 0.1, 0.0]).below(0.3) == [0.3, 0.1, 0.0]
    assert ListedSigmas([0.0]).below(0.08) == [0.08, 0.0]
    for levels in ([], [0.1], [0.1, 0.2, 0.0], [0.1, 0.1, 0.0]):
        with pytest.raises(UserError, match="must fall strictly and end in 0"):
            ListedSigmas(levels)


def test_without_a_top_geometric_annealing_begins_where_y_tells_as_much_as_the_anchor(measurement):
    norm = measurement.operator.norm_bound()
    levels = GeometricAnnealing(5).levels(measurement, math.nan, anchor_sigma=0.3)
    assert levels[0].variance == pytest.approx((0.3 * norm) ** 2)
    assert levels[-1].variance == 0.05**2
    close = GeometricAnnealing(5).levels(measurement, math.nan, anchor_sigma=1e-3)  # y never tells as much
    assert all(level.variance == pytest.approx(0.05**2) for level in close)
    with pytest.raises(UserError, match="top, the highest variance, must be given"):
        GeometricAnnealing(5).levels(measurement, math.nan)


def test_geometric_sigmas_end_in_zero():
    assert GeometricSigmas(3, 4.0, 1.0).sigmas() == pytest.approx([4, 2, 1, 0])
    assert GeometricSigmas(3, 4.0, 1.0).below(1.5) == pytest.approx([1.5, 1, 0])
    for name, settings in (("num_levels", (1, 4.0, 1.0)), ("top", (3, 1.0, 1.0)), ("bottom", (3, 1.0, 0.0))):
        with pytest.raises(UserError, match=f"GeometricSigmas: {name} must be"):
            GeometricSigmas(*settings)


def test_karras_sigmas_are_even_in_their_seventh_root():
    roots = [level ** (1 / 7) for level in KarrasSigmas(5, 3.0**7, 1.0).sigmas()]
    assert roots == pytest.approx([3, 2.5, 2, 1.5, 1, 0])
    for name, settings in (("num_levels", (1, 4.0, 1.0)), ("top", (3, 1.0, 1.0)), ("bottom", (3, 1.0, 0.0))):
        with pytest.raises(UserError, match=f"KarrasSigmas: {name} must be"):
            KarrasSigmas(*settings)


@pytest.mark.parametrize("num_levels", [2, 12, 100, 250])
def test_quadratic_sigmas_fall_from_the_highest_level_to_the_lowest_and_0(num_levels):
    schedule, grid = QuadraticSigmas(num_levels), LinearBetas().sigmas
    sigmas = schedule.sigmas()
    assert len(sigmas) == num_levels + 1
    assert all(a > b for a, b in pairwise(sigmas))
    assert sigmas[0] == grid[999]
    assert sigmas[-2:] == [grid[0], 0.0]
    passed = [(1000 - t) ** 2 / 1000**2 for t in schedule.timesteps()]  # evenly, but for steps of whole numbers
    assert passed == pytest.approx([i / (num_levels - 1) for i in range(num_levels)], abs=2e-3)


def test_quadratic_sigmas_that_would_meet_are_refused():
    with pytest.raises(UserError, match="QuadraticSigmas: num_levels must be >= 2 and <= 250, got 251"):
        QuadraticSigmas(251)


FAMILIES = {
    "even in log": ("ddnm_plus", "ddnm_plus_L0", "ddrm", "ddrm_etab", "pigdm_noisy", "pigdm_pinv"),
    "even in sigma^(1/7)": ("daps", "pnpdm", "mcgdiff", "fps_smc_ve"),
    "variance preserving": (
        *("diffpir_grad", "diffpir_grad_xi", "diffpir_prox", "reddiff_const", "reddiff_linear", "fps_smc"),
        *("dps", "dps_ode", "lgd"),
    ),
}
"""Of levels, in InverseBench's golden runs."""


@pytest.mark.parametrize(
    ("family", "case"),
    [(family, case) for family, names in FAMILIES.items() for case in cases(*names)],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_inversebenchs_tables_are_those_of_its_formulas(family, case):
    """What the samplers' tests take from its runs: levels, scalings, and by how much a step moves and renoises."""
    run = golden(*case)
    count, sigma = len(run.arrays["factor"]), run.arrays["sigma"].double()
    top, bottom = float(run.arrays["sigma_max"]), float(sigma[-2])
    scale, slope, fall = torch.ones(count + 1).double(), torch.ones(count).double(), torch.zeros(count).double()
    if family == "even in log":
        found = torch.tensor([*GeometricSigmas(count, top, bottom).sigmas()[:-1], bottom]).double()
        time, slope = found**2, 1 / (2 * found[:-1])  # d sigma / d t
    elif family == "even in sigma^(1/7)":
        found = torch.tensor([*KarrasSigmas(count, top, bottom).sigmas()[:-1], sigma[-1]]).double()
        time = found
    else:
        time = 1 - torch.arange(count).double() / (count - 1) * (1 - 1e-3)
        last = (-0.1 + (0.01 + 4 * 9.95 * math.log(1 + 1e-4)) ** 0.5) / (2 * 9.95)  # where the level is 0.01
        time = torch.cat([time, torch.tensor([last]).double()])
        area, growth = 9.95 * time**2 + 0.1 * time, (19.9 * time + 0.1)[:-1]
        found, scale = torch.expm1(area).sqrt(), (-area / 2).exp()
        slope, fall = growth * area[:-1].exp() / (2 * found[:-1]), -growth / 2  # d log s / d t
    step = time[:-1] - time[1:]
    run.agrees(found, "sigma")
    run.agrees(scale, "scaling")
    run.agrees(time, "time")
    run.agrees((2 * scale[:-1] ** 2 * found[:-1] * slope * step).clamp_min(0), "factor")
    run.agrees(1 - fall * step, "scaling_factor")
    run.agrees(found[0] * scale[0], "sigma_max")
