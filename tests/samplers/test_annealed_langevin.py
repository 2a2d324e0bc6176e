from itertools import pairwise

import pytest
import torch

from posterior import Measurement, Streams, UserError, stream
from posterior.noise import GaussianNoise
from posterior.operators import Dense, GaussianBlur, RandomInpainting, SuperResolution
from posterior.priors import GaussianMixturePrior
from posterior.priors.base import ClosedFormPrior
from posterior.samplers import (
    DPS,
    AdmissibleAnnealing,
    AnnealedLangevin,
    AnnealedMeasurement,
    ExactGaussian,
    Level,
    ListedSigmas,
    NoAnnealing,
    PublishedAnnealing,
    RespacedSigmas,
    ReverseDiffusion,
    Sampler,
)

POINT = (1, 1, 1)


def scalar_prior():
    """N(0, 1) on one pixel."""
    return GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, *POINT), torch.ones(1, 1, 1))


def scalar_measurement(y, sigma_y):
    return Measurement(y, Dense(torch.ones(1, 1), POINT), GaussianNoise(sigma_y))


def test_coupled_measurements_have_the_variances_and_independent_increments(pooled):
    rows = 100_000
    measured = scalar_measurement(torch.zeros(1, *POINT).expand(rows, -1, -1, -1), 0.1)

    rng, variances = pooled(rows), [4.0, 1.0, 0.5, 0.01]
    level = AnnealedMeasurement.top(measured, variances[0], rng)
    path = [level.current.y.flatten()]
    for variance in variances[1:]:
        level = level.lowered(variance, rng)
        assert level.current.likelihood.sigma_y == pytest.approx(variance**0.5)
        path.append(level.current.y.flatten())
    assert (path[-1] == 0).all()  # y_N is y
    increments = torch.stack([a - b for a, b in pairwise(path)])
    expected = torch.diag(torch.tensor([3.0, 0.5, 0.49]))
    scale = (expected.diagonal()[:, None] * expected.diagonal()).sqrt() * (2 / rows) ** 0.5
    assert ((torch.cov(increments) - expected) / scale).abs().max() < 5


@pytest.mark.parametrize(
    "family", [RandomInpainting(), SuperResolution(2), GaussianBlur(5, 1.0)], ids=lambda family: type(family).__name__
)
def test_algorithm_1_samples_the_posterior_of_a_gaussian_field(field, pooled, family):
    shape, count = (3, 8, 8), 500
    truth = field.sample_from(torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)))
    operator = family.realise(shape, [stream(0, "a", -1, "operator")])
    noise = torch.randn(1, *operator.measurement_shape, generator=torch.Generator().manual_seed(1))
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.3), noise)
    mean = ExactGaussian(tolerance=1e-6).mean(field, measurement)
    exact = ExactGaussian()(field, measurement.repeat(count), Streams(1, ["a"], count))
    langevin = AnnealedLangevin(
        0.004, schedule=PublishedAnnealing(0.03, 200, steps_per_level=10), reverse=ReverseDiffusion(RespacedSigmas(100))
    )
    samples = langevin(field, measurement.repeat(count), pooled(count))
    spread = exact.var(dim=0).mean().sqrt()
    error = (samples.mean(dim=0) - mean[0]).square().mean().sqrt()
    assert error < 2 * spread / count**0.5  # the floor is 1
    assert abs(float(samples.var(dim=0).mean().sqrt() / spread) - 1) < 0.05
    assert abs(float(measurement.repeat(count).relative_residual(samples).mean()) - 1) < 0.1


def test_the_admissible_schedule_samples_a_scalar_posterior(pooled):
    """Bias and variance at the end of Definition D.1's schedule, where the posterior is N(y / (1 + eta^2), ...)."""
    rows, eta2 = 4000, 0.25
    y = torch.full((rows, *POINT), 1.0)
    schedule = AdmissibleAnnealing(alpha=1.0, radius=1.0, accuracy=0.5, inverse_failure=2.0)
    measurement = scalar_measurement(y, eta2**0.5)
    start = pooled(rows).randn("start", POINT)
    samples = AnnealedLangevin(0.02, schedule=schedule).anneal(scalar_prior(), measurement, start, None, pooled(rows))
    variance = eta2 / (1 + eta2)
    assert abs(float(samples.mean()) - 1 / (1 + eta2)) < 5 * (variance / rows) ** 0.5
    assert abs(float(samples.var()) / variance - 1) < 5 * (2 / rows) ** 0.5 + 0.02 * 5  # and Euler-Maruyama


class PosteriorMean(Sampler):
    """x_hat = E[x | y] of the scalar problem."""

    def __call__(self, prior, measurement, rng, observe=None):
        return measurement.y / (1 + measurement.likelihood.sigma_y**2)


@pytest.mark.parametrize("anchor_term", [True, False])
def test_algorithm_3_uses_the_data_twice_unless_the_anchor_term_is_off(pooled, anchor_term):
    """With x_hat the posterior mean, the output variance is V (1 + 2 t) / (1 + t)^2, t = V / sigma^2."""
    rows, eta2, sigma = 20_000, 0.25, 0.5
    variance = eta2 / (1 + eta2)
    t = variance / sigma**2
    measurement = scalar_measurement(torch.full((rows, *POINT), 1.0), eta2**0.5)
    sampler = AnnealedLangevin(
        0.01,
        schedule=PublishedAnnealing(0.03, 150, steps_per_level=10),
        reverse=ReverseDiffusion(RespacedSigmas(200)),
        warm_start=PosteriorMean(),
        anchor_sigma=sigma,
        anchor_term=anchor_term,
    )
    samples = sampler(scalar_prior(), measurement, pooled(rows))
    expected = variance * ((1 + 2 * t) / (1 + t) ** 2 if anchor_term else 1.0)
    assert abs(float(samples.var()) / expected - 1) < 5 * (2 / rows) ** 0.5 + 0.04


def small_run(field, ids, **settings):
    shape = (3, 8, 8)
    operator = RandomInpainting().realise(shape, [stream(0, i, -1, "operator") for i in ids])
    truth = torch.stack([torch.randn(shape, generator=stream(0, i, 0, "truth")) for i in ids])
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.3), torch.zeros_like(truth))
    sampler = AnnealedLangevin(**{"step_size": 1e-3, "schedule": PublishedAnnealing(0.05, 100)} | settings)
    return sampler(field, measurement, Streams(0, ids))


def test_a_row_alone_equals_the_row_in_a_batch(field):
    """Stated tolerance of Langevin across batch sizes: 1e-4 absolute over 100 levels, warm start included."""
    settings = {
        "warm_start": DPS(RespacedSigmas(20)),
        "anchor_sigma": 0.5,
        "reverse": ReverseDiffusion(RespacedSigmas(100)),
    }
    together, alone = small_run(field, ["a", "b", "c"], **settings), small_run(field, ["b"], **settings)
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-4)


def test_cost_and_progress_of_algorithm_3(field):
    steps = []
    shape = (3, 8, 8)
    operator = SuperResolution(2).realise(shape)
    measurement = Measurement(torch.zeros(1, *operator.measurement_shape), operator, GaussianNoise(0.3))
    reverse = ReverseDiffusion(RespacedSigmas(100))
    sampler = AnnealedLangevin(
        1e-3,
        schedule=PublishedAnnealing(0.05, 30, steps_per_level=2),
        reverse=reverse,
        warm_start=DPS(RespacedSigmas(20)),
        anchor_sigma=0.5,
    )
    sampler(field, measurement, Streams(0, ["a"]), lambda stage, step, total, x: steps.append((stage, step, total)))
    descent = len(reverse.schedule.below(0.5)) - 1
    assert (field.cost.forward, field.cost.backward) == (20 + descent + 29 * 2, 20)
    assert steps[19] == ("DPS", 20, 20)
    assert steps[19 + descent] == ("reverse diffusion", descent, descent)
    assert steps[20 + descent : 22 + descent] == [("annealed Langevin, level 2/30", step, 58) for step in (1, 2)]
    assert steps[-1] == ("annealed Langevin, level 30/30", 58, 58)


def test_the_score_is_read_at_its_smoothing_level():
    read = []

    class Spy(ClosedFormPrior):
        sigma_min = 0.01

        def _score(self, x, sigma):
            read.append(sigma)
            return -x

    measurement = scalar_measurement(torch.zeros(1, *POINT), 1.0)
    for score_sigma, expected in [(None, 0.01), (0.08, 0.08)]:
        read.clear()
        langevin = AnnealedLangevin(1e-3, schedule=NoAnnealing(3), score_sigma=score_sigma)
        langevin.anneal(Spy(), measurement, torch.zeros(1, *POINT), None, Streams(0, ["a"]))
        assert read == [expected] * 3


def test_clip_is_the_last_word(field):
    assert small_run(field, ["a"], clip=True).abs().max() <= 1
    assert small_run(field, ["a"], clip=False).abs().max() > 1


def test_divergence_names_image_sample_and_stage(field):
    with pytest.raises(UserError, match=r"image (a|b), sample 0: NaN or infinite values in annealed Langevin"):
        small_run(field, ["a", "b"], step_size=100.0)


def test_the_admissible_schedule_of_an_image_does_not_see_its_batch(field):
    schedule = AdmissibleAnnealing(alpha=20.0, radius=0.5, accuracy=0.9, inverse_failure=1.1)
    settings = {"step_size": 5e-3, "schedule": schedule, "reverse": ReverseDiffusion(RespacedSigmas(20))}
    together, alone = small_run(field, ["a", "b", "c"], **settings), small_run(field, ["b"], **settings)
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("variances", "message"), [([1.0, 2.0, 0.09], "rises"), ([1.0, 0.08], "below sigma_y"), ([1.0, 0.1], "ends at")]
)
def test_a_schedule_that_does_not_fall_to_the_measurements_noise_is_refused(field, variances, message):
    class Wrong(NoAnnealing):
        def levels(self, measurement, step_size, anchor_sigma=None):
            return [Level(variance, 1) for variance in variances]

    with pytest.raises(UserError, match=message):
        small_run(field, ["a"], schedule=Wrong(1))


def test_levels_outside_the_priors_range_are_refused_before_anything_runs(field):
    field.sigma_min = 0.01
    for settings in [{"score_sigma": 0.001}, {"warm_start": DPS(RespacedSigmas(20)), "anchor_sigma": 0.005}]:
        with pytest.raises(UserError, match="outside"):
            small_run(field, ["a"], **settings)
    assert field.cost.forward == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": 0.0}, "step_size must be > 0"),
        ({"step_size": 1e-3, "warm_start": DPS()}, "needs anchor_sigma"),
        ({"step_size": 1e-3, "anchor_sigma": -0.3}, "anchor_sigma must be > 0"),
        ({"step_size": 1e-3, "score_sigma": -0.1}, "score_sigma must be >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        AnnealedLangevin(**settings)


def test_an_anchor_and_its_level_come_together(field):
    measurement, anchor, rng = (
        scalar_measurement(torch.zeros(1, *POINT), 1.0),
        torch.zeros(1, *POINT),
        Streams(0, ["a"]),
    )
    with pytest.raises(UserError, match="Algorithm 2 needs anchor_sigma"):
        AnnealedLangevin(1e-3).from_anchor(field, measurement, anchor, rng)
    with pytest.raises(UserError, match="an anchor needs anchor_sigma"):
        AnnealedLangevin(1e-3).anneal(field, measurement, anchor, anchor, rng)
    with pytest.raises(UserError, match="anchor_sigma needs a warm_start"):
        AnnealedLangevin(1e-3, anchor_sigma=0.3)(field, measurement, rng)


def test_the_ending_is_a_denoising_step_or_a_few_ancestral_ones(field):
    """From the score's level; with one level it is D(x, score_sigma) of what the chain without an ending gives."""
    measurement = Measurement(torch.zeros(2, 3, 4, 4), SuperResolution(4).realise((3, 16, 16)), GaussianNoise(0.1))
    settings = {"step_size": 1e-3, "schedule": PublishedAnnealing(0.1, 5), "score_sigma": 0.2}
    settings["reverse"] = ReverseDiffusion(RespacedSigmas(10))
    chain = AnnealedLangevin(**settings)(field, measurement, Streams(0, ["a", "b"]))
    once = AnnealedLangevin(**settings, ending=ReverseDiffusion(ListedSigmas([0.0])))
    torch.testing.assert_close(once(field, measurement, Streams(0, ["a", "b"])), field.denoise(chain, 0.2))
    slowly = AnnealedLangevin(**settings, ending=ReverseDiffusion(ListedSigmas([0.1, 0.05, 0.0])))
    field.cost.forward = 0
    x = slowly(field, measurement, Streams(0, ["a", "b"]))
    assert field.cost.forward == 2 * (10 + 4 + 3)
    assert (x - chain).abs().max() > 0.01


def test_an_ancestral_ending_undoes_the_smoothing(pooled):
    """N(0, 1) seen with noise: smoothed by s the chain has the variance of N(0, 1 + s^2)'s posterior; the ending, drawn
    from p(x | x_s), brings back that of p(x | y) up to the bias that `method.md` section 8 states."""
    rows, s2, eta2 = 100_000, 0.5, 1.0
    chain = AnnealedLangevin(
        5e-3,
        schedule=PublishedAnnealing(0.05, 40, 60),
        score_sigma=s2**0.5,
        ending=ReverseDiffusion(ListedSigmas([*torch.linspace(0.7, 0.02, 60).tolist(), 0.0])),
    )
    measurement = scalar_measurement(torch.full((rows, *POINT), 0.5), eta2**0.5)
    x = chain(scalar_prior(), measurement, pooled(rows))
    smoothed = 1 / (1 / (1 + s2) + 1 / eta2)
    gain = 1 / (1 + s2)  # x given x_s is N(gain x_s, s2 gain)
    assert float(x.mean()) == pytest.approx(gain * smoothed * 0.5 / eta2, abs=0.02)
    assert float(x.var()) == pytest.approx(gain**2 * smoothed + s2 * gain, rel=0.05)


def test_averaged_noise_has_no_bias_in_gaussian_directions_and_euler_maruyama_has(pooled):
    """Leimkuhler and Matthews' step: Var = 1 / L at every stable h; Euler-Maruyama's is 1 / (L (1 - h L / 2))."""
    rows, eta = 20_000, 0.5
    curvature = 1 + 1 / eta**2
    h = 0.6 * 2 / curvature
    measurement = scalar_measurement(torch.zeros(1, *POINT).expand(rows, -1, -1, -1), eta)
    for averaged, expected in ((False, 1 / curvature / (1 - h * curvature / 2)), (True, 1 / curvature)):
        sampler = AnnealedLangevin(h, averaged_noise=averaged, schedule=NoAnnealing(60))
        rng = pooled(rows)
        x = sampler.anneal(scalar_prior(), measurement, rng.randn("start", POINT), None, rng)
        assert float(x.var()) == pytest.approx(expected, rel=5 * (2 / rows) ** 0.5)
