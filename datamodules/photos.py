"""Openly licensed photographs that installed packages bring along: the extra ``photos``, and nothing is downloaded.

`PHOTOGRAPHS` gives each one's file, licence and author; docs/photos.md is their data card. The split is by picture:
`HELD_OUT` ones are never learned from.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.base import ImageData
from datamodules.training import DrawnImages
from posterior.checks import MOST_SIDE, choice, whole
from posterior.errors import UserError
from posterior.images import from_pixels
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily
from posterior.random import stream
from posterior.reading import read_picture

Split = Literal["training", "held_out"]

DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}
"""Package -> what it is called where it is installed from."""
SCALES = (0.4, 1.5)
"""Of a training crop, log-uniform: pixels of the crop for one of the photograph."""
GAMMA, CHANNEL_GAMMA = 0.25, 0.08
"""Standard deviations of the log of a training crop's gamma, common to the channels and of each alone."""
HUE = 0.3
"""Standard deviation in radians of a training crop's turn about the grey axis."""


@dataclass(frozen=True)
class Photograph:
    """A photograph inside an installed package.

    Args:
        name: its id.
        package: as Python imports it.
        path: of the file, below the package's folder.
        licence: as the package, or where it states none the source that docs/photos.md names, gives it.
        credit: who made it.
        weight: how often training takes it, relative to others: more for scenes than for a single texture.
    """

    name: str
    package: str
    path: str
    licence: str
    credit: str
    weight: int = 1

    def located(self) -> Path:
        """The file.

        Raises:
            UserError: if the package is not installed, or does not have it.
        """
        remedy = "pip install 'posterior-sampling[photos]'"
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"the photograph {self.name} comes with {DISTRIBUTIONS[self.package]}: {remedy}")
        path = Path(spec.submodule_search_locations[0]) / self.path
        if not path.is_file():
            told = f"{DISTRIBUTIONS[self.package]} as installed here has no {self.path}"
            raise UserError(f"the photograph {self.name} is missing, {told}: {remedy} --upgrade")
        return path


PUBLIC = "public domain"
PHOTOGRAPHS = (
    Photograph("brick", "skimage", "data/brick.png", "CC0", "CC0Textures, Bricks25"),
    Photograph("camera", "skimage", "data/camera.png", "CC0", "Lav Varshney", 2),
    Photograph("china", "sklearn", "datasets/images/china.jpg", "CC BY 2.0", "danielbuechele", 4),
    Photograph("clock", "skimage", "data/clock_motion.png", PUBLIC, "Stefan van der Walt"),
    Photograph("coins", "skimage", "data/coins.png", "no known copyright restrictions", "Brooklyn Museum Collection"),
    Photograph("flower", "sklearn", "datasets/images/flower.jpg", "CC BY 2.0", "vultilion"),
    Photograph("grace_hopper", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", PUBLIC, "United States Navy", 2),
    Photograph("grass", "skimage", "data/grass.png", "CC0", "DeviantArt, linolafett"),
    Photograph("gravel", "skimage", "data/gravel.png", "CC0", "CC0Textures, Gravel04"),
    Photograph("hubble_deep_field", "skimage", "data/hubble_deep_field.jpg", PUBLIC, "NASA"),
    Photograph("retina", "skimage", "data/retina.jpg", "CC0", "Wikimedia Commons"),
    Photograph("rocket", "skimage", "data/rocket.jpg", PUBLIC, "SpaceX", 2),
)
"""To learn from, in the order of their names."""
HELD_OUT = (
    Photograph("astronaut", "skimage", "data/astronaut.png", PUBLIC, "NASA"),
    Photograph("chelsea", "skimage", "data/chelsea.png", "CC0", "Stefan van der Walt"),
    Photograph("coffee", "skimage", "data/coffee.png", "CC0", "Rachel Michetti, Pikolo Espresso Bar"),
)
"""To judge by."""
SPLITS: dict[Split, tuple[Photograph, ...]] = {"training": PHOTOGRAPHS, "held_out": HELD_OUT}


def turned_hue(pixels: Tensor, angle: float) -> Tensor:
    """Colours (3, H, W) turned about the grey axis: Rodrigues' formula with the axis (1, 1, 1) / sqrt(3).

    Args:
        pixels: of any range; grey ones stay as they are.
        angle: in radians.
    """
    grey = pixels.mean(dim=0, keepdim=True)
    cross = (pixels.roll(1, dims=0) - pixels.roll(-1, dims=0)) / math.sqrt(3)
    return grey + math.cos(angle) * (pixels - grey) + math.sin(angle) * cross


class PhotoCrops(DrawnImages):
    """Crops of photographs, number ``start`` to ``start + count - 1``: a number decides all of a crop.

    Photograph, place, scale (0.4 to 1.5, antialiased), mirroring, quarter turns, gamma and hue are random. A grey
    photograph has three channels, equal but for their gamma.

    Args:
        split: the photographs to learn from, or those that are held out.
        size: side in pixels, >= 8.
        start: first crop, >= 0.
        count: number of crops, >= 1; drawing one takes 3 ms, and nothing is kept.

    Raises:
        UserError: if a number is out of range or the split another; when loading, if the extra ``photos`` is not
            installed.
    """

    def __init__(self, split: Split = "training", size: int = 96, start: int = 0, count: int = 10000) -> None:
        super().__init__(size, start, count)
        choice("PhotoCrops", "split", split, Split)
        self.split = split
        self.pictures: list[Image.Image] = []

    def load(self) -> None:
        self.pictures = [read_picture(photo.located(), "photograph") for photo in SPLITS[self.split]]

    def image(self, index: int) -> Tensor:
        generator = stream(0, f"photo crop/{self.start + index}", -1, "crop")
        weights = torch.tensor([float(photo.weight) for photo in SPLITS[self.split]])
        picture = self.pictures[int(torch.multinomial(weights, 1, generator=generator))]
        scale, left, top = torch.rand(3, generator=generator).tolist()
        side = min(self.size / (SCALES[0] * (SCALES[1] / SCALES[0]) ** scale), *picture.size)
        left, top = left * (picture.width - side), top * (picture.height - side)
        box = (left, top, left + side, top + side)
        crop = picture.resize((self.size, self.size), Image.Resampling.LANCZOS, box)
        return self._varied(torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 255, generator)

    @staticmethod
    def _varied(pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Mirrored, turned and recoloured: (3, size, size) in [0, 1] -> [-1, 1]."""
        mirrored, turns = torch.randint(2, (), generator=generator), torch.randint(4, (), generator=generator)
        common, hue, *single = torch.randn(5, generator=generator).tolist()
        pixels = pixels.flip(2) if mirrored else pixels
        gamma = torch.tensor([math.exp(GAMMA * common + CHANNEL_GAMMA * value) for value in single])
        pixels = pixels.rot90(int(turns), (1, 2)) ** gamma[:, None, None]
        return (2 * turned_hue(pixels, HUE * hue) - 1).clamp(-1, 1).contiguous()


class Photographs(ImageData):
    """Photographs in square pieces side by side, about the centre; the id is ``name/row_column``.

    Args:
        operator: family of measurement operators.
        likelihood: noise law.
        split: the photographs that are held out, or those to learn from.
        size: side of a piece in pixels, >= 8.
        short_side: reduce each photograph so that its shorter side has so many pixels (Lanczos, antialiased); None
            leaves it. 256 gives 16 held-out pieces of 128.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that read.
        limit: only the first so many images, for smoke runs.

    Raises:
        UserError: if a number is out of range, the split is another, the extra ``photos`` is not installed, or a
            photograph is smaller than a piece, or than ``short_side``.
    """

    def __init__(
        self,
        operator: OperatorFamily,
        likelihood: Likelihood,
        split: Split = "held_out",
        size: int = 128,
        short_side: int | None = 256,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, seed, batch_size, num_workers, limit)
        choice("Photographs", "split", split, Split)
        whole("Photographs", "size", size, 8, MOST_SIDE)
        if short_side is not None:
            whole("Photographs", "short_side", short_side, size, MOST_SIDE)
        self.split, self.size, self.short_side = split, size, short_side
        self.pictures: dict[str, Image.Image] = {}

    def list_ids(self) -> list[str]:
        self.pictures = {photo.name: self._reduced(photo) for photo in SPLITS[self.split]}
        return [
            f"{name}/{row}_{column}"
            for name, picture in self.pictures.items()
            for row in range(picture.height // self.size)
            for column in range(picture.width // self.size)
        ]

    def _reduced(self, photo: Photograph) -> Image.Image:
        picture = read_picture(photo.located(), "photograph")
        short, least = min(picture.size), self.short_side or self.size
        if short < least:
            raise UserError(f"the photograph {photo.name} is {picture.height}x{picture.width}, smaller than {least}")
        if self.short_side is None:
            return picture
        width, height = (round(side * self.short_side / short) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS)

    def read(self, image_id: str) -> Tensor:
        name, _, place = image_id.rpartition("/")
        picture = self.pictures[name]
        row, column = map(int, place.split("_"))
        left = (picture.width % self.size) // 2 + column * self.size
        top = (picture.height % self.size) // 2 + row * self.size
        piece = picture.crop((left, top, left + self.size, top + self.size))
        return from_pixels(np.array(piece).transpose(2, 0, 1))
