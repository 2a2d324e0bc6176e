import math

import numpy as np
import pytest
import torch

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators import GivenTrajectory, NonCartesianMRI, Radial, Spiral
from posterior.operators.base import power_iteration_norm
from posterior.operators.mri import centred_fft, simulated_coils, to_channels, to_complex
from posterior.priors import GaussianFieldPrior
from posterior.samplers import MMPS, ConditionalDescent, ProximalDenoising, RandomisedMaximumLikelihood, RespacedSigmas


def direct_sum(z, points):
    """sum_r z(r) exp(-i k . r) / sqrt(H W), r from the middle pixel, term by term: z (B, n, H, W) -> (B, n, M)."""
    height, width = z.shape[-2:]
    rows, columns = (torch.arange(size) - size // 2 for size in (height, width))
    phase = points[:, 0, None, None] * rows[:, None] + points[:, 1, None, None] * columns
    return torch.einsum("bnhw,mhw->bnm", z, torch.exp(-1j * phase)) / (height * width) ** 0.5


@pytest.fixture
def coils(tmp_path):
    np.save(tmp_path / "coils.npy", simulated_coils(3, 13, 16, 0.2, [0.0, 1.0, 2.0]))
    return tmp_path / "coils.npy"


TRAJECTORIES = [Radial(7), Radial(3, 12, [0.0, 45.0, 100.0], "degrees"), Spiral(4, 40, 2.0)]


@pytest.mark.parametrize("trajectory", TRAJECTORIES, ids=["golden", "degrees", "spiral"])
@pytest.mark.parametrize("several", [False, True])
def test_samples_are_the_direct_sum_and_the_adjoint_its_transpose(trajectory, several, coils):
    operator = NonCartesianMRI(trajectory, coils if several else None).realise((2, 13, 16)).to(torch.float64)
    x = torch.randn(2, 2, 13, 16, dtype=torch.float64)
    z = to_complex(x) * (torch.from_numpy(np.load(coils)) if several else 1)
    y = operator.forward(x)
    wanted = to_channels(direct_sum(z, torch.from_numpy(trajectory.points(13, 16))))
    assert y.shape == (2, *operator.measurement_shape)
    assert (y - wanted).norm() < 2e-5 * wanted.norm()  # the error of gridding
    v = torch.randn_like(y)
    assert abs((y * v).sum() - (x * operator.adjoint(v)).sum()) <= 1e-12 * y.norm() * v.norm()
    x.requires_grad_()  # guided samplers differentiate forward
    (grad,) = torch.autograd.grad(operator.forward(x), x, v)
    torch.testing.assert_close(grad, operator.adjoint(v))
    alone = operator.rows(torch.tensor([1]))
    torch.testing.assert_close(alone.forward(x[1:]), y[1:])
    assert operator.norm_bound() >= float(power_iteration_norm(operator, 2000, 1e-12))
    assert operator.view(y).abs().max() <= 1


def test_on_the_grid_it_is_the_centred_transform(tmp_path):
    height, width = 9, 12
    k = np.stack(np.meshgrid(np.arange(height) - 4.0, np.arange(width) - 6.0, indexing="ij"), axis=-1)
    np.save(tmp_path / "grid.npy", k)
    np.save(tmp_path / "cycles.npy", k / [height, width])
    np.save(tmp_path / "radians.npy", 2 * np.pi * k / [height, width])
    x = torch.randn(1, 2, height, width)
    wanted = to_channels(centred_fft(to_complex(x)).flatten(2))
    for unit in ("grid", "cycles", "radians"):
        operator = NonCartesianMRI(GivenTrajectory(tmp_path / f"{unit}.npy", unit)).realise((2, height, width))
        assert (operator.forward(x) - wanted).norm() < 2e-5 * wanted.norm()


def test_trajectories_are_their_formulas():
    spokes = Radial(2, 4, [0.0, 90.0], "degrees").points(8, 8).reshape(2, 4, 2)
    radii = np.pi * np.array([-1, -0.5, 0, 0.5])
    np.testing.assert_allclose(spokes[0], np.stack([0 * radii, radii], axis=1), atol=1e-12)
    np.testing.assert_allclose(spokes[1], np.stack([radii, 0 * radii], axis=1), atol=1e-12)
    golden = Radial(3, 2).points(8, 8).reshape(3, 2, 2)[:, 0]
    turned = np.diff(np.unwrap(np.arctan2(golden[:, 0], golden[:, 1])))
    np.testing.assert_allclose(np.rad2deg(turned), 111.246, atol=1e-2)
    assert Radial(2).points(8, 20).shape == (80, 2)
    arm = Spiral(2, 4, 1.0).points(8, 8).reshape(2, 4, 2)
    np.testing.assert_allclose(np.linalg.norm(arm, axis=-1), np.pi * np.array([[0, 0.25, 0.5, 0.75]] * 2))
    np.testing.assert_allclose(arm[0, 1], [math.pi / 4, 0], atol=1e-12)  # a quarter of a turn: along the rows
    np.testing.assert_allclose(arm[1], -arm[0], atol=1e-12)


def test_degrees_taken_for_radians_are_refused():
    with pytest.raises(UserError, match=r"Radial: angles reach 111\.2, more than 2 pi: say unit: degrees"):
        Radial(2, angles=[0.0, 111.2])
    assert Radial(2, angles=[0.0, 111.2], unit="radians").points(4, 4).shape == (16, 2)


def test_bad_settings_and_files_are_named(tmp_path, coils):
    with pytest.raises(UserError, match="Radial: num_spokes must be >= 1"):
        Radial(0)
    with pytest.raises(UserError, match="Radial: angles must have 3 to 3 entries, got 2"):
        Radial(3, angles=[0.0, 1.0])
    with pytest.raises(UserError, match="Spiral: turns must be > 0"):
        Spiral(turns=0.0)
    with pytest.raises(UserError, match=r"must have 2 channels .* got \(3, 8, 8\)"):
        NonCartesianMRI(Radial()).realise((3, 8, 8))
    with pytest.raises(UserError, match=r"coils\.npy is \(3, 13, 16\), the image 16x16"):
        NonCartesianMRI(Radial(), coils).realise((2, 16, 16))
    np.save(coils, 2 * np.load(coils))
    with pytest.raises(UserError, match=r"coils\.npy are not normalised: .* is 2 to 2 .* normalise: true divides"):
        NonCartesianMRI(Radial(), coils)
    assert NonCartesianMRI(Radial(), coils, normalise=True).realise((2, 13, 16)).norm() > 0
    for name, values, message in (
        ("flat", np.zeros((4, 3)), r"flat\.npy must be real numbers \(\.\.\., 2\)"),
        ("nan", np.full((4, 2), np.nan), r"nan\.npy holds NaN"),
    ):
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(UserError, match=message):
            GivenTrajectory(tmp_path / f"{name}.npy", "radians")
    np.save(tmp_path / "far.npy", np.full((4, 2), 7.0))
    with pytest.raises(UserError, match=r"far\.npy reaches 2\.23 pi radians a pixel as unit: radians"):
        NonCartesianMRI(GivenTrajectory(tmp_path / "far.npy", "radians")).realise((2, 16, 16))


@pytest.mark.parametrize(
    "sampler",
    [ConditionalDescent(calls=70), ProximalDenoising(), MMPS(RespacedSigmas(5)), RandomisedMaximumLikelihood()],
)
def test_samplers_take_measurements_that_are_no_pictures(sampler):
    """Each row on its own: y is (R, 2 coils, M), of other dimensions than an image."""
    operator = NonCartesianMRI(Radial(7)).realise((2, 8, 8)).to(torch.float64)
    prior = GaussianFieldPrior.fit(torch.randn(20, 2, 8, 8, generator=torch.Generator().manual_seed(0))).to(
        torch.float64
    )
    noise = torch.randn(2, *operator.measurement_shape, generator=torch.Generator().manual_seed(1)).double()
    truth = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.05), noise)
    both = sampler(prior, measurement, Streams(0, ["a", "b"]))
    alone = sampler(prior, measurement.rows(torch.tensor([1])), Streams(0, ["b"]))
    assert both.shape == (2, 2, 8, 8)
    torch.testing.assert_close(both[1:], alone, rtol=1e-6, atol=1e-6)
    residual = (measurement.y - measurement.observed(both)).flatten(1).norm(dim=1)
    assert (residual < 0.5 * measurement.y.flatten(1).norm(dim=1)).all()
