"""Inpainting of what lies over a picture: text, scratches."""

from __future__ import annotations

import math
import string
from abc import abstractmethod

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from posterior.checks import real
from posterior.operators.inpainting import MaskedShare

UNITS = 128
"""Of the shorter side: marks are made of squares of so many whole pixels, and of at least one."""
LETTERS = (3, 8)
"""Of a word, least and most."""
ENLARGEMENT = (1, 2)
"""Of a word's letters, in squares a pixel of the font, least and most."""
THICKNESS = (1, 3)
"""Of a scratch in squares, least and most."""
BEND = 0.25
"""Of a scratch: how far its middle may be drawn aside, as a share of each side of the picture, to either hand."""
MOST_HIDDEN = 0.9
"""Share of the pixels: marks at random places take ever longer to find the last ones, above all in corners."""


class Overlay(MaskedShare):
    """Marks lie over the picture, one after the other, until a share of its pixels is hidden.

    The share is drawn per image, uniformly in [low, high], and exact: what the last mark would hide beyond it stays
    visible, from its lowest row up.

    Args:
        low, high: bounds of the share of masked pixels, 0 <= low <= high <= 0.9.

    Raises:
        UserError: if the bounds are not in order, or high is above 0.9.
    """

    def __init__(self, low: float = 0.1, high: float = 0.3) -> None:
        super().__init__(low, high)
        real(type(self).__name__, "high", high, most=MOST_HIDDEN)

    @abstractmethod
    def mark(self, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Rows and columns of a mark's squares, (N, 2) int64, also outside of the picture and repeated.

        Args:
            size: rows and columns of squares that the picture has.
            generator: of the image.
        """

    def masked(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        height, width = size
        side = max(1, min(size) // UNITS)
        square = torch.cartesian_prod(torch.arange(side), torch.arange(side)).view(-1, 2)
        hidden, missing = torch.zeros(height * width, dtype=torch.bool), count
        while missing > 0:
            squares = self.mark((math.ceil(height / side), math.ceil(width / side)), generator).unique(dim=0)
            row, column = (side * squares[:, None] + square).flatten(0, 1).unbind(dim=1)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            covered = (row * width + column)[inside].unique()
            new = covered[~hidden[covered]][:missing]
            hidden[new], missing = True, missing - len(new)
        return hidden.nonzero()[:, 0]


class TextInpainting(Overlay):
    """Words lie over the picture, of random letters in Pillow's built-in bitmap font, at random places.

    Letters are about 11 or 22 128ths of the shorter side high, and at least as many pixels. Masks depend on no font
    file, and on no version of a font library.

    Args:
        low, high: bounds of the share of masked pixels, 0 <= low <= high <= 0.9.

    Raises:
        UserError: if the bounds are not in order, or high is above 0.9.
    """

    def mark(self, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        letters = torch.randint(len(string.ascii_letters), (_between(LETTERS, generator),), generator=generator)
        word = bitmap("".join(string.ascii_letters[letter] for letter in letters))
        factor = _between(ENLARGEMENT, generator)
        inked = torch.from_numpy(word.repeat(factor, axis=0).repeat(factor, axis=1))
        corner = [_between((1 - own, most - 1), generator) for own, most in zip(inked.shape, size, strict=True)]
        return inked.nonzero() + torch.tensor(corner)


class ScratchInpainting(Overlay):
    """Scratches lie over the picture: bent lines from one random place to another.

    Each is a quadratic Bezier curve, about one to three 128ths of the shorter side thick, and at least as many pixels.

    Args:
        low, high: bounds of the share of masked pixels, 0 <= low <= high <= 0.9.

    Raises:
        UserError: if the bounds are not in order, or high is above 0.9.
    """

    def mark(self, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        brush = torch.arange(_between(THICKNESS, generator))
        start, end, aside = torch.rand(3, 2, generator=generator, dtype=torch.float64)
        middle = (start + end) / 2 + BEND * (2 * aside - 1)
        t = torch.linspace(0, 1, 2 * sum(size), dtype=torch.float64)[:, None]  # less than a square apart
        path = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        places = (path * torch.tensor(size)).floor().long()
        return (places[:, None] + torch.cartesian_prod(brush, brush).view(-1, 2)).flatten(0, 1)


def bitmap(word: str) -> np.ndarray:
    """A word in Pillow's built-in bitmap font, (11, 6 letters), true where there is ink."""
    font = ImageFont.load_default_imagefont()
    picture = Image.new("1", font.getbbox(word)[2:])
    ImageDraw.Draw(picture).text((0, 0), word, fill=1, font=font)
    return np.array(picture)


def _between(bounds: tuple[int, int], generator: torch.Generator) -> int:
    """A whole number, evenly from the least to the most."""
    least, most = bounds
    return int(torch.randint(least, most + 1, (), generator=generator))
