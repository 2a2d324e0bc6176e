"""How far the estimate of the noise level is off on pictures, which have fine structure of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.tools.html import pipes
from benchmarks.tools.tables import write_rows
from datamodules.photos import PhotoCrops
from datamodules.toon import render_toon_face
from posterior.checks import MOST_IMAGES, length, real, whole
from posterior.noise_level import estimate_sigma
from posterior.operators import Denoising, GaussianBlur, OperatorFamily, SuperResolution
from posterior.random import Streams

MEASURED: dict[str, OperatorFamily] = {
    "held-out photographs, 128x128": Denoising(),
    "the same, 2x super-resolution, y of 64x64": SuperResolution(2),
    "the same, blurred with a Gaussian of std 1": GaussianBlur(9, 1.0),
}


@dataclass(frozen=True)
class Estimated:
    """One picture at one level.

    Args:
        kind: the pictures, and what was done to them.
        image: its number.
        level: true standard deviation of the noise.
        ratio: the estimate over it.
        holds: whether the 95 % interval holds it.
    """

    kind: str
    image: int
    level: float
    ratio: float
    holds: bool


def noise_level(
    output: Path = Path("results/noise_level"),
    levels: Sequence[float] = (0.02, 0.05, 0.1, 0.2),
    count: int = 20,
    seed: int = 0,
) -> list[Estimated]:
    """Print how far `estimate_sigma` is off, and how often its interval holds; write it as ``noise_level.csv``.

    The pictures are crops of the held-out photographs (the extra ``photos``) and toon faces (the extra ``faces``), one
    at a time.

    Args:
        output: folder for the table.
        levels: standard deviations of the noise, in units of y.
        count: pictures of each kind.
        seed: of the noise.

    Raises:
        UserError: if a number is out of range, or an extra is not installed.
    """
    length("noise_level", "levels", levels, 1, 100)
    for level in levels:
        real("noise_level", "levels", level, above=0)
    whole("noise_level", "count", count, 1, MOST_IMAGES)
    rows = []
    for kind, number, clean in pictures(count):
        noise = Streams(seed, [f"{kind}/{number}"])
        for level in levels:
            y = clean + level * noise.randn(f"level {level:g}", clean.shape)[0]
            rows.append(judged(kind, number, level, y))
    write_rows(output / "noise_level.csv", rows)
    print("\n".join(table(rows)), flush=True)
    return rows


def pictures(count: int) -> Iterator[tuple[str, int, Tensor]]:
    """Kind, number and (C, H, W) of each, measured without noise."""
    crops = PhotoCrops("held_out", 128, 0, count)
    crops.load()
    for number in range(count):
        photo = crops.image(number)
        for kind, family in MEASURED.items():
            yield kind, number, family.realise(tuple(photo.shape), [torch.Generator()]).forward(photo[None])[0]
        yield "toon faces, 64x64", number, render_toon_face(number, 64)[0]


def judged(kind: str, image: int, level: float, y: Tensor) -> Estimated:
    """The estimate of one picture beside the truth."""
    found = estimate_sigma(y)
    return Estimated(kind, image, level, found.sigma / level, found.low <= level <= found.high)


def table(rows: Sequence[Estimated]) -> list[str]:
    """A line a kind: median [least, greatest] ratio, and how many intervals hold, of each level; Markdown."""
    levels = list(dict.fromkeys(row.level for row in rows))
    lines = [["pictures", *(f"{level:g}" for level in levels)]]
    for kind in dict.fromkeys(row.kind for row in rows):
        lines.append([kind])
        for level in levels:
            of = [row for row in rows if (row.kind, row.level) == (kind, level)]
            ratios = np.array([row.ratio for row in of])
            held = sum(row.holds for row in of)
            lines[-1].append(f"{np.median(ratios):.2f} [{ratios.min():.2f}, {ratios.max():.2f}], {held}")
    return pipes(lines)
