import pytest
import torch

from posterior import UserError
from posterior.priors import RingPrior


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_the_score_is_the_gradient_of_the_log_density(sigma):
    prior = RingPrior(0.2)
    x = torch.randn(20, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(prior.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(prior.score(x.detach(), sigma), grad, rtol=1e-5, atol=1e-6)


def test_the_density_is_that_of_its_samples():
    prior, count = RingPrior(0.3), 200_000
    x = prior.sample(count, torch.Generator().manual_seed(0))
    radius = torch.linalg.vector_norm(x.flatten(1), dim=1)
    grid = torch.linspace(0.005, 3, 600, dtype=torch.float64)
    points = torch.stack([grid, torch.zeros_like(grid)], dim=1).view(-1, 2, 1, 1)
    density = prior.log_prob(points).exp() * 2 * torch.pi * grid * (grid[1] - grid[0])
    assert float(density.sum()) == pytest.approx(1, abs=1e-3)
    for bound in (0.6, 1.0, 1.4):
        expected = float(density[grid <= bound].sum())
        assert float((radius <= bound).double().mean()) == pytest.approx(expected, abs=4 * 0.5 / count**0.5 + 3e-3)


def test_its_curvatures_are_those_of_the_paper():
    """E.4: 1 / (2 w^4) - 1 / w^2 at the centre; on the ring about 1/2 - 1/w^2 outward and -1/2 along."""
    w = 0.2
    prior = RingPrior(w)

    def hessian(point):
        x = torch.tensor(point, dtype=torch.float64)
        return torch.autograd.functional.jacobian(lambda p: prior.score(p.view(1, 2, 1, 1), 0.0).flatten(), x)

    assert hessian([1e-6, 0.0])[1, 1] == pytest.approx(1 / (2 * w**4) - 1 / w**2, rel=1e-3)
    on_ring = hessian([1.0, 0.0])
    assert on_ring[0, 0] == pytest.approx(1 / 2 - 1 / w**2, rel=0.05)
    assert on_ring[1, 1] == pytest.approx(-1 / 2, rel=0.1)


def test_the_width_must_be_positive():
    with pytest.raises(UserError, match="width must be > 0"):
        RingPrior(0.0)
