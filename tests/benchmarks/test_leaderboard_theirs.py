"""Other libraries' samplers through the judge: their code as their documents call it, our problems, our numbers."""

import sys
from importlib.metadata import version

import pytest
import torch

from benchmarks.judge.leaderboard import LIST, listed
from benchmarks.judge.problems import chosen
from benchmarks.theirs.base import FromStreams
from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import Dense, Inpainting
from posterior.operators.base import LinearOperator

azula, deepinv = pytest.importorskip("azula"), pytest.importorskip("deepinv")
from azula.denoise import Denoiser, DiracPosterior  # noqa: E402
from azula.guidance.mmps import MMPSDenoiser  # noqa: E402
from azula.guidance.pgdm import PGDMSampler  # noqa: E402
from azula.linalg.covariance import DiagonalCovariance  # noqa: E402
from azula.noise import VPSchedule  # noqa: E402
from azula.sample import DDPMSampler  # noqa: E402

from benchmarks.theirs.azula import AzulaMMPS, AzulaPiGDM, AzulaTDS, PriorDenoiser  # noqa: E402
from benchmarks.theirs.base import PURPOSE  # noqa: E402
from benchmarks.theirs.deepinv import DeepinvDDRM, DeepinvDiffPIR, DeepinvDPS, UnitDenoiser  # noqa: E402

SHAPE, SIGMA_Y = (3, 8, 8), 0.1
MASK = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()


@pytest.fixture
def measurement(field):
    """Of two images."""
    operator = Inpainting(MASK.expand(2, -1, -1, -1), SHAPE)
    truth = field.sample_from(torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)))
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Measurement.simulate(truth, operator, GaussianNoise(SIGMA_Y), noise)


@pytest.fixture
def dense():
    """Of one image, by a matrix."""
    matrix = torch.randn(20, 192, generator=torch.Generator().manual_seed(0)) / 192**0.5
    operator = Dense(matrix, SHAPE)
    y = torch.randn(1, *operator.measurement_shape, generator=torch.Generator().manual_seed(1))
    return Measurement(y, operator, GaussianNoise(SIGMA_Y))


class FewSteps(DeepinvDPS):
    """As it is, with fewer of its steps."""

    def model(self, denoiser, device):
        return deepinv.sampling.DPS(denoiser, num_steps=5)


@pytest.mark.parametrize("kind", [FewSteps, DeepinvDDRM, DeepinvDiffPIR, AzulaMMPS, AzulaPiGDM, AzulaTDS])
def test_a_row_alone_is_that_row_in_a_batch_and_no_global_state_moves(kind, field, measurement):
    before = torch.get_rng_state()
    seen = []
    many = kind()(field, measurement.repeat(2), Streams(3, ["a", "b"], 2), lambda *told: seen.append(told[:3]))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        alone = kind()(field, measurement.rows(torch.tensor([1])), Streams(3, ["b"], samples=[1]))
    torch.testing.assert_close(alone[0], many[3], rtol=0, atol=2e-4)
    assert (many[1] - many[3]).abs().max() > 1e-3
    assert torch.equal(before, torch.get_rng_state())
    assert many.dtype == torch.float32
    assert {total for *_, total in seen} == {len(seen)}


@pytest.mark.parametrize("kind", [FewSteps, DeepinvDDRM, AzulaMMPS])
def test_images_of_one_operator_may_be_in_one_call(kind, field, dense):
    y = torch.cat([dense.y, -dense.y])
    many = kind()(field, Measurement(y, dense.operator, dense.likelihood).repeat(2), Streams(3, ["a", "b"], 2))
    alone = kind()(field, Measurement(-dense.y, dense.operator, dense.likelihood), Streams(3, ["b"], samples=[1]))
    torch.testing.assert_close(alone[0], many[3], rtol=0, atol=2e-4)


class Unit(torch.nn.Module):
    """A prior for images u in [0, 1]."""

    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, u, sigma):
        sigma = torch.as_tensor(sigma, dtype=u.dtype).flatten()
        return (self.prior.denoise(2 * u - 1, 2 * sigma) + 1) / 2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (FewSteps(), lambda denoiser: deepinv.sampling.DPS(denoiser, num_steps=5)),
        (DeepinvDDRM(), lambda denoiser: deepinv.sampling.DDRM(denoiser)),
        (DeepinvDiffPIR(), lambda denoiser: deepinv.sampling.DiffPIR(denoiser, deepinv.optim.L2())),
        (
            DeepinvDiffPIR(2.0, 0.7),
            lambda denoiser: deepinv.sampling.DiffPIR(denoiser, deepinv.optim.L2(), zeta=0.7, lambda_=2.0),
        ),
    ],
    ids=["DPS", "DDRM", "DiffPIR", "DiffPIR, other settings"],
)
def test_deepinv_gives_what_its_users_get_with_its_own_physics(ours, theirs, field, measurement):
    one = measurement.rows(torch.tensor([0]))
    physics = deepinv.physics.Inpainting(
        SHAPE, MASK[0].expand(SHAPE), noise_model=deepinv.physics.GaussianNoise(SIGMA_Y / 2)
    )
    y = (one.y + MASK) / 2  # of u = (x + 1) / 2, where it is measured
    with torch.no_grad(), FromStreams(Streams(3, ["a"])):
        expected = 2 * theirs(Unit(field))(y, physics) - 1
    torch.testing.assert_close(ours(field, one, Streams(3, ["a"])), expected.float(), rtol=0, atol=2e-4)


def test_deepinv_has_the_weight_that_is_set():
    model = DeepinvDPS(weight=300.0).model(UnitDenoiser(None), torch.device("cpu"))
    assert model.data_fidelity.weight == 300.0


@pytest.mark.parametrize(
    ("kind", "name", "bad"),
    [(DeepinvDPS, "weight", 0.0), (DeepinvDiffPIR, "lam", 0.0), (DeepinvDiffPIR, "zeta", 1.1)],
)
def test_their_settings_out_of_range_are_refused(kind, name, bad):
    with pytest.raises(UserError, match=f"{kind.__name__}: {name} must be"):
        kind(**{name: bad})


def test_deepinv_takes_operators_whose_singular_vectors_are_no_pixels(field, dense):
    noise = deepinv.physics.GaussianNoise(SIGMA_Y / 2)
    physics = deepinv.physics.LinearPhysics(
        A=dense.operator.forward, A_adjoint=dense.operator.adjoint, noise_model=noise
    )
    y = (dense.y + dense.operator.forward(torch.ones(1, *SHAPE))) / 2
    with torch.no_grad(), FromStreams(Streams(3, ["a"])):
        expected = 2 * deepinv.sampling.DPS(Unit(field), num_steps=5)(y, physics, x_init=(1, *SHAPE)) - 1
    torch.testing.assert_close(FewSteps()(field, dense, Streams(3, ["a"])), expected.float(), rtol=0, atol=2e-4)


class OnSchedule(Denoiser):
    """A prior as azula's users would have it."""

    def __init__(self, prior):
        super().__init__()
        self.prior, self.schedule = prior, VPSchedule()

    def forward(self, x_t, t, **keywords):
        alpha, sigma = self.schedule(t)
        return DiracPosterior(self.prior.denoise(x_t / alpha, (sigma / alpha).expand(len(x_t))))


def mmps(denoiser, y, A, A_inv):
    noise = DiagonalCovariance(torch.full((y.shape[-1],), SIGMA_Y**2))
    return DDPMSampler(MMPSDenoiser(denoiser, y, A, noise), silent=True)


def pigdm(denoiser, y, A, A_inv):
    return PGDMSampler(denoiser, y, A, A_inv, silent=True)


@pytest.mark.parametrize(("ours", "theirs"), [(AzulaMMPS(), mmps), (AzulaPiGDM(), pigdm)], ids=["MMPS", "PiGDM"])
def test_azula_gives_what_its_users_get_with_a_matrix(ours, theirs, field, dense):
    matrix, y = dense.operator.matrix, dense.y.flatten(1)
    inverse = torch.linalg.pinv(matrix)
    sampler = theirs(
        OnSchedule(field), y, lambda x: x.flatten(1) @ matrix.mT, lambda y: (y @ inverse.mT).view(-1, *SHAPE)
    )
    with FromStreams(Streams(3, ["a"])):
        expected = sampler(sampler.init((1, *SHAPE)))
    torch.testing.assert_close(ours(field, dense, Streams(3, ["a"])), expected, rtol=0, atol=2e-4)


def test_normal_numbers_are_those_of_the_rows_whatever_asks_for_them():
    first, second = (Streams(0, ["a"], samples=[sample]).randn(PURPOSE, (2, 3)) for sample in (0, 1))
    wanted = torch.cat([first, second]).view(4, 3)  # two states of each row
    with FromStreams(Streams(0, ["a"], 2)):
        assert torch.equal(torch.randn_like(torch.zeros(4, 3)), wanted)
    with FromStreams(Streams(0, ["a"], 2)):
        assert torch.equal(torch.randn(4, 3), wanted)
    with FromStreams(Streams(0, ["a"], 2)):
        assert torch.equal(torch.empty(4, 3).normal_(), wanted)
    with FromStreams(Streams(0, ["a"], 2)):
        assert torch.equal(torch.normal(torch.ones(4, 3), torch.full((4, 3), 2.0)), 1 + 2 * wanted)


@pytest.mark.parametrize(
    ("asked", "mean", "std"),
    [
        (lambda: torch.empty(4, 3).normal_(1.0, 2.0), 1, 2),
        (lambda: torch.empty(4, 3).normal_(std=2.0), 0, 2),
        (lambda: torch.empty(4, 3).normal_(1.0), 1, 1),
        (lambda: torch.normal(mean=torch.ones(4, 3), std=torch.full((4, 3), 2.0)), 1, 2),
        (lambda: torch.normal(torch.ones(4, 3), std=2.0), 1, 2),
        (lambda: torch.normal(torch.ones(4, 3)), 1, 1),
        (lambda: torch.normal(1.0, torch.full((4, 3), 2.0)), 1, 2),
        (lambda: torch.normal(1.0, 2.0, (4, 3)), 1, 2),
        (lambda: torch.normal(mean=1.0, std=2.0, size=(4, 3)), 1, 2),
    ],
)
def test_normal_numbers_have_the_mean_and_deviation_that_are_asked_for(asked, mean, std):
    numbers = Streams(0, ["a"]).randn(PURPOSE, (4, 3))
    with FromStreams(Streams(0, ["a"])):
        assert torch.equal(asked(), mean + std * numbers.view(4, 3))


def test_normal_numbers_go_where_they_are_asked_to():
    place = torch.empty(4, 3)
    with FromStreams(Streams(0, ["a"])):
        assert torch.normal(1.0, 2.0, (4, 3), out=place) is place
    assert torch.equal(place, 1 + 2 * Streams(0, ["a"]).randn(PURPOSE, (4, 3)).view(4, 3))


def test_levels_stay_within_the_range_of_the_prior(field, measurement):
    field.sigma_min, field.sigma_max = 0.01, 50.0
    assert DeepinvDDRM()(field, measurement, Streams(0, ["a", "b"])).isfinite().all()  # its last level is 0
    schedule = PriorDenoiser(field).schedule
    ends = [float(sigma / alpha) for alpha, sigma in (schedule(torch.tensor(t)) for t in (0.0, 1.0))]
    assert ends == pytest.approx([0.01, 50.0], rel=1e-4)
    field.sigma_min, field.sigma_max = 0.0, float("inf")
    schedule, default = PriorDenoiser(field).schedule, VPSchedule()
    for t in torch.tensor([0.0, 0.5, 1.0]):
        assert torch.stack(schedule(t)) == pytest.approx(torch.stack(default(t)), rel=1e-5)


class Unknown(LinearOperator):
    """The identity, which does not tell its singular values."""

    measurement_shape = SHAPE

    def forward(self, x):
        return x

    adjoint = forward

    def rows(self, index):
        return self


@pytest.mark.parametrize("kind", [DeepinvDPS, AzulaMMPS, AzulaTDS])
def test_what_they_cannot_take_is_one_line_before_any_call(kind, field, measurement):
    rng, y = Streams(0, ["a", "b"]), measurement.y
    for operator, likelihood, told in (
        (Unknown(SHAPE), GaussianNoise(SIGMA_Y), f"{kind.__name__} needs the singular values"),
        (measurement.operator, PoissonNoise(), f"{kind.__name__} needs Gaussian noise"),
    ):
        with pytest.raises(UserError, match=rf"^{told}[^\n]*$"):
            kind()(field, Measurement(y, operator, likelihood), rng)
    assert field.cost.forward == 0
    with pytest.raises(UserError, match="num_particles"):
        AzulaTDS(num_particles=0)


def test_without_the_package_it_is_a_line(monkeypatch):
    (problem,) = chosen(["two-modes"])
    theirs = [one for one in listed(LIST) if one.group == "theirs"]
    assert len({one.judged.digest(problem) for one in theirs}) == 6
    assert all(deepinv.__version__ in one.judged.digest(problem) for one in theirs)
    for module in [name for name in sys.modules if name.startswith(("deepinv", "azula"))]:
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("deepinv", "azula"):
        monkeypatch.delitem(sys.modules, f"benchmarks.theirs.{module}")
    for one in theirs:
        with pytest.raises(UserError, match=r"needs (deepinv|azula)[^\n]*, which is not installed$"):
            one.judged.digest(problem)


def test_all_that_is_kept_of_them_is_of_the_version_that_is_installed(tmp_path):
    (problem,) = chosen(["two-modes"])
    settings = "class_path: benchmarks.theirs.azula.AzulaTDS, tune: {num_particles: [2, 3]}"
    (tmp_path / "list.yaml").write_text(f"theirs: {{one: {{{settings}, leaderboard: {{num_particles: [4]}}}}}}")
    (one,) = listed(tmp_path / "list.yaml")
    digests = [own.digest(problem) for own in (one.judged, one.plain, *one.curve.values(), *one.tune.values())]
    assert len(set(digests)) == 4  # as it is judged and as it ships are the same
    assert all(f"-azula-{version('azula')}-" in digest for digest in digests)
