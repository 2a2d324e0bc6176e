"""FID and KID as the field reports them: clean-fid's pixels and resizing, distances in float64."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from cleanfid.resize import build_resizer
from torch import Tensor, nn

from posterior import waits
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.images import to_pixels
from posterior.metrics.features import VGG16Features, frechet_distance, hub_file, kernel_distance
from posterior.reading import check_file, read_arrays, shown

SIDE = 299
"""Side in pixels to which clean-fid resizes."""
INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""Of NVIDIA's TorchScript translation of the 2015 network, which clean-fid uses (docs/pipeline.md, "FID and KID")."""


class PixelFeatures(nn.Module, ABC):
    """A feature network on pictures as they are stored: 8 bits, resized to 299x299 as clean-fid does.

    Source: Parmar, Zhang and Zhu, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022: bicubic
    with antialiasing in floating point, channel by channel, clipped to [0, 255] (`cleanfid.resize`, mode "clean").

    `name` heads columns; `unavailable` says in one line why it cannot be used here, or is None; `dimension` is the
    number of features, if it is known.
    """

    name: str
    unavailable: str | None = None
    dimension: int | None = None

    @abstractmethod
    def of_resized(self, pixels: Tensor) -> Tensor:
        """Features (B, D) of pictures (B, 3, 299, 299), float32 in [0, 255]."""

    @torch.no_grad()
    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Features (B, D), float32, of images (C, H, W) in [-1, 1], clipped and rounded to 8 bits; C is 1 or 3.

        A sequence may have images of several sizes.
        """
        resized = waits.on_host("pixels", _resized, *([x] if isinstance(x, Tensor) else x))
        return self.of_resized(waits.to_device("pixels", resized, x[0])).float()


def _resized(*images: Tensor) -> Tensor:
    """(B, 3, 299, 299) of images (C, H, W), or of one batch."""
    rows = [row for image in images for row in (image if image.ndim == 4 else image[None])]
    pixels = np.stack([_resizer()(to_pixels(row)) for row in rows]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(pixels))


@functools.cache
def _resizer() -> Callable[[np.ndarray], np.ndarray]:
    return build_resizer("clean")


class Inception(PixelFeatures):
    """The 2048 pooled features of Inception-v3 (2015) that FID is defined by.

    Args:
        file: NVIDIA's TorchScript file; None: ``inception-2015-12-05.pt`` in torch's hub folder. Nothing is downloaded.

    Raises:
        UserError: if the file is there but is another one (by its SHA-256).
    """

    name = "inception"
    dimension = 2048

    def __init__(self, file: Path | None = None) -> None:
        super().__init__()
        path = hub_file(INCEPTION_FILE) if file is None else Path(file)
        if not path.is_file():
            self.unavailable = f"FID and KID need {path} (docs/pipeline.md, 'FID and KID', says where to get it)"
            return
        check_file(path, "Inception's file")
        if hashlib.sha256(path.read_bytes()).hexdigest() != INCEPTION_SHA256:
            raise UserError(f"{path} is not {INCEPTION_FILE}: its SHA-256 is not {INCEPTION_SHA256}")
        self.network = torch.jit.load(str(path), map_location="cpu").eval()

    def of_resized(self, pixels: Tensor) -> Tensor:
        return self.network.layers.forward((pixels - 128) / 128).flatten(1)


class VGG16Pixels(PixelFeatures):
    """`VGG16Features` at 299x299 instead of Inception: comparable among themselves, not with published FIDs."""

    name = "vgg16"
    dimension = 512

    def __init__(self) -> None:
        super().__init__()
        try:
            self.network = VGG16Features(SIDE)
        except UserError as error:
            self.unavailable = str(error)

    def of_resized(self, pixels: Tensor) -> Tensor:
        return self.network(pixels / 127.5 - 1)


class FeatureDistance(nn.Module):
    """FID and KID of a run: of the first sample of every image, against a reference set.

    Each image's features go into the journal, so that a resumed run has them all; the distances are computed from there
    in float64 at the end.

    Args:
        network: e.g. `Inception`.
        reference: .npz of `python -m benchmarks reference-features`; None: the run's own true images.

    Raises:
        UserError: if the reference is missing, or was made with another network.
    """

    def __init__(self, network: PixelFeatures, reference: Path | None = None) -> None:
        super().__init__()
        self.network = network
        self.reference = None if reference is None else Path(reference)
        if self.reference is not None:
            read_features(self.reference, network.name, network.dimension)  # complain before the run, not after it

    @property
    def name(self) -> str:
        """The network's."""
        return self.network.name


def encode(features: Tensor) -> str:
    """A row of features (D,) as text."""
    return base64.b64encode(features.detach().cpu().numpy().astype("<f4").tobytes()).decode()


def decode(text: str) -> np.ndarray:
    """The row (D,), float32."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def write_features(path: Path, features: Tensor, network: str) -> None:
    """Write a reference set: features (N, D) and the network's name."""
    buffer = io.BytesIO()
    np.savez(buffer, features=features.cpu().numpy().astype(np.float32), network=np.array(network))
    write_whole(path, buffer.getvalue())


def read_features(path: Path, network: str, dimension: int | None = None) -> Tensor:
    """Read a reference set, (N, D).

    Args:
        path: of the file.
        network: that it must have been made with.
        dimension: D that it must have; None: any.

    Raises:
        UserError: if it is missing, unreadable, was made with another network, or is not N >= 2 rows of D finite reals.
    """
    what, told = "reference features", "see docs/pipeline.md, 'FID and KID'"
    try:
        arrays = read_arrays(path, what)
    except UserError as error:
        raise UserError(f"{error}; {told}") from error
    if not {"features", "network"} <= set(arrays):
        there = ", ".join(arrays) or "nothing"
        raise UserError(f"{path} is no set of {what}: it must hold features and network, it holds {there}; {told}")
    features, made_with = arrays["features"], str(arrays["network"])
    if made_with != network:
        raise UserError(f"{path} holds features of {shown(made_with)[:80]}, not of {network}")
    if features.ndim != 2 or len(features) < 2 or features.shape[1] < 1 or features.dtype.kind != "f":
        found = f"{features.dtype}{list(features.shape)}"
        raise UserError(f"{path} is no set of {what}: they must be (N, D) reals, N >= 2, they are {found}; {told}")
    if dimension is not None and features.shape[1] != dimension:
        raise UserError(f"{path} holds {features.shape[1]} features an image, {network} has {dimension}: {told}")
    if not np.isfinite(features).all():
        raise UserError(f"{path} is no set of {what}: some are NaN or infinite; {told}")
    return torch.from_numpy(features)


def distances(
    records: Sequence[Mapping[str, object]], references: Mapping[str, str | None]
) -> dict[str, dict[str, float | int | str | None]]:
    """FID and KID by feature network, from a run's records.

    Args:
        records: those of sample 0 and, where the reference is the run's own truth, of sample "truth", with
            ``features``: network -> `encode`\\ d row.
        references: network -> file of reference features; None: the truth.

    Returns:
        network -> fid, kid (None with fewer than two images on a side), images, reference images, reference, and a
        warning (or None).

    Raises:
        UserError: if the reference's file cannot be used, or has not as many features an image as the run.
    """
    found = {}
    for network, file in references.items():
        rows: dict[object, list[np.ndarray]] = {0: [], "truth": []}
        for record in records:
            features = record.get("features")
            if record["sample"] in rows and isinstance(features, Mapping) and network in features:
                rows[record["sample"]].append(decode(str(features[network])))
        ours = torch.from_numpy(np.stack(rows[0])) if rows[0] else torch.zeros(0, 1)
        if file is not None:
            theirs = read_features(Path(file), network)
        else:
            theirs = torch.from_numpy(np.stack(rows["truth"])) if rows["truth"] else torch.zeros(0, 1)
        known = min(len(ours), len(theirs)) >= 2
        if known and ours.shape[1] != theirs.shape[1]:
            raise UserError(
                f"the reference of {network}, {file}, has {theirs.shape[1]} features an image, the images of this run "
                f"have {ours.shape[1]}: make it with the same network"
            )
        few = known and min(len(ours), len(theirs)) < ours.shape[1]
        found[network] = {
            "fid": frechet_distance(ours, theirs) if known else None,
            "kid": kernel_distance(ours, theirs) if known else None,
            "images": len(ours),
            "reference_images": len(theirs),
            "reference": "the run's true images" if file is None else str(file),
            "warning": (
                f"fewer images than the {ours.shape[1]} features: FID is biased upwards, compare it only with sets of "
                "the same size"
                if few
                else None
            ),
        }
    return found
