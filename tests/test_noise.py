import numpy as np
import pytest
import torch
from scipy.stats import poisson

from posterior import Measurement, UserError
from posterior.noise import GaussianNoise, PoissonNoise


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
    assert GaussianNoise(0.3).annealed(0.16, torch.zeros(1)).sigma_y == pytest.approx(0.5)
    assert GaussianNoise(0.3).annealed(0.0, torch.zeros(1)).sigma_y == pytest.approx(0.3)


def test_distance_is_one_norm_per_row():
    y = torch.zeros(2, 3, 1, 1)
    clean = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]).view(2, 3, 1, 1)
    assert GaussianNoise(1.0).distance(y, clean).tolist() == [5.0, 2.0]


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_photon_counts_become_the_references_measurement(golden_folder, relative, rate):
    arrays = np.load(golden_folder / "operators.npz")
    name = str(rate).replace(".", "p")
    y = PoissonNoise(rate).measured(torch.from_numpy(arrays[f"noise_poisson_counts_rate{name}"]).double())
    assert relative(y, arrays[f"noise_poisson_y_rate{name}"]) < 1e-6


@pytest.mark.parametrize("clean", [-1.5, -0.9, 0.0, 0.7])
def test_counts_follow_the_poisson_law(clean):
    noise = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))
    law, mean = PoissonNoise(0.1), 25.5 * max(0.0, (clean + 1) / 2)
    y = law.sample(torch.full((1, 20_000), clean), noise)
    counts = ((y + 1) * 25.5 / 2).round().flatten()
    if mean == 0:
        assert counts.abs().max() == 0
        return
    expected = poisson(mean)
    for value in np.quantile(counts, [0.1, 0.3, 0.5]):
        share = float((counts <= value).double().mean())
        assert abs(share - expected.cdf(value)) < 4 * 0.5 / 20_000**0.5


def test_a_count_keeps_its_place_in_the_distribution():
    """The same normal number gives a brighter pixel more photons: what couples a run to its noise."""
    noise = torch.full((1, 50), 0.3)
    y = PoissonNoise(1.0).sample(torch.linspace(-1, 0.9, 50)[None], noise)
    assert (y.diff() >= 0).all()


def test_the_variance_is_that_of_the_law_at_y():
    law = PoissonNoise(0.5)
    clean = torch.full((1, 200_000), 0.2)
    y = law.sample(clean, torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)))
    assert float(y.var()) == pytest.approx(float(law.variance(torch.tensor(0.2))), rel=0.02)
    assert float(law.variance(torch.tensor(-1.0))) == pytest.approx(4 / 127.5**2)
    assert law.sigma_y**2 == pytest.approx(float(law.variance(torch.tensor(0.0))))


def test_the_gaussian_that_stands_for_photon_noise():
    law, y = PoissonNoise(1.0), torch.tensor([[-1.0, -0.2, 0.6]], dtype=torch.float64)
    clean = torch.zeros_like(y, requires_grad=True)
    log_prob = torch.distributions.Normal(clean, law.variance(y) ** 0.5).log_prob(y).sum()
    torch.testing.assert_close(law.score(y, clean), torch.autograd.grad(log_prob, clean)[0])
    annealed = law.annealed(0.3, y)
    torch.testing.assert_close(
        annealed.variance(y + 5), law.variance(y) + 0.3
    )  # the measured y counts, not the noisier
    torch.testing.assert_close(annealed.annealed(0.2, y).variance(y), law.variance(y) + 0.5)


def test_dps_weighs_photon_noise_by_the_measurement():
    y = torch.tensor([[0.5, -0.25, 0.0], [1.0, 1.0, 0.5]])
    clean = torch.tensor([[0.5, 0.75, 0.0], [1.0, 0.0, 0.5]])
    distance = PoissonNoise(1.0).distance(y, clean)
    assert distance.tolist() == pytest.approx([(2 + 4) / 2, (1 + 1 + 2) / 3])


def test_the_residual_of_the_truth_is_one_under_photon_noise():
    from posterior.operators import RandomInpainting
    from posterior.random import stream

    truth = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.9
    operator = RandomInpainting().realise((3, 32, 32), [stream(0, "a", -1, "operator"), stream(0, "b", -1, "operator")])
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    measurement = Measurement.simulate(truth, operator, PoissonNoise(1.0), noise)
    assert measurement.relative_residual(truth).tolist() == pytest.approx([1, 1], abs=0.08)


@pytest.mark.parametrize("grey", [-0.9, -0.5, 0.5])
def test_the_residual_of_a_dark_truth_is_one_too(grey):
    from posterior.operators import SuperResolution

    truth = torch.full((1, 3, 32, 32), grey)
    operator = SuperResolution(2, "average").realise((3, 32, 32))
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    measurement = Measurement.simulate(truth, operator, PoissonNoise(1.0), noise)
    assert float(measurement.relative_residual(truth)) == pytest.approx(1, abs=0.1)


def test_annealed_photon_noise_follows_its_images():
    law = PoissonNoise(1.0).annealed(0.1, torch.tensor([[-0.5], [0.5]]))
    assert law.rows(torch.tensor([1, 1])).variances.flatten().tolist() == [float(law.variances[1])] * 2
    assert PoissonNoise(1.0).rows(torch.tensor([0])) == PoissonNoise(1.0)


@pytest.mark.parametrize("side", [16, 64])
def test_photons_are_refused_where_the_operator_leaves_their_range(side):
    """Amplitudes of tens would be cut off at 1; also if this image, of noise, has none."""
    from posterior.operators import CartesianMRI, PhaseRetrieval
    from posterior.random import stream

    truth = torch.rand(2, 2, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    families = PhaseRetrieval(2.0), CartesianMRI()
    for family in families:
        operator = family.realise(truth.shape[1:], [stream(0, name, -1, "operator") for name in "ab"])
        noise = torch.zeros(2, *operator.measurement_shape)
        with pytest.raises(UserError, match=f"A x of {type(operator).__name__} for a white image has values from"):
            Measurement.simulate(truth, operator, PoissonNoise(1.0), noise)
        Measurement.simulate(truth, operator, GaussianNoise(0.1), noise)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_photons_are_counted_where_resizing_overshoots(scale):
    """The sharpest of all images: every weight of bicubic resizing meets a pixel of its sign."""
    from posterior.operators import SuperResolution

    operator = SuperResolution(scale).realise((1, 64, 64))
    row = operator.row_matrix[32 // scale].sign()
    truth = (row[:, None] * row).where(row[:, None] * row != 0, torch.ones(()))[None, None]
    assert 1.3 < operator.forward(truth).max() < 1.5
    assert Measurement.simulate(truth, operator, PoissonNoise(1.0), torch.zeros(1, 1, 64 // scale, 64 // scale))


def test_the_rate_must_be_positive():
    with pytest.raises(UserError, match="rate must be > 0"):
        PoissonNoise(0.0)
