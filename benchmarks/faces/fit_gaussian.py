"""Fit a Gaussian field prior to images and print it as a config."""

from __future__ import annotations

import yaml

from datamodules.training import ImageSet
from posterior.priors import GaussianFieldPrior


def fit_gaussian(images: ImageSet, floor: float = 0.03) -> None:
    """Fit a `GaussianFieldPrior` to images and print the config fragment (configs/prior/gaussian_photos128.yaml).

    Args:
        images: e.g. datamodules.ToonFaceImages, datamodules.PhotoCrops.
        floor: standard deviation of the white part.
    """
    settings = GaussianFieldPrior.fit(images.all(), floor).settings()
    print(yaml.safe_dump({"class_path": "posterior.priors.GaussianFieldPrior", "init_args": settings}, sort_keys=False))
