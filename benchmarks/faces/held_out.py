"""The toon faces that no prior is trained on, as one small file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.toon import render_toon_face
from posterior.images import to_pixels

PARTS = {"hair": "hair", "rear_hair": "rearHair", "beard": "beard", "eyes": "eyes", "mouth": "mouth"}
"""Attribute -> the style's name of it."""


def held_out_toon(output: Path, size: int = 32, start: int = 0, count: int = 256) -> None:
    """Render faces and their attributes into an .npz file (datamodules/toon_faces32.npz).

    ``images`` (N, 3, size, size) uint8; ``ids`` (N,); the parts ``hair``, ``rear_hair``, ``beard``, ``eyes``, ``mouth``
    as the style names them, "" where hidden; the palettes' colours ``skin_tone``, ``hair_tone``, ``background_tone``,
    and the drawn, varied ones ``skin_color``, ``hair_color``, ``background_color``.

    Args:
        output: the file to write.
        size: side in pixels.
        start: first face.
        count: number of faces.
    """
    faces = {f"toon_{index:06d}": render_toon_face(index, size) for index in range(start, start + count)}
    images = np.stack([to_pixels(image).transpose(2, 0, 1) for image, _ in faces.values()])
    arrays: dict[str, Any] = {
        name: [str(options.get(f"{part}Variant", "")) for _, options in faces.values()] for name, part in PARTS.items()
    }
    for name in ("skin", "hair", "background"):
        arrays[f"{name}_tone"] = [options["tones"][name] for _, options in faces.values()]
        arrays[f"{name}_color"] = [options[f"{name}Color"][0] for _, options in faces.values()]
    np.savez_compressed(output, images=images, ids=list(faces), **arrays)
    print(f"{output}: {count} faces, {Path(output).stat().st_size} bytes")
