"""Fit a Gaussian field prior to toon faces and print it as a config."""

from __future__ import annotations

import torch
import yaml

from datamodules.toon import render_toon_face
from posterior.priors import GaussianFieldPrior


def fit_gaussian_toon(size: int = 64, start: int = 10000, count: int = 256, floor: float = 0.03) -> None:
    """Fit a `GaussianFieldPrior` to toon faces and print the config fragment (configs/prior/gaussian_toon64.yaml).

    Args:
        size: side in pixels.
        start: first face.
        count: number of faces.
        floor: standard deviation of the white part.
    """
    faces = torch.stack([render_toon_face(index, size)[0] for index in range(start, start + count)])
    settings = GaussianFieldPrior.fit(faces, floor).settings()
    print(yaml.safe_dump({"class_path": "posterior.priors.GaussianFieldPrior", "init_args": settings}, sort_keys=False))
