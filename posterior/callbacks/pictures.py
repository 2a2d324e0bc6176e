"""Pictures of a run: single PNG files, and the grid that a person opens first."""

from __future__ import annotations

import io
from collections.abc import Container
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from posterior.files import write_whole
from posterior.images import to_pixels

STD_RANGE = 0.3
"""Standard deviation, on the [-1, 1] scale, that the std picture shows as its brightest colour."""


def std_picture(std: Tensor) -> np.ndarray:
    """Per-pixel standard deviation (C, H, W), root mean square over channels, as colours (H, W, 3) uint8."""
    level = std.square().mean(dim=0).sqrt().cpu().numpy() / STD_RANGE
    return (colormaps["magma"](np.clip(level, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def sheet(images: Tensor, columns: int = 8, enlarge: int = 2, gap: int = 2) -> np.ndarray:
    """Images (N, C, H, W) in [-1, 1] side by side, as (H', W', 3) uint8."""
    rows = -(-len(images) // columns)
    height, width = (enlarge * side + gap for side in images.shape[-2:])
    out = np.full((rows * height + gap, columns * width + gap, 3), 255, dtype=np.uint8)
    for number, image in enumerate(images):
        pixels = to_pixels(image).repeat(enlarge, axis=0).repeat(enlarge, axis=1)
        top, left = number // columns * height + gap, number % columns * width + gap
        out[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return out


def png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8; the file appears whole or not at all."""
    write_whole(path, png(pixels))


def picture_names(num_samples: int, there: Container[str], most_samples: int = 3) -> dict[str, str]:
    """Columns of the grid, file stem -> label, of the pictures that are there."""
    columns = {"measurement": "measurement", "operator": "operator"}
    columns |= {f"sample_{k:03d}": f"sample {k}" for k in range(min(num_samples, most_samples))}
    columns |= {"best": "least residual", "oracle": "oracle's choice"}
    columns |= {"mean": f"mean of {num_samples}", "std": f"std, 0 to {STD_RANGE}", "truth": "truth"}
    return {stem: label for stem, label in columns.items() if stem in there}


def make_grid(images: Path, ids: list[str], columns: dict[str, str], path: Path, least_side: int = 128) -> None:
    """Write a labelled sheet: a row per image id, a column per picture.

    Args:
        images: the folder ``images/`` of a run.
        ids: rows.
        columns: file stem -> label.
        path: the PNG file to write.
        least_side: pictures smaller than this are enlarged by a whole factor, to be looked at.
    """
    with Image.open(images / ids[0] / f"{next(iter(columns))}.png") as first:
        width, height = first.size
    factor = max(1, -(-least_side // max(width, height)))
    width, height, gap = width * factor, height * factor, 4
    font = ImageFont.load_default(size=max(10, min(14, width // 9)))
    labels = [image_id if len(image_id) <= 24 else f"...{image_id[-21:]}" for image_id in ids]
    head, left = 22, 8 + max(int(font.getlength(label)) for label in labels)
    sheet = Image.new("RGB", (left + len(columns) * (width + gap), head + len(ids) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(labels):
        draw.text((4, head + row * (height + gap) + height // 2 - 8), label, fill="black", font=font)
    for column, (stem, heading) in enumerate(columns.items()):
        x = left + column * (width + gap)
        draw.text((x + 2, 4), heading, fill="black", font=font)
        for row, image_id in enumerate(ids):
            y = head + row * (height + gap)
            with Image.open(images / image_id / f"{stem}.png") as picture:
                shown = ImageOps.contain(picture.convert("RGB"), (width, height), Image.Resampling.NEAREST)
                sheet.paste(shown, (x + (width - shown.width) // 2, y + (height - shown.height) // 2))
    save_png(np.asarray(sheet), path)
