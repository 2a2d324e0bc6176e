"""Masks of text and scratches: how many pixels they hide, and what the marks are."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from posterior import UserError, stream
from posterior.operators import RandomInpainting, ScratchInpainting, TextInpainting
from posterior.operators.overlays import bitmap

FAMILIES = [TextInpainting, ScratchInpainting]


def streams(count, first=0):
    return [stream(0, f"image {n}", -1, "operator") for n in range(first, first + count)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(24, 40), (128, 128), (256, 300), (2, 2), (3, 300), (300, 3)])
def test_exactly_the_share_is_hidden(family, size):
    hidden = 1 - family(0.25, 0.25).realise((3, *size), streams(2)).mask
    assert hidden.flatten(1).sum(dim=1).tolist() == [math.prod(size) // 4] * 2
    assert set(hidden.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("family", [*FAMILIES, RandomInpainting])
def test_a_picture_of_which_no_pixel_can_be_masked_is_refused(family):
    with pytest.raises(UserError, match=f"{family.__name__}: images of 1x1 are too small to mask 0.25 of"):
        family(0.25, 0.25).realise((3, 1, 1), streams(1))
    assert family(0.0, 0.0).realise((3, 1, 1), streams(1)).mask.item() == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_and_masks_are_those_of_the_images_stream(family):
    masks = family(0.1, 0.3).realise((3, 48, 64), streams(60)).mask
    shares = 1 - masks.flatten(1).mean(dim=1)
    assert 0.1 - 1 / masks[0].numel() <= shares.min() < 0.13
    assert 0.27 < shares.max() <= 0.3
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(family(0.1, 0.3).realise((1, 48, 64), streams(1, first=7)).mask[0], masks[7])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_larger_picture_has_the_same_marks_enlarged(family):
    """But for pixels that the exact share cuts off from the last mark."""
    small = family(0.2, 0.2).realise((3, 128, 130), streams(3)).mask
    large = family(0.2, 0.2).realise((3, 384, 390), streams(3)).mask
    enlarged = small.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    assert (enlarged != large).flatten(1).float().mean(dim=1).max() < 0.001


def test_words_are_upright_letters_of_the_fonts_height():
    assert bitmap("Word").shape == (11, 24)
    assert np.array_equal(bitmap("Word"), np.concatenate([bitmap(letter) for letter in "Word"], axis=1))
    assert len({bitmap(letter).tobytes() for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}) == 52
    assert np.array_equal(bitmap("o"), np.flipud(np.roll(bitmap("o"), -2, axis=0)))  # four rows above it, two below
    assert bitmap("p")[-2:].any()  # what hangs down is not cut off
    for generator in streams(50):
        row, column = TextInpainting().mark((30, 50), generator).T
        assert row.max() - row.min() < 22
        assert column.max() - column.min() < 2 * 8 * 6


def test_words_hide_every_place_equally_often():
    hidden = torch.zeros(12, 16)
    generator = stream(0, "a", -1, "operator")
    for _ in range(1500):
        row, column = TextInpainting().mark((12, 16), generator).T
        inside = (row >= 0) & (row < 12) & (column >= 0) & (column < 16)
        hidden[row[inside], column[inside]] += 1
    assert (hidden.sum(dim=1) / hidden.sum() * 12 - 1).abs().max() < 0.15
    assert (hidden.sum(dim=0) / hidden.sum() * 16 - 1).abs().max() < 0.15


def test_a_scratch_is_one_line_of_one_to_three_squares():
    """A union of squares of one side is what stays of it when it is opened by that square."""
    thickness = []
    for generator in streams(60):
        places = ScratchInpainting().mark((40, 70), generator)
        row, column = (places - places.amin(dim=0)).T
        canvas = np.zeros((int(row.max()) + 1, int(column.max()) + 1), dtype=bool)
        canvas[row, column] = True
        assert ndimage.label(canvas, structure=np.ones((3, 3)))[1] == 1
        same = [n for n in range(1, 6) if (ndimage.binary_opening(canvas, np.ones((n, n))) == canvas).all()]
        thickness.append(max(same))
    assert set(thickness) == {1, 2, 3}
    assert min(map(thickness.count, (1, 2, 3))) >= 10


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.3, 0.1, "low must be >= 0 and <= 0.1"),
        (0.1, 1.0, "high must be >= 0 and < 1"),
        (0.1, 0.99, "high must .*<= 0.9"),
        (0.1, math.nan, "high must"),
    ],
)
def test_shares_that_are_none_are_refused(family, low, high, message):
    with pytest.raises(UserError, match=f"^{family.__name__}: {message}"):
        family(low, high)
