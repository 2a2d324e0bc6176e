"""deepinv's users get the samples that ours do, from their physics and from their denoisers."""

from pathlib import Path

import pytest
import torch
from torch import nn

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators import Inpainting
from posterior.samplers import ConditionalDescent, Sampler, unobserved

deepinv = pytest.importorskip("deepinv")
from posterior.interop.deepinv import DenoiserPrior, PosteriorReconstructor  # noqa: E402
from posterior.interop.foreign import ForeignOperator  # noqa: E402

SHAPE, SIGMA_Y = (3, 8, 8), 0.1
GENERATOR = torch.Generator().manual_seed(0)
MASK = (torch.rand(1, 1, 8, 8, generator=GENERATOR) < 0.5).float()


@pytest.fixture
def truth(field):
    return field.sample_from(torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def physics():
    noise = deepinv.physics.GaussianNoise(SIGMA_Y / 2)  # of images in [0, 1]
    return deepinv.physics.Inpainting(SHAPE, MASK[0].expand(SHAPE), noise_model=noise)


@pytest.fixture
def expected(field, truth):
    """Our own samples, of y without noise."""
    operator = Inpainting(MASK.expand(2, -1, -1, -1), SHAPE)
    measurement = Measurement(operator.forward(truth), operator, GaussianNoise(SIGMA_Y))
    return ConditionalDescent()(field, measurement, Streams(3, ["0", "1"]))


class InUnitInterval(nn.Module):
    """A prior's denoiser, for images in [0, 1]."""

    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, u, sigma):
        return (self.prior.denoise(2 * u - 1, 2 * sigma) + 1) / 2


def test_a_reconstructor_gives_our_samples(field, truth, physics, expected):
    found = PosteriorReconstructor(field, seed=3)(physics.A((truth + 1) / 2), physics)
    torch.testing.assert_close(2 * found - 1, expected, rtol=0, atol=1e-4)


def test_with_a_denoiser_of_theirs_too(field, truth, physics, expected):
    prior = DenoiserPrior(InUnitInterval(field), 0.0, 100.0)
    found = PosteriorReconstructor(prior, seed=3)(physics.A((truth + 1) / 2), physics)
    torch.testing.assert_close(2 * found - 1, expected, rtol=0, atol=1e-4)
    levels = torch.tensor([0.3, 2.0])
    torch.testing.assert_close(prior.denoise(truth, levels), field.denoise(truth, levels), rtol=1e-5, atol=1e-6)


def test_y_may_have_any_shape_and_a_any_basis(field, truth):
    """Samples agree with a random matrix's y, to what its noise allows."""
    physics = deepinv.physics.CompressedSensing(48, SHAPE, noise_model=deepinv.physics.GaussianNoise(SIGMA_Y / 2))
    clean = physics.A((truth + 1) / 2)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    y = clean + SIGMA_Y / 2 * noise
    found = PosteriorReconstructor(field)(y, physics)
    residual = (y - physics.A(found)).square().mean(dim=1).sqrt() / (SIGMA_Y / 2)
    assert (residual > 0.6).all()
    assert (residual < 1.4).all()


def test_what_the_page_shows_runs():
    """With a small network, whose weights are not downloaded, and a small image."""
    page = (Path(__file__).parents[2] / "docs" / "peers.md").read_text()
    (code,) = (block.partition("```")[0] for block in page.split("```python\n") if "PosteriorReconstructor(" in block)
    scope = {}
    exec(code.replace("DRUNet()", "DRUNet(pretrained=None, nc=[4, 4, 4, 4], nb=1)").replace("64", "8"), scope)
    assert scope["sample"].shape == (1, 3, 8, 8)
    assert scope["sample"].isfinite().all()


def test_calls_give_other_samples_unless_a_seed_is_given(field, truth, physics):
    y, model = physics.A((truth + 1) / 2), PosteriorReconstructor(field)
    first, second = model(y, physics), model(y, physics)
    assert (first - second).abs().amax(dim=(1, 2, 3)).min() > 0.02
    assert torch.equal(PosteriorReconstructor(field)(y, physics), first)
    given = model(y, physics, seed=5)
    assert torch.equal(given, PosteriorReconstructor(field, seed=5)(y, physics))
    assert torch.equal(model(y, physics, seed=5), given)
    again = PosteriorReconstructor(field)
    again(y, physics)
    assert torch.equal(again(y, physics), second)


class Normal(Sampler):
    """N(0, I), whatever y is."""

    def __call__(self, prior, measurement, rng, observe=unobserved):
        return rng.randn("test", measurement.image_shape)


def test_their_sampler_finds_the_mean_and_variance_of_our_samples(field, truth, physics):
    """`DiffusionSampler` calls it again and again, and averages: of N(1/2, 1/4) in [0, 1]."""
    y, model = physics.A((truth + 1) / 2), PosteriorReconstructor(field, Normal())
    mean, variance = deepinv.sampling.DiffusionSampler(model, max_iter=400, clip=(-10, 10))(y, physics)
    assert float(mean.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(mean.std()) == pytest.approx(0.5 / 400**0.5, rel=0.2)
    assert float(variance.mean()) == pytest.approx(0.25, rel=0.05)


def test_what_is_not_measured_does_not_count(truth, physics):
    y = physics.A(truth)
    operator = ForeignOperator(physics.A, SHAPE, y, "test")
    assert operator.num_measured().tolist() == [3 * float(MASK.sum())] * 2
    torch.testing.assert_close(operator.restrict(y.reshape(2, 192, 1, 1) + 1).view_as(y), (y + 1) * MASK)
    physics.mask = torch.stack([MASK[0].expand(SHAPE), torch.ones(SHAPE)])
    each = ForeignOperator(physics.A, SHAPE, physics.A(truth), "test")
    assert each.num_measured().tolist() == [3 * float(MASK.sum()), 192.0]


def test_physics_that_have_no_such_posterior_are_refused(field, truth, physics):
    y, model = physics.A(truth), PosteriorReconstructor(field)
    with pytest.raises(UserError, match="needs a linear physics and real y, got PhaseRetrieval"):
        model(y, deepinv.physics.PhaseRetrieval(lambda x: x))
    with pytest.raises(UserError, match=r"got Inpainting and torch\.complex64"):
        model(y + 0j, physics)
    for noise in (deepinv.physics.PoissonNoise(), deepinv.physics.GaussianNoise(torch.tensor([0.1, 0.2]))):
        physics.noise_model = noise
        with pytest.raises(UserError, match=r"set physics\.noise_model to GaussianNoise\(sigma\), one level"):
            model(y, physics)
    physics.noise_model = deepinv.physics.GaussianNoise(0.0)
    with pytest.raises(UserError, match="sigma_y must be > 0"):
        model(y, physics)
    physics.noise_model = deepinv.physics.GaussianNoise(SIGMA_Y / 2)
    matrix = torch.eye(192)[:20]
    dense = deepinv.physics.LinearPhysics(
        A=lambda x, **_: x.flatten(1) @ matrix.mT,
        A_adjoint=lambda y, **_: (y[..., :1] * matrix[:1]).view(-1, *SHAPE),
        noise_model=physics.noise_model,
    )
    with pytest.raises(UserError, match=r"PosteriorReconstructor: A gives \(2, 20\), y is \(2, 19\)"):
        model(torch.zeros(2, 19), dense)
    stacked = deepinv.physics.StackedLinearPhysics([dense, dense])
    with pytest.raises(UserError, match="needs a linear physics and real y, got StackedLinearPhysics and a TensorList"):
        model(stacked.A(truth), stacked)
    with pytest.raises(UserError, match="real y, got Inpainting and no row"):
        model(y[:0], physics)
    volume = deepinv.physics.LinearPhysics(
        A=lambda x, **_: x, A_adjoint=lambda y, **_: y, noise_model=physics.noise_model
    )
    with pytest.raises(UserError, match=r"images \(B, C, H, W\), this physics has \(1, 1, 2, 4, 4\)"):
        model(torch.zeros(1, 1, 2, 4, 4), volume)
    assert field.cost.forward == 0
