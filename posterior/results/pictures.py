"""Pictures of a run: single PNG files, and the grid that a person opens first."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from posterior.files import write_whole
from posterior.images import to_pixels
from posterior.reading import PNG

STD_RANGE = 0.3
"""Standard deviation, on the [-1, 1] scale, that the std picture shows as its brightest colour."""
STD_TICKS = (0.0, 0.03, 0.1, 0.3)
"""What the grid's colour bar names."""
STD_SMOOTHING = 1.0
"""Of the variance in std pictures: standard deviation of a Gaussian in pixels, as few samples give speckle."""


def std_colours(level: np.ndarray) -> np.ndarray:
    """Standard deviations (...) as colours (..., 3) uint8, by their square root: most are small."""
    shades = colormaps["magma"](np.sqrt(np.clip(np.asarray(level) / STD_RANGE, 0, 1)), bytes=True)
    return np.asarray(shades, dtype=np.uint8)[..., :3]


def std_picture(std: Tensor) -> np.ndarray:
    """Standard deviation (C, H, W) as colours (H, W, 3) uint8: root mean square over channels and near pixels."""
    variance = std.square().mean(dim=0).cpu().numpy()
    return std_colours(np.sqrt(scipy.ndimage.gaussian_filter(variance, STD_SMOOTHING, mode="nearest")))


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
    """(H, W, 3) uint8 or uint16 as the content of a PNG file."""
    if pixels.dtype == np.uint16:  # Pillow writes colours of 8 bits only
        height, width = pixels.shape[:2]
        header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))  # each: no filter
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        return PNG + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
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
    columns |= {"mean": f"mean of {num_samples}", "std": "std, smoothed", "truth": "truth"}
    return {stem: label for stem, label in columns.items() if stem in there}


def make_grid(rows: Sequence[tuple[str, Path]], columns: dict[str, str], path: Path, least_side: int = 128) -> None:
    """Write a labelled sheet: a row per image, a column per picture, and what the colours of std pictures mean.

    Args:
        rows: label (of one line or several), and the image's folder in ``images/`` of a run.
        columns: file stem -> label.
        path: the PNG file to write.
        least_side: pictures smaller than this are enlarged by a whole factor, to be looked at.
    """
    with Image.open(rows[0][1] / f"{next(iter(columns))}.png") as first:
        width, height = first.size
    factor = max(1, -(-least_side // max(width, height)))
    width, height, gap = width * factor, height * factor, 4
    font = ImageFont.load_default(size=max(10, min(15, width // 8)))
    lines = [[line if len(line) <= 24 else f"...{line[-21:]}" for line in label.split("\n")] for label, _ in rows]
    head, left = 24, 12 + max(int(font.getlength(line)) for label in lines for line in label)
    foot = 56 if "std" in columns else 0
    sheet = Image.new("RGB", (left + len(columns) * (width + gap), head + len(rows) * (height + gap) + foot), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(lines):
        middle = head + row * (height + gap) + height // 2
        draw.text((left - 8, middle), "\n".join(label), fill="black", font=font, anchor="rm", align="right")
    for column, (stem, heading) in enumerate(columns.items()):
        x = left + column * (width + gap)
        draw.text((x + width // 2, head // 2), heading, fill="black", font=font, anchor="mm")
        for row, (_, folder) in enumerate(rows):
            y = head + row * (height + gap)
            with Image.open(folder / f"{stem}.png") as picture:
                shown = ImageOps.contain(picture.convert("RGB"), (width, height), Image.Resampling.NEAREST)
                sheet.paste(shown, (x + (width - shown.width) // 2, y + (height - shown.height) // 2))
        if stem == "std":
            _colour_bar(sheet, (x, sheet.height - foot + 4), width)
    save_png(np.asarray(sheet), path)


def _colour_bar(sheet: Image.Image, corner: tuple[int, int], width: int) -> None:
    """A horizontal bar with the colours of std pictures, and the values that they stand for."""
    (x, y), height, font = corner, 12, ImageFont.load_default(size=max(8, min(11, width // 10)))
    levels = STD_RANGE * np.linspace(0, 1, width) ** 2
    sheet.paste(Image.fromarray(np.broadcast_to(std_colours(levels), (height, width, 3)).copy()), (x, y))
    draw = ImageDraw.Draw(sheet)
    for tick in STD_TICKS:
        at = (tick / STD_RANGE) ** 0.5
        place = x + round(at * (width - 1))
        draw.line([(place, y + height), (place, y + height + 3)], fill="black")
        draw.text((place, y + height + 4), f"{tick:g}", fill="black", font=font, anchor="lmr"[round(2 * at)] + "a")
    draw.text((x + width // 2, y + height + 18), "values in [-1, 1]", fill="black", font=font, anchor="ma")
