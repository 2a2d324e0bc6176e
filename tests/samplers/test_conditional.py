"""The denoiser that is told y is the exact conditional mean of Gaussians, and the descent has their moments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.judge.command import of_settings
from benchmarks.judge.problems import chosen, two_modes
from posterior import Measurement, Streams, UserError, stream
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import Dense, MotionBlur, Operator, PhaseRetrieval
from posterior.priors import GaussianMixturePrior
from posterior.samplers import (
    ConditionalDenoiser,
    ConditionalDescent,
    GeometricSigmas,
    ListedSigmas,
    MixturePosterior,
)
from posterior.settings import read_settings

SHAPE, SEEN = (3, 2, 2), 5
POINT = (1, 1, 1)
CONFIG = Path(__file__).parents[2] / "configs" / "sampler" / "conditional.yaml"


def gaussian(added: float = 0.0) -> GaussianMixturePrior:
    """N(m, S) in 12 dimensions, correlated, standard deviations from 0.1 to 1; ``added`` to all variances."""
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator))
    variances = torch.logspace(-2, 0, 12) + added
    mean = 0.3 * torch.randn(1, *SHAPE, generator=generator)
    return GaussianMixturePrior.full(torch.ones(1), mean, ((turn * variances) @ turn.mT)[None])


def measured(rows: int, sigma_y: float = 0.1) -> Measurement:
    """5 numbers of each of ``rows`` images."""
    generator = torch.Generator().manual_seed(1)
    operator = Dense(torch.randn(SEEN, 12, generator=generator) / 12**0.5, SHAPE)
    y = operator.forward(gaussian().sample(rows, generator))
    return Measurement(y + sigma_y * torch.randn(y.shape, generator=generator), operator, GaussianNoise(sigma_y))


def noise(rows: int) -> Tensor:
    """Standard normal images."""
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(3))


def scalar(variance: float = 1.0) -> GaussianMixturePrior:
    """N(0, variance) on one pixel."""
    return GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, *POINT), variance * torch.ones(1, 1, 1))


def exact_mean(prior: GaussianMixturePrior, measurement: Measurement, x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x, y] by another road: x as an anchor, then the posterior in float64 with dense matrices."""
    rows = [measurement.rows(torch.tensor([row])) for row in range(len(x))]
    found = [MixturePosterior(prior.given_anchor(x[n], sigma), one).mean for n, one in enumerate(rows)]
    return torch.stack(found).float()


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_it_is_the_exact_conditional_mean_of_a_gaussian_and_errors_show(sigma):
    """With as many steps as y has numbers, within 1e-3 of the standard deviation that is left, at most sigma."""
    prior, measurement = gaussian(), measured(4)
    x = prior.sample(4, torch.Generator().manual_seed(2)) + sigma * noise(4)
    exact = exact_mean(prior, measurement, x, sigma)

    def error(told: ConditionalDenoiser, num_steps: int = SEEN) -> float:
        return float((told.denoise(x, sigma, num_steps) - exact).abs().max()) / min(sigma, 1.0)

    told = ConditionalDenoiser(prior, measurement)
    assert error(told) < 1e-3
    louder = replace(measurement, likelihood=GaussianNoise(0.13))
    faults = {
        "noise 1.3 times as large": error(replace(told, measurement=louder)),
        "another prior": error(replace(told, prior=gaussian(added=0.01))),
        "no steps": error(told, 0),
    }
    assert min(faults.values()) > 1e-2, faults


def test_steps_of_the_level_before_change_the_secants_of_a_gaussian_not_their_answer():
    told, x = ConditionalDenoiser(gaussian(), measured(4)), noise(4)
    found, steps = told.condition(x, 0.5, SEEN)
    again, _ = told.condition(x, 0.5, SEEN, [100 * step for step in steps])
    assert len(steps) == SEEN
    torch.testing.assert_close(again, found, rtol=1e-3, atol=1e-3)


def test_a_long_secant_sees_the_other_mode_and_a_short_one_does_not():
    """Modes at -1 and 1, y = 1, x at the wrong one: D = -1.04 goes to the right one if the secant leads across."""
    prior, sigma = two_modes(distance=2.0, width=0.2, numbers=2), 0.4
    first = Dense(torch.tensor([[1.0, 0.0]]), (1, 1, 2))
    told = ConditionalDenoiser(prior, Measurement(torch.ones(1, *POINT), first, GaussianNoise(0.1)))
    x = torch.tensor([-1.2, 0.0]).view(1, 1, 1, 2)
    exact = exact_mean(prior, told.measurement, x, sigma)[0, 0, 0, 0]
    long, short = (told.condition(x, sigma, 1, [torch.full((1, *POINT), step)])[0][0, 0, 0, 0] for step in (6.0, 0.0))
    assert abs(long - exact) < 0.01
    assert abs(short - exact) > 0.3


def test_without_steps_it_is_the_proximal_step_of_j_equal_to_one():
    prior, measurement, x = gaussian(), measured(4), noise(4)
    expected = measurement.proximal(prior.denoise(x, 0.5), 0.5)
    torch.testing.assert_close(ConditionalDenoiser(prior, measurement).denoise(x, 0.5, 0), expected)


def test_a_network_s_lowest_level_stays_in_its_images():
    """sigma_min = 0.3: what is denoised is p * N(0, 0.3^2 I), at every level above it."""
    prior, measurement, x = gaussian(), measured(4), noise(4)
    prior.sigma_min = 0.3
    told, wide = ConditionalDenoiser(prior, measurement), gaussian(added=0.09)
    for sigma in (0.003, 0.1, 2.0):
        torch.testing.assert_close(told.unconditioned(x, sigma), wide.denoise(x, sigma), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lowest", [0.0, 0.2])
@pytest.mark.parametrize("sigma_y", [0.1, 0.5])
def test_the_descent_has_the_moments_of_a_gaussian_posterior(pooled, sigma_y, lowest):
    """N(0, 1 + lowest^2), y = 1: mean and width within 1.3 % of the standard deviation (0.998, 200,000 samples)."""
    rows, precision = 20_000, 1 / (1 + lowest**2) + sigma_y**-2
    measurement = Measurement(torch.ones(rows, *POINT), Dense(torch.ones(1, 1), POINT), GaussianNoise(sigma_y))
    prior = scalar()
    prior.sigma_min = lowest
    sampler = ConditionalDescent()
    x = sampler(prior, measurement, pooled(rows))
    assert prior.cost.forward == 121 * rows
    assert prior.cost.backward == 0
    assert float(x.mean() - sigma_y**-2 / precision) * precision**0.5 == pytest.approx(0, abs=0.013)
    assert float(x.std()) * precision**0.5 == pytest.approx(1, abs=0.013)
    wrong = replace(measurement, likelihood=GaussianNoise(1.1 * sigma_y))
    assert float(sampler(prior, wrong, pooled(rows)).std()) * precision**0.5 > 1.05


def test_both_modes_of_a_mixture_have_their_widths_and_shares(pooled):
    """`two-modes` of the judge: y sees ten of twenty numbers and not which mode."""
    (problem,) = chosen(["two-modes"])
    (case,) = problem.cases(["case"], 0)
    rows = 4000
    x = ConditionalDescent()(problem.prior, case.measurement.repeat(rows), pooled(rows))
    exact = problem.exact(case, rows, 0)
    share = float((x.flatten(1)[:, 0] > 0).float().mean())
    assert share == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(x.flatten(1).std(dim=0), exact.flatten(1).std(dim=0), rtol=0.06, atol=0)


def test_golden_numbers():
    """One sample each of two images: changes of the algorithm or of its random numbers show."""
    measurement = measured(2)
    x = ConditionalDescent()(gaussian(), measurement, Streams(0, ["a", "b"]))
    torch.testing.assert_close(x[:, 0].flatten(1), GOLDEN, rtol=0, atol=2e-4)


GOLDEN = torch.tensor([[-0.0353, 0.3398, -0.1488, 1.0972], [-0.2317, -0.5126, 0.0080, 0.6287]])


def test_the_shipped_file_is_the_default_and_clips_pictures_only():
    contestant = of_settings("conditional", read_settings(CONFIG))
    assert contestant.made(chosen(["toon-inpainting"])[0]) == ConditionalDescent()
    long = of_settings("long", read_settings(CONFIG.with_name("conditional_long.yaml")))
    assert long.made(chosen(["ring"])[0]) == ConditionalDescent(calls=409)
    settings = read_settings(CONFIG)
    del settings["judge"]
    assert of_settings("x", settings).made(chosen(["ring"])[0]) == ConditionalDescent(clip_search=True)


def test_a_budget_of_calls_is_spent_on_the_search():
    for calls, cycles, levels in ((121, 1, 19), (121, 0, 24), (409, 1, 115), (409, 3, 105), (75, 1, 3), (123, 1, 19)):
        sampler = ConditionalDescent(calls=calls, cycles=cycles)
        assert len(sampler.search_levels()) == levels
        prior = gaussian()
        sampler(prior, measured(1), Streams(0, ["a"]))
        assert prior.cost.forward == 49 + 15 * cycles + 3 * levels
    assert ConditionalDescent().search_levels() == GeometricSigmas(19, 2.0, 0.7).sigmas()[:-1]
    for wrong, told in (
        ({"descent": ListedSigmas([0.0])}, "need a level above 0"),
        ({"search": ListedSigmas([0.0])}, "need a level above 0"),
        ({"turn": 1.0}, "turn 1 is not below the first level of the descent, 1"),
    ):
        with pytest.raises(UserError, match=told):
            ConditionalDescent(**wrong)
    with pytest.raises(UserError, match="calls must be at least 70"):
        ConditionalDescent(calls=69)


def test_cycles_widen_what_the_search_leaves_too_narrow(pooled):
    """Seen next to nothing of N(0, 1), the state at 1.0 lacks a third of its variance beyond the noise."""
    rows = 20_000
    measurement = Measurement(torch.zeros(rows, *POINT), Dense(torch.ones(1, 1), POINT), GaussianNoise(5.0))
    widths = [
        float(ConditionalDescent(cycles=cycles)(scalar(), measurement, pooled(rows)).std()) / (25 / 26) ** 0.5
        for cycles in (0, 1, 2)
    ]
    assert widths[0] < 0.93 < widths[1] < widths[2]
    assert widths[2] == pytest.approx(1, abs=0.02)


def test_a_picture_is_denoised_once_more(pooled):
    """N(0, 1) seen with sigma_min 0.5: z has the variance 1.25, D(z) 0.8 z."""
    prior, rows = scalar(), 50
    prior.sigma_min = 0.5
    measurement = Measurement(torch.ones(rows, *POINT), Dense(torch.ones(1, 1), POINT), GaussianNoise(0.5))
    z = ConditionalDescent()(prior, measurement, pooled(rows))
    picture = ConditionalDescent(final_denoising=True)(prior, measurement, pooled(rows))
    torch.testing.assert_close(picture, 0.8 * z)
    assert prior.cost.forward == (121 + 122) * rows


@pytest.mark.parametrize("lowest", [0.0, 0.2])
def test_from_a_level_it_samples_what_the_state_and_y_leave(pooled, lowest):
    """N(0, 1 + lowest^2) seen as x = 0.5 at t = 0.3 and as y = 1 with noise 0.2: a Gaussian, and y counts once."""
    rows, t, sigma_y = 20_000, 0.3, 0.2
    measurement = Measurement(torch.ones(rows, *POINT), Dense(torch.ones(1, 1), POINT), GaussianNoise(sigma_y))
    prior, rng = scalar(), pooled(rows)
    prior.sigma_min = lowest
    x, sigma = torch.full((rows, *POINT), 0.5), (t**2 + lowest**2) ** 0.5
    found = ConditionalDescent().from_level(prior, measurement, x, sigma, rng)
    precision = 1 / (1 + lowest**2) + t**-2 + sigma_y**-2
    assert float(found.mean()) == pytest.approx((0.5 / t**2 + 1 / sigma_y**2) / precision, abs=0.03 * precision**-0.5)
    assert float(found.std()) == pytest.approx(precision**-0.5, rel=0.03)
    assert prior.cost.forward == rows * (5 * 3 + 11 * 2)  # 0.3 and the levels below it, above and below 0.08
    assert torch.equal(ConditionalDescent().from_level(prior, measurement, x, lowest, rng), x)


def test_a_level_just_below_the_first_is_left_out():
    measurement = Measurement(torch.ones(1, *POINT), Dense(torch.ones(1, 1), POINT), GaussianNoise(0.2))
    for first, calls in ((1.01, 3 + 2), (1.3, 3 + 3 + 2)):  # and the descent's levels, 1.0 and 0.05
        prior = scalar()
        sampler = ConditionalDescent(descent=ListedSigmas([1.0, 0.05, 0.0]))
        sampler.from_level(prior, measurement, torch.ones(1, *POINT), first, Streams(0, ["a"]))
        assert prior.cost.forward == calls


def test_levels_outside_the_priors_range_are_refused_before_any_call():
    prior = gaussian()
    prior.sigma_max = 2.0
    with pytest.raises(UserError, match="outside"):
        ConditionalDescent(search=GeometricSigmas(3, 3.0, 0.5))(prior, measured(1), Streams(0, ["a"]))
    assert prior.cost.forward == 0


GRID = torch.linspace(-3, 3, 20_001, dtype=torch.float64)


def moments(log_density: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of a density on `GRID`."""
    weights = log_density.softmax(dim=0)
    mean = (weights * GRID).sum()
    return float(mean), float((weights * (GRID - mean) ** 2).sum().sqrt())


def of_noisy_cubes(y: float, sigma_y: float) -> Tensor:
    """log p(x | y) without its constant: x ~ N(0, 1), y = x + x^3 / 2 + sigma_y n."""
    return -(GRID**2) / 2 - (y - GRID - GRID**3 / 2) ** 2 / (2 * sigma_y**2)


def of_photons(count: int, likelihood: PoissonNoise) -> Tensor:
    """The same for x ~ N(0, 0.3^2) and a number of photons."""
    mean = likelihood.photons * ((GRID + 1) / 2).clamp(1e-9, 1)
    return -(GRID**2) / (2 * 0.09) + count * mean.log() - mean


class Cubed(Operator):
    """x + x^3 / 2, pixel by pixel."""

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def forward(self, x: Tensor) -> Tensor:
        return x + x**3 / 2


def test_an_operator_that_is_not_linear(pooled):
    """Against the posterior on a grid: within 0.2 of its standard deviation; a linear model misses it by 5."""
    rows = 20_000
    for y, sigma_y in ((0.3, 0.2), (1.0, 0.5), (2.0, 0.2)):
        mean, width = moments(of_noisy_cubes(y, sigma_y))
        measurement = Measurement(torch.full((rows, *POINT), y), Cubed(POINT), GaussianNoise(sigma_y))
        x = ConditionalDescent()(scalar(), measurement, pooled(rows))
        assert abs(float(x.mean()) - mean) < 0.2 * width
        assert float(x.std()) / width == pytest.approx(1, abs=0.06)
    linear = replace(measurement, operator=Dense(torch.ones(1, 1), POINT))
    assert float(ConditionalDescent()(scalar(), linear, pooled(rows)).mean()) - mean > 5 * width


@pytest.mark.parametrize(("photons", "far"), [(50, 0.12), (200, 0.08)])
def test_photon_noise_has_the_variance_of_the_picture(pooled, photons, far):
    """Against the posterior under the law of photon counts, which is the more skewed the fewer they are."""
    rows, likelihood = 20_000, PoissonNoise(photons / 255)
    widths = []
    for count in (photons // 5, 7 * photons // 10):
        mean, width = moments(of_photons(count, likelihood))
        y = likelihood.measured(torch.full((rows, *POINT), float(count)))
        measurement = Measurement(y, Dense(torch.ones(1, 1), POINT), likelihood)
        x = ConditionalDescent()(scalar(0.09), measurement, pooled(rows))
        assert abs(float(x.mean()) - mean) < far * width
        assert float(x.std()) / width == pytest.approx(1, abs=far)
        widths.append(width)
    assert widths[1] > 1.15 * widths[0]


@pytest.mark.parametrize("family", [PhaseRetrieval(), MotionBlur(5)])
def test_any_operator_under_any_noise_gives_finite_images(family):
    shape = (3, 8, 8)
    operator = family.realise(shape, [stream(0, "a", -1, "operator")])
    likelihood = GaussianNoise(0.1) if isinstance(family, PhaseRetrieval) else PoissonNoise()
    prior = GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, *shape), 0.1 * torch.eye(192)[None])
    truth = prior.sample(1, torch.Generator().manual_seed(0)).clamp(-1, 1)
    noise = torch.randn(1, *operator.measurement_shape, generator=torch.Generator().manual_seed(1))
    measurement = Measurement.simulate(truth, operator, likelihood, noise)
    x = ConditionalDescent()(prior, measurement, Streams(0, ["a"]))
    assert float(measurement.relative_residual(x)) < 1.5
    assert prior.cost.forward == 121
