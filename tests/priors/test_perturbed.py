import math

import pytest
import torch

from posterior import UserError
from posterior.priors import GaussianMixturePrior, PerturbedPrior, ShellError


def test_the_norms_of_the_error_are_as_stated():
    """In four dimensions the shell is not rare, and its norms can be estimated from samples."""
    error = ShellError(dimension=4, radius=0.5, width=0.3, order=4, error=0.1)
    x = torch.randn(200_000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    sizes = torch.linalg.vector_norm(error(x).flatten(1), dim=1).double()
    assert float(sizes.pow(4).mean()) ** 0.25 == pytest.approx(0.1, rel=0.02)
    assert error.norm(4) == pytest.approx(0.1)
    assert float(sizes.square().mean()) ** 0.5 == pytest.approx(error.norm(2), rel=0.02)
    assert float((3 * sizes.square()).exp().mean().log()) == pytest.approx(error.log_mgf(3.0), rel=0.05)
    assert float(error.inside(x).double().mean()) == pytest.approx(math.exp(error.log_probability), rel=0.02)


def test_the_published_shell_is_rare_and_violent():
    """Lemma F.2 at d = 1024, k = 4, eps = 0.1, rho = 0.3: M about 176 (`method.md` section 6)."""
    error = ShellError(dimension=1024, radius=6 / 11, width=0.3, order=4, error=0.1)
    assert error.magnitude == pytest.approx(176, rel=0.02)
    assert error.log_probability < -25


def test_the_error_is_added_to_score_and_denoiser():
    exact = GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, 1, 2, 2), torch.eye(4)[None])
    error = ShellError(dimension=4, radius=1.0, width=0.5, order=2, error=0.3)
    prior = PerturbedPrior(exact, error)
    x = torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.score(x, 0.4), exact.score(x, 0.4) + error(x))
    torch.testing.assert_close(prior.score(x, 0.0), -x + error(x))
    torch.testing.assert_close(prior.denoise(x, 0.4), exact.denoise(x, 0.4) + 0.16 * error(x))
    assert prior.cost.forward == 150
    with pytest.raises(UserError, match="width must be > 0 and < 1"):
        ShellError(4, 1.0, 1.5, 2, 0.1)
