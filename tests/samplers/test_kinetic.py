"""Second-order dynamics: the same targets as the first order's, at a fraction of the calls."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.truth.problems import random_mixture
from posterior import Measurement, Streams, UserError, stream
from posterior.metrics.distribution import sliced_wasserstein, sliced_wasserstein_floor, std_ratio
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import Dense, GaussianBlur, PhaseRetrieval, RandomInpainting
from posterior.priors import GaussianMixturePrior
from posterior.samplers import (
    DPS,
    AdmissibleAnnealing,
    AnnealedLangevin,
    ConditionalDescent,
    ExactGaussian,
    GeometricAnnealing,
    KineticLangevin,
    ListedSigmas,
    MixturePosterior,
    NoAnnealing,
    ProximalDenoising,
    RespacedSigmas,
    ReverseDiffusion,
)

POINT = (1, 1, 1)


def scalar_prior():
    """N(0, 1) on one pixel."""
    return GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, *POINT), torch.ones(1, 1, 1))


def test_the_gaussian_posterior_is_reached_in_mean_and_variance(pooled):
    """N(0, 1), y = 1 with noise 0.5: N(0.8, 0.2). BAOAB has the positions of a Gaussian exactly, whatever the step."""
    rows = 40_000
    measurement = Measurement(torch.ones(rows, *POINT), Dense(torch.ones(1, 1), POINT), GaussianNoise(0.5))
    sampler = KineticLangevin(schedule=NoAnnealing(60), step_fraction=0.7, friction=2.0)
    prior = scalar_prior()
    x = sampler.anneal(prior, measurement, torch.zeros(rows, *POINT), None, pooled(rows))
    assert float(x.mean()) == pytest.approx(0.8, abs=5 * (0.2 / rows) ** 0.5)
    assert float(x.var()) == pytest.approx(0.2, rel=5 * (2 / rows) ** 0.5)
    assert prior.cost.forward == 61 * rows  # one call a step, and one to begin with


def test_60_calls_reach_the_floor_and_are_nearer_than_the_first_order(pooled):
    generator = torch.Generator().manual_seed(0)
    prior, sigma_y, anchor_sigma, count = random_mixture(6, generator), 0.1, 0.3, 400
    operator = Dense(torch.randn(8, 32, generator=generator) / 32**0.5, (2, 4, 4))
    truth = prior.sample(1, generator)
    noise = torch.randn(1, 8, 1, 1, generator=generator)
    one = Measurement.simulate(truth, operator, GaussianNoise(sigma_y), noise)
    anchor = truth + anchor_sigma * torch.randn(truth.shape, generator=generator)
    posterior = MixturePosterior(prior.given_anchor(anchor[0], anchor_sigma), one)
    sets = [posterior.sample(count, generator) for _ in range(20)]
    reverse = ReverseDiffusion(RespacedSigmas(100))
    schedule = GeometricAnnealing(61, top=1.0)
    kinetic = KineticLangevin(schedule=schedule, reverse=reverse, anchor_sigma=anchor_sigma)
    first = AnnealedLangevin(2e-3, schedule=schedule, reverse=reverse, anchor_sigma=anchor_sigma)
    ratios = []
    for sampler in (kinetic, first):
        anchors = anchor.expand(count, -1, -1, -1)
        samples = sampler.from_anchor(prior, one.repeat(count), anchors, pooled(count))
        distance = sum(sliced_wasserstein(samples, exact) for exact in sets) / len(sets)
        ratios.append(distance / sliced_wasserstein_floor(sets)[0])
        if sampler is kinetic:
            assert std_ratio(samples, torch.cat(sets)) == pytest.approx(1, abs=0.05)
    assert ratios[0] < 1.2
    assert ratios[1] > ratios[0]


@pytest.mark.parametrize(
    ("told", "ending", "mean", "variance"),
    [
        (False, ReverseDiffusion(ListedSigmas([0.0])), 1 / 3, 1 / 150),
        (False, ConditionalDescent(), 5 / 9, 11 / 675),
        (True, ConditionalDescent(), 1 / 2, 1 / 50),
    ],
    ids=["x_s taken for x, denoised", "x_s taken for x", "the score and the ending are told y"],
)
@pytest.mark.parametrize("first_order", [False, True])
def test_of_a_score_read_above_0_only_the_mended_composition_has_the_posterior(
    pooled, first_order, told, ending, mean, variance
):
    """x ~ N(0, c), y = x + N(0, v), c = v = s^2 = 0.04: N(y / 2, 1 / 50). By hand, docs/method.md section 8."""
    rows, c, y = 8000, 0.04, 0.3
    prior = GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, *POINT), c * torch.ones(1, 1, 1))
    measurement = Measurement(torch.full((rows, *POINT), y), Dense(torch.ones(1, 1), POINT), GaussianNoise(c**0.5))
    settings = {"score_sigma": c**0.5, "conditional_score": told, "ending": ending, "schedule": NoAnnealing(40)}
    if first_order:
        sampler = AnnealedLangevin(0.02, averaged_noise=True, **settings)
    else:
        sampler = KineticLangevin(step_fraction=0.7, **settings)
    x = sampler.anneal(prior, measurement, torch.zeros(rows, *POINT), None, pooled(rows))
    assert float(x.mean()) == pytest.approx(mean * y, abs=5 * (variance / rows) ** 0.5)
    assert float(x.var()) == pytest.approx(variance, rel=5 * (2 / rows) ** 0.5)


@pytest.mark.parametrize("first_order", [False, True])
def test_a_conditional_score_takes_an_anchor_for_one_of_x(pooled, first_order):
    """x ~ N(0, c), y = x + N(0, v), x0 = x + N(0, v): N((y + x0) / 3, c / 3) for c = v = s^2 = 0.04, by hand.

    With x_s taken for x in the anchor's term the ending would see x0 twice, and give another mean and variance.
    """
    rows, c, y, x0 = 8000, 0.04, 0.3, -0.1
    prior = GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, *POINT), c * torch.ones(1, 1, 1))
    measurement = Measurement(torch.full((rows, *POINT), y), Dense(torch.ones(1, 1), POINT), GaussianNoise(c**0.5))
    settings = {
        "schedule": NoAnnealing(40),
        "score_sigma": c**0.5,
        "conditional_score": True,
        "ending": ConditionalDescent(),
        "anchor_sigma": c**0.5,
        "reverse": None,
    }
    if first_order:
        sampler = AnnealedLangevin(0.02, averaged_noise=True, **settings)
    else:
        sampler = KineticLangevin(step_fraction=0.7, **settings)
    x = sampler.from_anchor(prior, measurement, torch.full((rows, *POINT), x0), pooled(rows))
    assert float(x.mean()) == pytest.approx((y + x0) / 3, abs=5 * (c / 3 / rows) ** 0.5)
    assert float(x.var()) == pytest.approx(c / 3, rel=5 * (2 / rows) ** 0.5)


def test_an_ending_that_has_nothing_to_do_is_refused():
    """Read at the prior's own level the score leaves it nothing: the chain's last state would come out, silently."""
    measurement = Measurement(torch.ones(1, *POINT), Dense(torch.ones(1, 1), POINT), GaussianNoise(0.5))
    reverse, prior = ReverseDiffusion(RespacedSigmas(10)), scalar_prior()
    for ending, level in ((ConditionalDescent(), "the prior's 0"), (ReverseDiffusion(ListedSigmas([0.0])), "0")):
        sampler = KineticLangevin(schedule=NoAnnealing(3), reverse=reverse, ending=ending)
        with pytest.raises(UserError, match=f"{type(ending).__name__} needs a score_sigma above {level}$"):
            sampler(prior, measurement, Streams(0, ["a"]))
    assert prior.cost.forward == 0


def test_a_conditional_score_takes_two_calls_and_has_its_own_curvature():
    measurement = Measurement(torch.ones(2, *POINT), Dense(2 * torch.ones(1, 1), POINT), GaussianNoise(0.5))
    prior, rng = scalar_prior(), Streams(0, ["a", "b"])
    settings = {"schedule": NoAnnealing(3), "conditional_score": True}
    sampler = KineticLangevin(step_fraction=0.5, score_sigma=0.2, **settings)
    sampler.anneal(prior, measurement, torch.zeros(2, *POINT), None, rng)
    assert prior.cost.forward == 2 * 2 * (1 + 3)
    ((target, _),) = sampler.targets(prior, measurement, sampler.levels(measurement), None, rng)
    assert sampler.step(target, 2.0) == pytest.approx(0.2)  # 1 / s^2, however exact y is
    amplitudes = PhaseRetrieval().realise(POINT)  # not linear: no bound on it is needed
    sampler.check(prior, Measurement(torch.ones(1, *amplitudes.measurement_shape), amplitudes, GaussianNoise(0.5)))
    with pytest.raises(UserError, match="KineticLangevin: conditional_score needs a score_sigma above the prior's 0"):
        KineticLangevin(reverse=ReverseDiffusion(RespacedSigmas(10)), **settings)(prior, measurement, rng)
    assert prior.cost.forward == 2 * 2 * (1 + 3)  # before the first call


def test_the_step_follows_the_curvature_of_each_level():
    """h = fraction * 2 / sqrt(1 / s^2 + ||A||^2 / v + 1 / sigma^2), s falling with the noise."""
    prior = scalar_prior()
    measurement = Measurement(torch.ones(2, *POINT), Dense(2 * torch.ones(1, 1), POINT), GaussianNoise(0.5))
    sampler = KineticLangevin(
        schedule=GeometricAnnealing(3, top=4.0),
        step_fraction=0.5,
        anchor_sigma=0.5,
        score_sigma=0.1,
        score_sigma_top=0.4,
    )
    levels, rng = sampler.levels(measurement), Streams(0, ["a", "b"])
    targets = list(sampler.targets(prior, measurement, levels, torch.zeros(2, *POINT), rng))
    assert [num_steps for _, num_steps in targets] == [1, 1]
    (middle, _), (last, _) = targets
    assert middle.score_sigma == pytest.approx(0.2)  # half way in the log, as the noise is
    assert last.score_sigma == pytest.approx(0.1)
    assert middle.measurement.likelihood.sigma_y == pytest.approx(1.0)
    assert sampler.step(last, 2.0) == pytest.approx(1 / math.sqrt(1 / 1.01 + 4 / 0.25 + 4))


def test_photon_noise_has_a_step_for_each_image():
    measurement = Measurement.simulate(
        torch.tensor([-0.9, 0.9]).view(2, *POINT),
        Dense(torch.ones(1, 1), POINT),
        PoissonNoise(1.0),
        torch.zeros(2, *POINT),
    )
    sampler = KineticLangevin(schedule=NoAnnealing(2))
    (target, _), *_ = sampler.targets(
        scalar_prior(), measurement, sampler.levels(measurement), None, Streams(0, ["a", "b"])
    )
    h = sampler.step(target, 1.0)
    assert h.shape == (2, 1, 1, 1)
    assert h[0] < h[1]  # the dark image has less noise


def test_a_batch_changes_nothing(field):
    shape, ids = (3, 12, 12), ["a", "b", "c"]
    streams = [stream(0, i, 0, "operator") for i in ids]
    operator = RandomInpainting().realise(shape, streams)
    truth = field.sample_from(Streams(0, ids).randn("truth", shape))
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.05), Streams(0, ids).randn("noise", shape))
    sampler = KineticLangevin(
        schedule=GeometricAnnealing(10, top=5.0),
        warm_start=ProximalDenoising(RespacedSigmas(10), clip_denoised=False),
        reverse=ReverseDiffusion(RespacedSigmas(20)),
        anchor_sigma=0.3,
        score_sigma=0.05,
        score_sigma_top=0.2,
        ending=ReverseDiffusion(ListedSigmas([0.0])),
    )
    together = sampler(field, measurement, Streams(0, ids))
    alone = sampler(field, measurement.rows(torch.tensor([2])), Streams(0, ["c"]))
    torch.testing.assert_close(together[2:], alone, rtol=0, atol=1e-4)


def test_the_score_level_falls_though_the_noise_does_not():
    """A measurement so weak that annealing begins at its own noise."""
    measurement = Measurement(torch.ones(1, *POINT), Dense(0.1 * torch.ones(1, 1), POINT), GaussianNoise(0.5))
    settings = {"anchor_sigma": 0.4, "score_sigma": 0.1, "score_sigma_top": 0.4}
    sampler = KineticLangevin(schedule=GeometricAnnealing(3), **settings)
    levels = sampler.levels(measurement)
    targets = list(sampler.targets(scalar_prior(), measurement, levels, None, Streams(0, ["a"])))
    assert [target.measurement.likelihood.sigma_y for target, _ in targets] == pytest.approx([0.5, 0.5])
    assert [target.score_sigma for target, _ in targets] == pytest.approx([0.2, 0.1])


def test_without_reverse_diffusion_the_chain_starts_at_the_anchor(field):
    shape, ids = (3, 12, 12), ["a"]
    operator = GaussianBlur(5, 1.0).realise(shape)
    measurement = Measurement(Streams(0, ids).randn("y", operator.measurement_shape), operator, GaussianNoise(0.05))
    anchor, started = Streams(0, ids).randn("anchor", shape), []
    sampler = KineticLangevin(
        1e-6, schedule=GeometricAnnealing(2), reverse=None, anchor_sigma=0.3, score_sigma=0.1, score_sigma_top=0.3
    )
    sampler.from_anchor(field, measurement, anchor, Streams(0, ids), lambda *state: started.append(state[-1]))
    torch.testing.assert_close(started[0], anchor, rtol=0, atol=1e-4)
    assert field.cost.forward == 2


def test_bad_settings_are_refused(field):
    with pytest.raises(UserError, match="starts at an anchor, and needs anchor_sigma"):
        KineticLangevin(reverse=None)
    for settings in ({"step_fraction": 1.0}, {"friction": -1.0}, {"score_sigma_top": 0.1}, {"score_sigma": -1.0}):
        with pytest.raises(UserError, match="KineticLangevin"):
            KineticLangevin(**settings)
    with pytest.raises(UserError, match="not above it"):
        KineticLangevin(score_sigma=0.2, score_sigma_top=0.1)
    shape = (3, 8, 8)
    phase = PhaseRetrieval().realise(shape)
    measurement = Measurement(torch.ones(1, *phase.measurement_shape), phase, GaussianNoise(0.05))
    rng, x = Streams(0, ["a"]), torch.zeros(1, *shape)
    with pytest.raises(UserError, match="FourierAmplitude is not linear, give operator_norm"):
        KineticLangevin(schedule=NoAnnealing(1)).anneal(field, measurement, x, None, rng)
    assert torch.isfinite(
        KineticLangevin(schedule=NoAnnealing(1), operator_norm=1.0).anneal(field, measurement, x + 0.1, None, rng)
    ).all()
    with pytest.raises(UserError, match="needs a linear operator"):
        ProximalDenoising()(field, measurement, rng)
    warm = KineticLangevin(warm_start=DPS(), anchor_sigma=0.3)
    calls = field.cost.forward
    with pytest.raises(UserError, match="give operator_norm"):
        warm(field, measurement, rng)
    assert field.cost.forward == calls  # not after the warm start
    admissible = KineticLangevin(schedule=AdmissibleAnnealing(1.0, 1.0), operator_norm=1.0)
    with pytest.raises(UserError, match="first-order dynamics"):
        admissible.anneal(field, measurement, x, None, rng)
    assert field.cost.forward == 2  # of the finite chain
    with pytest.raises(UserError, match="lies below sigma_y"):
        GeometricAnnealing(3, top=1e-3).levels(measurement, 0.1)
    with pytest.raises(UserError, match="num_levels must be >= 2"):
        GeometricAnnealing(1)


def test_geometric_levels_end_at_the_measurements_own():
    measurement = Measurement(torch.ones(1, *POINT), Dense(torch.ones(1, 1), POINT), GaussianNoise(0.1))
    top, *levels = GeometricAnnealing(4, top=10.0, steps_per_level=3).levels(measurement, math.nan)
    assert (top.variance, top.num_steps) == (10.0, 0)
    assert [level.variance for level in levels] == pytest.approx([1.0, 0.1, 0.01])
    assert levels[-1].variance == 0.1**2
    assert [level.num_steps for level in levels] == [3, 3, 3]


def test_proximal_denoising_ends_near_the_posterior_mean(field):
    """On a Gaussian field: nearer to the exact mean than DPS with as many calls, its residual near 1."""
    shape, ids = (3, 16, 16), [f"image {n}" for n in range(4)]
    operator = GaussianBlur(5, 1.0).realise(shape)
    truth = field.sample_from(Streams(0, ids).randn("truth", shape))
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.05), Streams(0, ids).randn("noise", shape))
    mean = ExactGaussian().mean(field, measurement)
    field.cost.forward = 0
    start = ProximalDenoising(RespacedSigmas(30), clip_denoised=False)(field, measurement, Streams(0, ids))
    assert field.cost.forward == 30 * len(ids)
    assert field.cost.backward == 0
    dps = DPS(RespacedSigmas(30), scale=0.3, clip_denoised=False)(field, measurement, Streams(0, ids))
    assert (start - mean).norm() < 0.5 * (dps - mean).norm()
    assert measurement.relative_residual(start).max() < 1.2


def test_one_step_through_the_denoisers_jacobian_is_exact_for_one_measured_number():
    """On a Gaussian: x0 given x and y has the mean that linear algebra gives, by two forward calls."""
    generator = torch.Generator().manual_seed(0)
    root, direction = torch.randn(6, 6, generator=generator), torch.randn(1, 6, generator=generator)
    covariance, mean, sigma, sigma_y = root @ root.T / 6, torch.arange(6.0) / 6, 0.8, 0.1
    prior = GaussianMixturePrior.full(torch.ones(1), mean.view(1, 6, 1, 1), covariance[None])
    x, y = torch.randn(3, 6, 1, 1, generator=generator), torch.randn(3, 1, 1, 1, generator=generator)
    measurement = Measurement(y, Dense(direction, (6, 1, 1)), GaussianNoise(sigma_y))
    sampler = ProximalDenoising(clip_denoised=False, covariance="jacobian")
    found = sampler.correlated(prior, measurement, x, prior.denoise(x, sigma), sigma, most=1e6).flatten(1)
    precision = torch.linalg.inv(covariance) + torch.eye(6) / sigma**2 + direction.T @ direction / sigma_y**2
    pulled = torch.linalg.inv(covariance) @ mean + x.flatten(1) / sigma**2 + y.flatten(1) @ direction / sigma_y**2
    torch.testing.assert_close(found, torch.linalg.solve(precision, pulled, left=False), rtol=1e-3, atol=1e-3)


def test_correlations_bring_a_start_to_the_right_mode():
    """Two modes far apart, y seen through a pinhole: with the identity a start often ends in the wrong one."""
    means = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).view(2, 2, 1, 1).repeat(1, 8, 1, 1)
    size = means[0].numel()
    prior = GaussianMixturePrior.full(torch.ones(2) / 2, means, 0.01 * torch.eye(size).repeat(2, 1, 1))
    rows, ids = 64, [f"image {n}" for n in range(64)]
    operator = Dense(torch.eye(size)[:1] * 0.2, means.shape[1:])
    measurement = Measurement(torch.full((rows, 1, 1, 1), 0.2), operator, GaussianNoise(0.02))
    shares = {}
    for covariance, calls in (("identity", 1), ("jacobian", 2)):
        start = ProximalDenoising(RespacedSigmas(10), clip_denoised=False, covariance=covariance)
        prior.cost.forward = prior.cost.backward = 0
        x = start(prior, measurement, Streams(0, ids))
        assert (prior.cost.forward, prior.cost.backward) == (10 * calls * rows, 0)
        shares[covariance] = float((x[:, 2] > 0).double().mean())
    assert shares["identity"] < 0.85 < shares["jacobian"]
