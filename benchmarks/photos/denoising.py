"""How well a prior denoises photographs, beside BM3D on the same noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.tools.tables import interval, spelt, write_rows
from datamodules.photos import HELD_OUT
from posterior.checks import length, real
from posterior.errors import UserError
from posterior.images import list_images, load_image
from posterior.priors import Prior
from posterior.random import Streams

Denoiser = Callable[[Tensor, float], Tensor]
"""(1, 3, H, W) in [-1, 1] and sigma -> the same, denoised."""


@dataclass(frozen=True)
class Row:
    """One picture under one noise.

    Args:
        kind: the set that it is of.
        image: its id.
        level: standard deviation of the noise, of 255.
        method: what denoised it.
        psnr: in dB, of the result clipped to [-1, 1].
        seconds: that it took.
    """

    kind: str
    image: str
    level: float
    method: str
    psnr: float
    seconds: float


def denoising(
    prior: Prior,
    output: Path = Path("results/denoising"),
    folder: Path | None = None,
    levels: Sequence[float] = (15, 25, 50),
    bm3d: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Print the PSNR of denoised photographs by noise level, and write it as ``denoising.csv``.

    The pictures are the held-out photographs, whole (the extra ``photos``), and those of a folder. The noise is
    Gaussian and is not clipped.

    Args:
        prior: e.g. configs/prior/photos.yaml.
        output: folder for the table.
        folder: more pictures to judge by, or None.
        levels: standard deviations of the noise, of 255.
        bm3d: denoise by BM3D as well, on the same noise (the extra ``bm3d``, free for non-commercial use).
        seed: of the noise.

    Raises:
        UserError: if a number is out of range, or something is not installed or cannot be read.
    """
    length("denoising", "levels", levels, 1, 100)
    for level in levels:
        real("denoising", "levels", level, above=0, most=255)
    methods: dict[str, Denoiser] = {"prior": prior.denoise}
    if bm3d:
        methods["BM3D"] = block_matching()
    rows = []
    for kind, image, x0 in pictures(folder):
        for level in levels:
            sigma = 2 * level / 255
            x = x0 + sigma * Streams(seed, [image]).randn(f"denoising {level:g}", x0.shape[1:])
            for method, denoise in methods.items():
                rows.append(Row(kind, image, level, method, *judged(denoise, x, sigma, x0)))
                print(f"{kind} {image}, noise {level:g}, {method}: {rows[-1].psnr:.2f} dB", flush=True)
    write_rows(output / "denoising.csv", rows)
    print("\n".join(table(rows)), flush=True)
    return rows


def pictures(folder: Path | None) -> Iterator[tuple[str, str, Tensor]]:
    """Set, id and (1, 3, H, W) of each."""
    for photo in HELD_OUT:
        yield "held-out photographs", photo.name, load_image(photo.located())[None]
    if folder is not None:
        for image, file in list_images(folder).items():
            yield folder.name, image, load_image(file)[None]


def block_matching() -> Denoiser:
    """BM3D for colours (Dabov, Foi, Katkovnik and Egiazarian, ICIP 2007), its authors' own program.

    Raises:
        UserError: if the extra ``bm3d`` is not installed.
    """
    try:
        from bm3d import bm3d_rgb
    except ImportError as error:
        raise UserError("BM3D is not installed: pip install 'posterior-sampling[bm3d]'") from error

    def denoise(x: Tensor, sigma: float) -> Tensor:
        found = bm3d_rgb((x[0].permute(1, 2, 0).double().numpy() + 1) / 2, sigma / 2)
        return torch.from_numpy(np.ascontiguousarray(found)).permute(2, 0, 1)[None].to(x) * 2 - 1

    return denoise


def judged(denoise: Denoiser, x: Tensor, sigma: float, x0: Tensor) -> tuple[float, float]:
    """PSNR in dB of what is made of x, and the seconds that it takes."""
    start = time.monotonic()
    with torch.no_grad():
        denoised = denoise(x, sigma).clamp(-1, 1)
    return float(10 * torch.log10(4 / (denoised - x0).square().mean())), time.monotonic() - start


def table(rows: Sequence[Row]) -> list[str]:
    """Means over the pictures of a set, and the differences with 95 % intervals, as Markdown."""
    methods = list(dict.fromkeys(row.method for row in rows))
    head = ["pictures", "noise", *methods, *(f"prior - {method}" for method in methods[1:])]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for kind, level in dict.fromkeys((row.kind, row.level) for row in rows):
        values = {
            method: np.array([r.psnr for r in rows if (r.kind, r.level, r.method) == (kind, level, method)])
            for method in methods
        }
        means = [f"{found.mean():.2f}" for found in values.values()]
        paired = [spelt(interval(values[methods[0]] - values[method]), 2, "+") for method in methods[1:]]
        lines.append(f"| {' | '.join([f'{kind} ({len(values[methods[0]])})', f'{level:g}', *means, *paired])} |")
    return lines
