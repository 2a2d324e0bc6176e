import pytest
import torch

from posterior import UserError
from posterior.noise import GaussianNoise


@pytest.mark.parametrize("sigma_y", [0.0, -1.0, float("nan")])
def test_noise_level_must_be_positive(sigma_y):
    with pytest.raises(UserError, match="sigma_y must be > 0"):
        GaussianNoise(sigma_y)


def test_score_is_the_gradient_of_the_log_density():
    noise, y = GaussianNoise(0.3), torch.randn(2, 5, dtype=torch.float64)
    clean = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    log_prob = torch.distributions.Normal(clean, 0.3).log_prob(y).sum()
    torch.testing.assert_close(noise.score(y, clean), torch.autograd.grad(log_prob, clean)[0])


def test_annealed_noise_adds_variances():
    assert GaussianNoise(0.3).annealed(0.16).sigma_y == pytest.approx(0.5)
    assert GaussianNoise(0.3).annealed(0.0).sigma_y == pytest.approx(0.3)


def test_distance_is_one_norm_per_row():
    y = torch.zeros(2, 3, 1, 1)
    clean = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]).view(2, 3, 1, 1)
    assert GaussianNoise(1.0).distance(y, clean).tolist() == [5.0, 2.0]
