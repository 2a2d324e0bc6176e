import pytest
import torch

from posterior import UserError
from posterior.priors import DiffusionPrior, GaussianFieldPrior


def test_evaluations_are_counted_in_images(field):
    x = torch.randn(3, 3, 8, 8, requires_grad=True)
    denoised = field.denoise(x, 0.5)
    assert (field.cost.forward, field.cost.backward) == (3, 0)
    torch.autograd.grad(denoised.sum(), x)
    assert (field.cost.forward, field.cost.backward) == (3, 3)
    field.score(x.detach()[:2], 0.0)
    assert (field.cost.forward, field.cost.backward) == (5, 3)
    torch.autograd.grad(field.score(x, 0.1).sum(), x)
    assert (field.cost.forward, field.cost.backward) == (8, 6)


def test_levels_may_be_floats_or_one_per_image(field):
    x = torch.randn(2, 3, 8, 8)
    both = field.denoise(x, torch.tensor([0.3, 2.0]))
    torch.testing.assert_close(both[0], field.denoise(x[:1], 0.3)[0])
    torch.testing.assert_close(both[1], field.denoise(x[1:], 2.0)[0])


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), torch.tensor([0.1, -0.2])])
def test_levels_outside_the_range_are_refused(field, sigma):
    with pytest.raises(UserError, match="outside"):
        field.denoise(torch.randn(2, 3, 8, 8), sigma)


def test_a_fingerprint_tells_priors_apart(field):
    same, other = GaussianFieldPrior(**field.settings()), GaussianFieldPrior(**field.settings() | {"floor": 0.21})
    assert field.fingerprint() == same.fingerprint() != other.fingerprint()
    torch.manual_seed(0)
    first, second = (DiffusionPrior(torch.nn.Conv2d(3, 3, 1)) for _ in range(2))
    assert first.fingerprint() != second.fingerprint()
    second.network.load_state_dict(first.network.state_dict())
    assert first.fingerprint() == second.fingerprint()


def test_score_and_denoiser_obey_tweedie(field):
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(field.score(x, 0.7), (field.denoise(x, 0.7) - x) / 0.49, rtol=1e-4, atol=1e-5)
