import numpy as np
import pytest
import torch

from posterior import UserError, stream
from posterior.operators import CartesianMRI, MultiCoilFourier, UndersampledFourier
from posterior.operators.mri import (
    centred_fft,
    centred_ifft,
    root_sum_of_squares,
    simulated_coils,
    to_channels,
    to_complex,
    undersampling_mask,
)

SHAPE = (2, 24, 40)


def streams(count):
    return [stream(0, f"image {n}", -1, "operator") for n in range(count)]


def fastmri_random(width, acceleration, center_fraction, seed):
    """Section 3 of arXiv:1811.08839, written from its text and its code's order of draws."""
    low = round(width * center_fraction)
    probability = (width / acceleration - low) / (width - low)
    kept = np.random.RandomState(seed).uniform(size=width) < probability
    pad = (width - low + 1) // 2
    kept[pad : pad + low] = True
    return kept


@pytest.mark.parametrize(("width", "acceleration", "fraction"), [(368, 4, 0.08), (368, 8, 0.04), (41, 4, 0.1)])
def test_random_masks_are_fastmris(width, acceleration, fraction):
    for seed in range(5):
        found = undersampling_mask("random", width, acceleration, fraction, np.random.RandomState(seed))
        assert np.array_equal(found.astype(bool), fastmri_random(width, acceleration, fraction, seed))
    masks = [undersampling_mask("random", width, acceleration, fraction, np.random.default_rng(n)) for n in range(400)]
    assert np.mean(masks) == pytest.approx(1 / acceleration, rel=0.05)


@pytest.mark.parametrize(("width", "acceleration", "fraction"), [(368, 4, 0.08), (368, 8, 0.04), (320, 4, 0.08)])
def test_equispaced_masks_have_the_acceleration_they_say(width, acceleration, fraction):
    for seed in range(8):
        mask = undersampling_mask("equispaced", width, acceleration, fraction, np.random.RandomState(seed))
        low = round(width * fraction)
        start = (width - low + 1) // 2
        assert mask[start : start + low].all()
        assert mask.sum() == pytest.approx(width / acceleration, rel=0.06)
        spacing = acceleration * (low - width) / (low * acceleration - width)
        first = int(np.random.RandomState(seed).randint(0, round(spacing)))
        expected = {int(np.around(first + k * spacing)) for k in range(width) if first + k * spacing < width - 1}
        assert set(np.flatnonzero(mask).tolist()) == expected | set(range(start, start + low))


@pytest.mark.parametrize(("width", "acceleration", "fraction"), [(16, 4, 0.24), (8, 8, 0.04), (32, 8, 0.12)])
def test_a_centre_that_is_nothing_or_everything_is_refused(width, acceleration, fraction):
    for mask in ("random", "equispaced"):
        with pytest.raises(UserError, match=r"CartesianMRI: a centre of .* columns; it must be at least one"):
            CartesianMRI(acceleration, fraction, mask).realise((2, 8, width), streams(1))


def test_the_transform_is_orthonormal_and_centred():
    z = torch.randn(2, 1, 9, 12, dtype=torch.complex128)
    torch.testing.assert_close(centred_ifft(centred_fft(z)), z)
    torch.testing.assert_close(centred_fft(z).abs().square().sum(), z.abs().square().sum())
    flat = centred_fft(torch.ones(1, 1, 8, 8, dtype=torch.complex64)).abs()
    assert flat.argmax() == 4 * 8 + 4  # the zero frequency in the middle
    x = torch.randn(2, 6, 4, 5)
    assert torch.equal(to_channels(to_complex(x)), x)


def test_root_sum_of_squares_is_that_of_its_definition():
    z = torch.randn(2, 5, 4, 3, dtype=torch.complex64)
    expected = np.sqrt((np.abs(z.numpy()) ** 2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(root_sum_of_squares(z).numpy(), expected, rtol=1e-5)


def test_simulated_coils_are_smooth_and_normalised():
    coils = simulated_coils(6, 64, 48, 0.3, np.arange(6.0))
    np.testing.assert_allclose((np.abs(coils) ** 2).sum(axis=0), 1, rtol=1e-5)
    assert np.abs(np.diff(coils, axis=1)).max() < 0.15
    assert np.abs(np.diff(coils, axis=2)).max() < 0.15
    assert (np.abs(coils).max(axis=(1, 2)) > 0.7).all()  # each is the nearest somewhere


def test_coils_that_see_everything_measure_what_one_coil_does():
    single = CartesianMRI().realise(SHAPE, streams(2))
    x = torch.randn(2, *SHAPE)
    ones = torch.zeros(2, 1, 24, 40, 2)
    ones[..., 0] = 1
    torch.testing.assert_close(MultiCoilFourier(single.mask, ones, SHAPE).forward(x), single.forward(x))


def test_masks_and_coils_are_drawn_per_image():
    family = CartesianMRI(3, 0.1, num_coils=3)
    together = family.realise(SHAPE, streams(3))
    alone = family.realise(SHAPE, streams(3)[2:])
    assert torch.equal(together.mask[2:], alone.mask)
    assert torch.equal(together.sensitivities[2:], alone.sensitivities)
    assert not torch.equal(together.mask[0], together.mask[1])
    assert together.num_measured().tolist() == [6 * 24 * float(mask.sum()) for mask in together.mask]


def test_given_sensitivities_are_taken(tmp_path):
    coils = (2 * simulated_coils(2, 24, 40, 0.0, [0.0, 1.0])).astype(np.complex128)
    np.save(tmp_path / "coils.npy", coils)
    operator = CartesianMRI(sensitivities=tmp_path / "coils.npy").realise(SHAPE, streams(2))
    np.testing.assert_allclose(torch.view_as_complex(operator.sensitivities)[1].numpy(), coils / 2, rtol=1e-5)
    assert operator.norm().max() <= 1 + 1e-6
    with pytest.raises(UserError, match=r"coils\.npy is \(2, 24, 40\), the image 24x41"):
        CartesianMRI(sensitivities=tmp_path / "coils.npy").realise((2, 24, 41), streams(1))


def test_bad_settings_and_files_are_named(tmp_path):
    for settings in ({"acceleration": 1.0}, {"center_fraction": 0.3}, {"center_fraction": 0.0}, {"num_coils": 0}):
        with pytest.raises(UserError, match=f"CartesianMRI: {next(iter(settings))} must be"):
            CartesianMRI(**settings)
    with pytest.raises(UserError, match=r"must have 2 channels .* got \(3, 24, 40\)"):
        CartesianMRI().realise((3, 24, 40), streams(1))
    with pytest.raises(UserError, match=r"sensitivities .*none\.npy does not exist"):
        CartesianMRI(sensitivities=tmp_path / "none.npy")
    np.save(tmp_path / "real.npy", np.ones((2, 4, 4)))
    with pytest.raises(UserError, match=r"must be a complex array \(coils, H, W\)"):
        CartesianMRI(sensitivities=tmp_path / "real.npy")


def test_a_single_coil_is_one_that_has_a_basis():
    operator = CartesianMRI().realise(SHAPE, streams(1))
    assert isinstance(operator, UndersampledFourier)
    assert operator.diagonal() is not None
    assert CartesianMRI(num_coils=2).realise(SHAPE, streams(1)).diagonal() is None


@pytest.mark.parametrize("scale", [1e-3, 0.4])
def test_sensitivities_on_another_scale_are_refused(tmp_path, scale):
    np.save(tmp_path / "coils.npy", scale * simulated_coils(2, 24, 40, 0.0, [0.0, 1.0]))
    with pytest.raises(UserError, match=r"coils\.npy have a root sum of squares of .* scale them"):
        CartesianMRI(sensitivities=tmp_path / "coils.npy")
