"""How far apart two runs of the same images are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posterior.errors import UserError
from posterior.reading import read_array


def differences(one: Path, other: Path) -> dict[str, float]:
    """Print the largest difference of a number of each image's samples between two runs, over their images.

    For runs that should agree: of another precision, device or batch size. Both with ``--output.save_samples true``.

    Args:
        one, other: folders of runs.

    Returns:
        median and largest over images of the largest difference, rms over all numbers, images.

    Raises:
        UserError: if the runs have no samples of the same images, or other numbers of them.
    """
    folders = [Path(folder) / "samples" for folder in (one, other)]
    ours, theirs = ({path.relative_to(f).as_posix(): path for path in f.rglob("*.npy")} for f in folders)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise UserError(f"{folders[0]} and {folders[1]} hold no samples of the same image (output.save_samples)")
    largest, squares = [], []
    for name in shared:
        a, b = read_array(ours[name], "samples"), read_array(theirs[name], "samples")
        if a.shape != b.shape:
            raise UserError(f"{name}: samples of {a.shape} and {b.shape}")
        largest.append(float(np.abs(a - b).max()))
        squares.append(float(np.square(a - b).mean()))
    found = {
        "median": float(np.median(largest)),
        "largest": max(largest),
        "rms": float(np.mean(squares)) ** 0.5,
        "images": float(len(shared)),
    }
    print(
        f"{len(shared)} images: largest difference of an image's numbers {found['median']:.2g} (median image), "
        f"{found['largest']:.2g} (worst image); rms {found['rms']:.2g}"
    )
    return found
