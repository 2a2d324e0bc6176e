from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks.tools.building import built
from benchmarks.tools.recipe import fill_by_recipe
from datamodules import Photographs
from posterior.errors import UserError
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution
from posterior.priors import LocalPrior, LocalUNet, Prior
from posterior.priors.local import continued, tiles
from posterior.settings import conformed, read_settings

CONFIGS = Path(__file__).parents[2] / "configs"

SMALL = {"widths": (8, 12), "down_blocks": (1, 1), "up_blocks": (1,)}
STRIDE, REACH = 4, 24
"""Of the small network: 6 convolutions over cells of 2 pixels, 2 over cells of 4, and a cell of 4."""


def network() -> LocalUNet:
    small = LocalUNet(**SMALL)
    fill_by_recipe(small)
    return small


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_tiles_give_the_whole_pictures_result_and_gradient():
    whole, tiled = LocalPrior(network()), LocalPrior(network(), tile=56)
    x = images(2, 3, 131, 75).requires_grad_()
    levels = torch.tensor([0.1, 2.0])
    expected, found = whole.denoise(x, levels), tiled.denoise(x, levels)
    assert (found - expected).abs().max() < 1e-5
    v = images(2, 3, 131, 75).flip(-1)
    wanted, gradient = (torch.autograd.grad((y * v).sum(), x)[0] for y in (expected, found))
    assert (gradient - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert tiled.cost.forward == whole.cost.forward == 2


@pytest.mark.parametrize(("side", "tile", "reach"), [(56, 56, 24), (57, 56, 24), (400, 56, 24), (1000, 512, 96)])
def test_tiles_cover_a_side_once_and_see_far_enough(side, tile, reach):
    parts = list(tiles(side, tile, reach))
    covered = [pixel for part in parts for pixel in range(part.kept.start, part.kept.stop)]
    assert covered == list(range(side))
    for part in parts:
        assert part.seen.stop - part.seen.start <= tile
        assert part.seen.start == max(0, part.kept.start - reach)
        assert part.seen.stop == min(side, part.kept.stop + reach)
        assert list(range(side))[part.seen][part.inside] == list(range(side))[part.kept]
        assert part.kept.start % 8 == 0


def test_a_pixel_sees_no_farther_than_it_says():
    """And about as far: by derivatives of single pixels, one for every place in a cell of the bottom."""
    prior = LocalPrior(network())
    assert (prior.stride, prior.reach) == (STRIDE, REACH)
    assert (LocalUNet().stride, LocalUNet().reach) == (8, 96)
    farthest = 0
    for place in range(40, 40 + STRIDE):
        x = images(1, 3, 80, 80).requires_grad_()
        (gradient,) = torch.autograd.grad(prior.denoise(x, 1.0)[0, 0, place, place], x)
        rows, columns = gradient[0].abs().sum(dim=0).nonzero().unbind(dim=1)
        farthest = max(farthest, int((rows - place).abs().max()), int((columns - place).abs().max()))
    assert REACH - STRIDE <= farthest <= REACH


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 9])
def test_a_picture_is_continued_by_reflection(side):
    x = images(1, 2, side, 3)
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (0, -side % 8), (0, 5)], mode="reflect")
    np.testing.assert_array_equal(continued(x, 8).numpy(), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 100), (5, 7), (300, 3)])
def test_any_size_works_and_a_small_one_says_so(shape):
    prior = LocalPrior(network(), tile=56)
    denoised = prior.denoise(images(1, 3, *shape), 0.3)
    assert denoised.shape == (1, 3, *shape)
    assert torch.isfinite(denoised).all()
    line = prior.check_images((3, *shape))
    assert line is not None
    assert f"images of {shape[0]}x{shape[1]} are smaller than the {REACH} pixels" in line
    assert "\n" not in line


def test_a_picture_that_is_large_enough_needs_no_words():
    prior = LocalPrior(network())
    assert prior.check_images((3, REACH, 4000)) is None
    with pytest.raises(UserError, match=r"is for images .*take images of 3 channels"):
        prior.check_images((1, 64, 64))


def test_rows_do_not_see_each_other():
    prior, x = LocalPrior(network(), tile=56), images(3, 3, 30, 70)
    together = prior.denoise(x, torch.tensor([0.05, 0.5, 5.0]))
    for row, sigma in enumerate((0.05, 0.5, 5.0)):
        torch.testing.assert_close(together[row], prior.denoise(x[row : row + 1], sigma)[0], rtol=1e-5, atol=1e-5)


def test_an_untrained_network_gives_the_mean_of_pixels_of_unit_variance():
    x = images(2, 3, 20, 20)
    torch.testing.assert_close(LocalPrior(LocalUNet(**SMALL)).denoise(x, 0.5), x / 1.25)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tile": 51}, "LocalPrior: tile must be >= 52"),
        ({"tile": 54}, "multiple of the network's stride 4, got 54"),
    ],
)
def test_a_tile_that_does_not_fit_is_refused(settings, told):
    with pytest.raises(UserError, match=told):
        LocalPrior(network(), **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"widths": ()}, "widths must have 1 to"),
        ({"widths": (8, 0)}, "widths must be >= 1"),
        ({"down_blocks": (1,)}, "down_blocks must have 2 to 2 entries"),
        ({"up_blocks": (1, 1)}, "up_blocks must have 1 to 1 entries"),
        ({"up_blocks": (-1,)}, "blocks must be >= 0"),
        ({"patch_size": 0}, "patch_size must be >= 1"),
        ({"widths": (4096, 4096), "down_blocks": (64, 64)}, "more than 1e.10"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        LocalUNet(**(SMALL | settings))


def test_the_shipped_prior_is_the_trained_one():
    shipped = yaml.safe_load((CONFIGS / "prior" / "photos.yaml").read_text())
    trained = yaml.safe_load((CONFIGS / "train" / "photos.yaml").read_text())["model"]["prior"]
    weights = CONFIGS / "prior" / shipped["init_args"].pop("checkpoint")
    assert shipped == trained
    assert weights.stat().st_size <= 12_000_000


@pytest.mark.parametrize(("sigma", "gain"), [(0.02, 1.5), (50 / 255, 8.0), (1.0, 14.0)])
def test_the_shipped_prior_takes_noise_from_a_photograph_it_has_not_seen(sigma, gain):
    """By so many dB at least; and an image in the middle is not shifted by it."""
    pytest.importorskip("skimage", reason="the extra 'photos' is not installed")
    kinds = {"prior": Prior}
    (prior,) = built(conformed({"prior": read_settings(CONFIGS / "prior" / "photos.yaml")}, kinds), kinds, "photos")
    data = Photographs(SuperResolution(), GaussianNoise(0.05))
    data.setup("predict")
    x0 = data.read("chelsea/0_1")[None]
    x = x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    error = prior.denoise(x, sigma) - x0
    assert 10 * torch.log10((x - x0).square().mean() / error.square().mean()) > gain
    assert error.mean().abs() < 0.05 * sigma
