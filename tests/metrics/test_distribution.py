import pytest
import torch

from posterior.metrics.distribution import sliced_wasserstein


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
