"""The reference set of FID and KID."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from posterior.errors import UserError
from posterior.images import list_images, load_image
from posterior.metrics import Inception, PixelFeatures
from posterior.metrics.features import write_features


def reference_features(
    images: Path,
    output: Path,
    network: PixelFeatures | None = None,
    crop: int | None = None,
    size: int | None = None,
    limit: int | None = None,
    batch_size: int = 32,
) -> None:
    """Features of a data set, made once, for `FeatureDistance`.

    Args:
        images: folder or zip of images.
        output: the .npz file.
        network: feature network; None: Inception.
        crop: side in pixels of the central square to cut out, or None.
        size: side in pixels to resize to, as in the runs, or None.
        limit: only the first so many images by id.
        batch_size: images at a time.

    Raises:
        UserError: if the network's weights are not there, or an image is bad.
    """
    network = network or Inception()
    if network.unavailable:
        raise UserError(network.unavailable)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    files = list(list_images(Path(images)).values())[:limit]
    rows = []
    for start in range(0, len(files), batch_size):
        batch = [load_image(file, crop, size).to(device) for file in files[start : start + batch_size]]
        rows.append(network(batch).cpu())
        print(f"\r{min(start + batch_size, len(files))} of {len(files)} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    write_features(Path(output), torch.cat(rows), network.name)
    print(f"{output}: features of {len(files)} images, {network.name}")
