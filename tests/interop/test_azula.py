"""azula's users get the samples that ours do, from their denoisers."""

import pytest
import torch

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators.dense import Dense
from posterior.samplers import TDS, ConditionalDescent, GeometricSigmas

azula = pytest.importorskip("azula")
from azula.denoise import Denoiser, DiracPosterior, KarrasDenoiser  # noqa: E402
from azula.noise import CosineSchedule, VESchedule, VPSchedule  # noqa: E402

from posterior.interop.azula import DenoiserPrior, PosteriorSampler  # noqa: E402
from posterior.interop.foreign import ForeignOperator  # noqa: E402

SHAPE, SIGMA_Y = (3, 8, 8), 0.1


class OurDenoiser(Denoiser):
    """A prior of ours in azula's terms."""

    def __init__(self, prior, schedule):
        super().__init__()
        self.prior, self.schedule = prior, schedule

    def forward(self, x_t, t, **keywords):
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in self.schedule(t))
        return DiracPosterior(self.prior.denoise(x_t / alpha, (sigma / alpha).flatten().to(x_t).expand(len(x_t))))


@pytest.mark.parametrize(
    "schedule", [VPSchedule(), VESchedule(1e-4, 50.0), CosineSchedule()], ids=lambda s: type(s).__name__
)
def test_their_denoisers_are_asked_in_sigma(field, schedule):
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    prior = DenoiserPrior(OurDenoiser(field, schedule))
    for sigma in (0.05, 1.0, 3.0, torch.tensor([0.05, 3.0])):
        torch.testing.assert_close(prior.denoise(x, sigma), field.denoise(x, sigma), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="noise level 2000 outside"):
        prior.denoise(x, 2000.0)


def test_a_sampler_gives_our_samples(field):
    matrix = torch.randn(20, 192, generator=torch.Generator().manual_seed(0)) / 192**0.5
    y = torch.randn(20, generator=torch.Generator().manual_seed(1))
    sampler = PosteriorSampler(
        OurDenoiser(field, VESchedule(1e-7, 50.0)), y, lambda x: x.flatten(1) @ matrix.mT, SIGMA_Y, seed=3
    )
    found = sampler(sampler.init((2, *SHAPE)))
    measurement = Measurement(y.view(1, 20, 1, 1).expand(2, -1, -1, -1), Dense(matrix, SHAPE), GaussianNoise(SIGMA_Y))
    expected = ConditionalDescent()(field, measurement, Streams(3, ["azula"], 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 0.1
    following = ConditionalDescent()(field, measurement, Streams(3, ["azula"], samples=[2, 3]))
    torch.testing.assert_close(sampler(sampler.init((2, *SHAPE))), following, rtol=0, atol=1e-4)


def test_keywords_reach_the_denoiser():
    class Backbone(torch.nn.Linear):
        def forward(self, x, t, label):
            return 0 * x + label

    denoiser = KarrasDenoiser(Backbone(1, 1), VPSchedule())
    prior = DenoiserPrior(denoiser, {"label": 2.0})
    x = torch.zeros(2, *SHAPE)
    torch.testing.assert_close(prior.denoise(x, 1.0), torch.full_like(x, 2 * 0.5**0.5))


def test_without_noise_it_is_refused(field):
    with pytest.raises(UserError, match="sigma_y must be > 0"):
        PosteriorSampler(OurDenoiser(field, VPSchedule()), torch.zeros(4), lambda x: x.flatten(1)[:, :4], 0.0)


def test_measurements_that_do_not_fit_are_one_line(field):
    denoiser = OurDenoiser(field, VESchedule(1e-7, 50.0))

    def asked(y):
        return PosteriorSampler(denoiser, y, lambda x: x.flatten(1)[:, :20], SIGMA_Y)(torch.zeros(2, *SHAPE))

    with pytest.raises(UserError, match="3 measurements for 2 samples"):
        asked(torch.zeros(3, 20))
    with pytest.raises(UserError, match=r"A gives \(2, 20\), y is \(2, 19\)"):
        asked(torch.zeros(19))
    with pytest.raises(UserError, match=r"y is \(\*, D\), got a single number"):
        asked(torch.tensor(0.5))
    assert asked(torch.zeros(20, dtype=torch.float64)).dtype == torch.float32
    particles = PosteriorSampler(
        denoiser,
        torch.zeros(20),
        lambda x: x.flatten(1)[:, :20],
        SIGMA_Y,
        TDS(GeometricSigmas(5, 3.0, 0.1), num_particles=3),
    )
    with pytest.raises(UserError, match="a sampler with particles"):
        particles(torch.zeros(2, *SHAPE))


@pytest.mark.parametrize(
    "bent",
    [lambda x: x.flatten(1)[:, :20] ** 2, lambda x: x.flatten(1)[:, :20] + 0.5, lambda x: x.flatten(1)[:, :20].abs()],
    ids=["square", "offset", "modulus"],
)
def test_an_operator_that_is_not_linear_is_refused_before_any_call(field, bent):
    sampler = PosteriorSampler(OurDenoiser(field, VESchedule(1e-7, 50.0)), torch.zeros(20), bent, SIGMA_Y)
    with pytest.raises(UserError, match=r"^PosteriorSampler: A is not linear, [^\n]*$"):
        sampler(torch.zeros(2, *SHAPE))
    assert field.cost.forward == 0


def test_rows_of_an_operator_that_knows_only_how_to_be_applied_are_all_in_their_order():
    operator = ForeignOperator(lambda x: x.flatten(1)[:, :20], SHAPE, torch.zeros(3, 20), "here")
    assert operator.rows(torch.arange(3)) is operator
    for index in ([0, 1], [0, 2, 1], [0, 0, 1], [0, 1, 2, 0]):
        with pytest.raises(UserError, match=r"^a sampler with particles[^\n]*$"):
            operator.rows(torch.tensor(index))
