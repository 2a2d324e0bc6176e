import math

import numpy as np
import pytest
import pywt
import torch

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators import CartesianMRI, Dense, GaussianSensing, Inpainting, PhaseRetrieval, SubsampledTransform
from posterior.random import stream
from posterior.samplers import Lasso
from posterior.samplers.lasso import wavelet_matrix


def test_the_wavelets_are_pywavelets_and_orthonormal():
    matrix = wavelet_matrix("db4", 16)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16, dtype=torch.float64))
    x = np.random.default_rng(0).standard_normal((16, 16))
    averages, (rows, columns, both) = pywt.dwt2(x, "db4", mode="periodization")
    ours = matrix @ torch.from_numpy(x) @ matrix.T
    for found, wanted in (
        (ours[:8, :8], averages),
        (ours[8:, :8], rows),
        (ours[:8, 8:], columns),
        (ours[8:, 8:], both),
    ):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-10)


@pytest.mark.parametrize("side", [16, 24, 9])
def test_synthesis_inverts_analysis(side):
    sampler = Lasso(num_levels=3)
    x = torch.randn(2, 3, side, 2 * side)
    coefficients, coarse = sampler._analyse(x)
    torch.testing.assert_close(sampler._synthesise(coefficients), x, rtol=1e-4, atol=1e-4)
    assert coefficients.square().sum() == pytest.approx(float(x.square().sum()), rel=1e-4)
    assert int(coarse.sum()) == {16: 2 * 4, 24: 3 * 6, 9: 0}[side]


def test_with_everything_measured_it_is_soft_thresholding():
    x = torch.randn(2, 1, 16, 16)
    measurement = Measurement(x, Inpainting(torch.ones(2, 1, 16, 16), (1, 16, 16)), GaussianNoise(0.2))
    sampler = Lasso(threshold=1.5, num_steps=5, wavelet="haar", num_levels=2)
    found = sampler(None, measurement, Streams(0, ["a", "b"]))
    coefficients, coarse = sampler._analyse(x)
    shrunk = torch.where(coarse, coefficients, torch.nn.functional.softshrink(coefficients, 0.3))
    torch.testing.assert_close(found, sampler._synthesise(shrunk), rtol=1e-4, atol=1e-5)


def test_it_is_optimal():
    """The subgradient's condition: |W A^T (y - A x)| <= t, with equality and the sign where a coefficient is not 0."""
    operator = GaussianSensing(40).realise((1, 8, 8))
    y = torch.randn(1, *operator.measurement_shape)
    sampler = Lasso(threshold=1.0, num_steps=5000, wavelet="haar", num_levels=1)
    measurement = Measurement(y, operator, GaussianNoise(0.1))
    x = sampler(None, measurement, Streams(0, ["a"]))
    gradient, coarse = sampler._analyse(operator.adjoint(y - operator.forward(x)))
    coefficients, _ = sampler._analyse(x)
    limit = 0.1 * operator.norm_bound()
    assert gradient[:, :, coarse].abs().max() < 0.02 * limit
    assert gradient.abs().max() < 1.02 * limit
    active = (coefficients.abs() > 1e-3) & ~coarse
    assert 5 < int(active.sum()) < 48
    torch.testing.assert_close(gradient[active], limit * coefficients[active].sign(), rtol=0.02, atol=0)


def test_few_random_coefficients_give_a_sparse_image_back():
    """The promise of compressed sensing: error of the order of the noise, far below that of the adjoint."""
    shape = (1, 32, 32)
    sampler = Lasso(threshold=1.0, num_steps=400, wavelet="haar", num_levels=3)
    coefficients = torch.zeros(1, *shape)
    coefficients[0, 0, :4, :4] = torch.randn(4, 4)
    places = torch.randperm(1024, generator=torch.Generator().manual_seed(1))[:30]
    coefficients.flatten()[places] = 2.0
    truth = sampler._synthesise(coefficients)
    operator = SubsampledTransform(0.35, "hadamard").realise(shape, [stream(0, "a", -1, "operator")])
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.01), torch.randn(1, *shape))
    x = sampler(None, measurement, Streams(0, ["a"]))
    assert (x - truth).norm() < 0.1 * truth.norm()
    assert (operator.adjoint(measurement.y) - truth).norm() > 0.5 * truth.norm()


def test_rows_do_not_see_each_other():
    operator = CartesianMRI(num_coils=2).realise((2, 16, 16), [stream(0, n, -1, "operator") for n in "ab"])
    measurement = Measurement(torch.randn(2, *operator.measurement_shape), operator, GaussianNoise(0.05))
    together = Lasso(num_steps=20)(None, measurement, Streams(0, ["a", "b"]))
    alone = Lasso(num_steps=20)(None, measurement.rows(torch.tensor([1])), Streams(0, ["b"]))
    torch.testing.assert_close(alone, together[1:], rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="threshold must be > 0"):
        Lasso(threshold=0.0)
    with pytest.raises(UserError, match="no wavelet 'nothing'"):
        Lasso(wavelet="nothing")
    with pytest.raises(UserError, match=r"'bior2\.2' is not orthogonal"):
        Lasso(wavelet="bior2.2")
    with pytest.raises(UserError, match="'dmey' is not orthogonal"):  # its table is rounded
        Lasso(wavelet="dmey")
    operator = PhaseRetrieval().realise((1, 8, 8))
    measurement = Measurement(torch.ones(1, *operator.measurement_shape), operator, GaussianNoise(0.1))
    with pytest.raises(UserError, match="Lasso"):
        Lasso()(None, measurement, Streams(0, ["a"]))


def test_gaussian_measurements_keep_lengths_on_average():
    operator = GaussianSensing(64, seed=1).realise((1, 16, 16))
    assert isinstance(operator, Dense)
    x = torch.randn(200, 1, 16, 16)
    ratio = operator.forward(x).flatten(1).square().sum(dim=1) / x.flatten(1).square().sum(dim=1)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.05)
    assert float(ratio.std()) < 2 * math.sqrt(2 / 64)
    again = GaussianSensing(64, seed=1).realise((1, 16, 16))
    assert torch.equal(operator.forward(x[:1]), again.forward(x[:1]))
    with pytest.raises(UserError, match="too large"):
        GaussianSensing(30000).realise((3, 64, 64))
    with pytest.raises(UserError, match="powers of 2, got 12"):
        SubsampledTransform(0.5, "hadamard").realise((1, 12, 16), [stream(0, "a", -1, "operator")])
    with pytest.raises(UserError, match="share must be > 0 and <= 1"):
        SubsampledTransform(0.0)
