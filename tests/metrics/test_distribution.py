import numpy as np
import pytest
import torch

from posterior.metrics.distribution import (
    band_std_ratios,
    bootstrap,
    coverage,
    effective_sample_size,
    mmd_test,
    mode_weight_error,
    nominal_coverage,
    rank_p_value,
    ranks,
    sliced_wasserstein,
    sliced_wasserstein_floor,
    split_r_hat,
    std_ratio,
    subspaces,
)


def test_a_shift_has_its_expected_distance():
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    shift = torch.zeros(8)
    shift[0] = 3.0  # a random direction sees 3 u, E u^2 = 1 / 8
    assert sliced_wasserstein(x, x + shift, num_directions=5000) == pytest.approx(3 / 8**0.5, rel=0.05)


def test_it_is_zero_for_a_permutation_and_symmetric():
    x = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    y = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(1))
    assert sliced_wasserstein(x, x.flip(0)) == 0
    assert sliced_wasserstein(x, y) == pytest.approx(sliced_wasserstein(y, x))


def test_a_scale_in_one_dimension_matches_the_quantiles():
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    assert sliced_wasserstein(x, 2 * x) == pytest.approx(1.0, rel=0.02)  # W2(N(0, 1), N(0, 4)) = 1


def test_sets_must_have_one_size():
    with pytest.raises(ValueError, match="equal shape"):
        sliced_wasserstein(torch.zeros(3, 2), torch.zeros(4, 2))


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_floor_is_the_distance_of_exact_sets():
    sets = [draws(200, 5, seed=seed) for seed in range(40)]
    floor, error = sliced_wasserstein_floor(sets)
    other = np.mean([sliced_wasserstein(draws(200, 5, seed=100 + s), draws(200, 5, seed=200 + s)) for s in range(20)])
    assert abs(other - floor) < 5 * error
    assert sliced_wasserstein(1.3 * sets[0], sets[1]) > floor + 10 * error
    with pytest.raises(ValueError, match="even number"):
        sliced_wasserstein_floor(sets[:3])


def test_std_ratios_see_where_the_spread_is_wrong():
    exact = draws(4000, 6)
    x = exact.clone()
    x[:, 2:] *= 1.5
    directions = torch.eye(6)
    assert std_ratio(x, exact, directions[:, :2]) == pytest.approx(1)
    assert std_ratio(x, exact, directions[:, 2:]) == pytest.approx(1.5)
    assert std_ratio(x, exact) == pytest.approx(((2 + 4 * 2.25) / 6) ** 0.5, rel=0.02)


def test_bands_are_spatial_frequencies():
    exact = draws(400, 2, 16, 16)
    smooth = torch.fft.ifft2(torch.fft.fft2(exact) * (torch.fft.fftfreq(16).abs()[:, None] < 0.02)).real
    ratios = band_std_ratios(exact + 2 * smooth, exact, num_bands=4)
    assert ratios[0] > 1.2
    assert band_std_ratios(3 * exact, exact) == pytest.approx([3, 3, 3, 3])
    assert band_std_ratios(draws(4000, 1, 8, 8, seed=1), draws(4000, 1, 8, 8)) == pytest.approx([1] * 4, rel=0.05)


def test_subspaces_split_what_is_measured():
    matrix = torch.zeros(2, 5, dtype=torch.float64)
    matrix[0, 1] = matrix[1, 3] = 2.0
    seen, unseen = subspaces(matrix)
    assert (seen.shape, unseen.shape) == ((5, 2), (5, 3))
    torch.testing.assert_close(matrix @ unseen, torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close((matrix @ seen).square().sum(), torch.tensor(8.0, dtype=torch.float64))


def test_the_two_sample_test_has_its_level_and_power():
    p_values = [mmd_test(draws(30, 3, seed=s), draws(30, 3, seed=500 + s), 99)[1] for s in range(60)]
    assert np.mean(np.array(p_values) <= 0.1) < 0.1 + 3 * (0.09 / 60) ** 0.5
    assert 0.35 < np.mean(p_values) < 0.65
    assert mmd_test(draws(100, 3), 0.6 + draws(100, 3, seed=1))[1] < 0.01


@pytest.mark.parametrize(("num_samples", "trim"), [(19, 0), (39, 1)])
def test_order_statistics_cover_what_they_promise(num_samples, trim):
    """6000 independent pairs of a truth and samples of the same law; narrower samples cover less."""
    samples, truth = draws(num_samples, 6000, 1), draws(6000, 1, seed=1)
    assert nominal_coverage(num_samples, trim) == pytest.approx(0.9)
    assert float(coverage(samples, truth, trim).mean()) == pytest.approx(0.9, abs=4 * (0.09 / 6000) ** 0.5)
    assert float(coverage(0.7 * samples, truth, trim).mean()) < 0.82
    with pytest.raises(ValueError, match="bound no interval"):
        coverage(samples[:2], truth, 1)


def test_ranks_are_uniform_only_for_the_posterior():
    samples, truth = draws(19, 4000), draws(4000, seed=1)
    counted = ranks(samples, truth)
    assert counted.min() == 0
    assert counted.max() == 19
    assert rank_p_value(counted, 19) > 0.01
    assert rank_p_value(ranks(0.8 * samples, truth), 19) < 1e-4
    assert rank_p_value(ranks(samples + 0.2, truth), 19) < 1e-4


def test_mode_weights():
    responsibilities = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert mode_weight_error(responsibilities, torch.tensor([0.625, 0.375])) == pytest.approx(0)
    assert mode_weight_error(responsibilities, torch.tensor([0.125, 0.875])) == pytest.approx(0.5)


def autoregression(coefficient, chains=4, steps=4000):
    noise, x = draws(chains, steps).double(), torch.zeros(chains, steps, dtype=torch.float64)
    for t in range(1, steps):
        x[:, t] = coefficient * x[:, t - 1] + noise[:, t]
    return x


def test_the_effective_sample_size_is_that_of_the_process():
    """An AR(1) process has N (1 - a) / (1 + a) effective draws."""
    for coefficient in (0.0, 0.6, 0.9):
        expected = 16_000 * (1 - coefficient) / (1 + coefficient)
        assert float(effective_sample_size(autoregression(coefficient))) == pytest.approx(expected, rel=0.15)


def test_r_hat_sees_chains_that_disagree_or_drift():
    chains = draws(4, 500, 2)
    assert split_r_hat(chains) == pytest.approx(1, abs=0.01)
    apart = chains.clone()
    apart[0, :, 1] += 3
    assert split_r_hat(apart)[1] > 1.2
    assert split_r_hat(apart)[0] == pytest.approx(1, abs=0.01)
    drift = chains + torch.linspace(0, 3, 500)[None, :, None]
    assert (split_r_hat(drift) > 1.2).all()
    with pytest.raises(ValueError, match="at least four steps"):
        split_r_hat(chains[:, :3])


def test_bootstrap_intervals_cover():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap(rng.normal(size=60), np.mean, count=200, seed=seed)
        hits += low <= 0 <= high
    assert 0.88 < hits / 200 < 0.99


def test_numbers_that_are_equal_count_for_each_of_their_orders():
    """A law of two points, where truth and samples are often the same: exact samples are covered as often as any."""
    generator = torch.Generator().manual_seed(0)
    draws = (torch.rand(10, 4000, 5, generator=generator) < 0.7).float()
    found = coverage(draws[1:], draws[0])
    assert float(found.mean()) == pytest.approx(nominal_coverage(9), abs=4 * (0.16 / 20_000) ** 0.5)
    assert coverage(torch.zeros(9, 1, 3), torch.zeros(1, 3)) == pytest.approx(0.8)
    assert float(coverage(torch.zeros(9, 1, 3), torch.ones(1, 3))) == 0
