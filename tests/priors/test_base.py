import pytest
import torch

from posterior import UserError
from posterior.priors import (
    DiffusionPrior,
    GaussianFieldPrior,
    GaussianMixturePrior,
    PerturbedPrior,
    Prior,
    RingPrior,
    ScoreNetworkPrior,
    ShellError,
    UNet,
)

NETWORK = {"image_size": 32, "num_channels": 32, "channel_mult": (1, 1, 1), "attention_resolutions": ()}


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


def test_every_prior_says_what_it_is_for(field):
    network = UNet(**NETWORK, in_channels=2)
    ring = RingPrior(0.1)
    mixture = GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, 1, 2, 3), torch.eye(6)[None])
    expected = {
        DiffusionPrior(network): (2, (32, 32), 4),
        ScoreNetworkPrior(network, 0.01, 50.0): (2, (32, 32), 4),
        DiffusionPrior(torch.nn.Identity()): (None, None, 1),
        field: (3, None, 1),
        mixture: (1, (2, 3), None),
        ring: (2, (1, 1), None),
        PerturbedPrior(ring, ShellError(2, 1.0, 0.5, 2.0, 0.1)): (2, (1, 1), None),
    }
    for prior, told in expected.items():
        assert (prior.channels, prior.size, prior.size_multiple, prior.value_range) == (*told, (-1.0, 1.0))
        channels, size = prior.channels or 3, prior.size or (24, 40)
        assert prior.check_images((channels, *size)) is None


def test_a_network_of_another_kind_may_say_it_or_not():
    network = torch.nn.Conv2d(3, 3, 1)
    assert DiffusionPrior(network).channels == 3
    network.in_channels, network.image_size, network.size_multiple = "three", (24, 32), None
    prior = DiffusionPrior(network)
    assert (prior.channels, prior.size, prior.size_multiple) == (None, (24, 32), 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 32, 32), r"is for images \(3, 32, 32\), these are \(1, 32, 32\): take images of 3 channels"),
        ((32, 32, 3), r"these are \(32, 32, 3\), which looks like \(H, W, C\): put the channels first"),
        ((3, 30, 32), r"\(3, 30, 32\), and it can only take sides that are multiples of 4: set data.init_args.size 32"),
        ((32, 32), r"these are \(32, 32\): images must be \(C, H, W\)"),
    ],
)
def test_images_that_a_network_cannot_take_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        DiffusionPrior(UNet(**NETWORK)).check_images(shape)


def test_images_of_another_size_than_a_network_was_trained_at_are_told():
    prior = DiffusionPrior(UNet(**NETWORK))
    line = prior.check_images((3, 64, 96))
    assert line.startswith(
        "DiffusionPrior is for images (3, 32, 32), these are (3, 64, 96), a size that it was not made"
    )
    assert line.endswith("set data.init_args.size 32")
    assert torch.isfinite(prior.denoise(torch.zeros(1, 3, 64, 96), 1.0)).all()  # it works, whatever it is worth


def test_a_prior_for_one_shape_takes_no_other():
    mixture = GaussianMixturePrior.full(torch.ones(1), torch.zeros(1, 1, 2, 3), torch.eye(6)[None])
    with pytest.raises(
        UserError, match=r"GaussianMixturePrior .* \(1, 2, 3\), these are \(1, 3, 3\): take images of 2x3"
    ):
        mixture.check_images((1, 3, 3))


def test_a_prior_that_says_nothing_takes_everything_but_hints_at_swapped_axes():
    class Silent(Prior):
        def _predict(self, x, sigma):
            return x, None

    assert Silent().check_images((5, 7, 9)) is None
    assert "which looks like (H, W, C)" in Silent().check_images((64, 64, 3))
