"""Features of pictures: the networks that see them, the pixels these are given, and features as text and as files."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from cleanfid.resize import build_resizer
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from posterior import waits
from posterior.checkpoint import load_checkpoint
from posterior.checks import whole
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.images import to_pixels
from posterior.reading import check_file, read_arrays, shown

VGG16_WEIGHTS = "vgg16-397923af.pth"
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of the three colours on the scale [0, 1]: what torchvision's networks expect to be taken out."""
SIDE = 299
"""Side in pixels to which clean-fid resizes."""
INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""Of NVIDIA's TorchScript translation of the 2015 network, which clean-fid uses (docs/pipeline.md, "FID and KID")."""


def hub_file(name: str) -> Path:
    """Where torch's hub keeps a file of weights; it may not be there, and nothing is downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def missing(name: str) -> str:
    """What to do about a file of weights that is not there, as the end of a sentence."""
    return (
        f"{name} is not in {hub_file(name).parent}: put https://download.pytorch.org/models/{name} there, or set "
        "TORCH_HOME to a folder that has it under hub/checkpoints"
    )


class VGG16Features(nn.Module):
    """The mean over positions of VGG16's last feature map, of images enlarged to ``side`` (bilinear): 512 numbers.

    torchvision's ImageNet weights, read from torch's hub folder; nothing is downloaded.

    Args:
        side: side in pixels to which images are resized, >= 32.

    Raises:
        UserError: if the weights are not there or not readable, or side is out of range.
    """

    def __init__(self, side: int = 64) -> None:
        super().__init__()
        whole("VGG16Features", "side", side, 32, 1024)
        if not hub_file(VGG16_WEIGHTS).is_file():
            raise UserError(f"VGG16's features need its weights: {missing(VGG16_WEIGHTS)}")
        self.side = side
        with torch.device("meta"):
            self.features = torchvision.models.vgg16().features  # keys as in the file
        self.features.to_empty(device="cpu")
        load_checkpoint(self, hub_file(VGG16_WEIGHTS), unused="classifier.")
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 512) of images (B, 3, H, W) in [-1, 1], clipped."""
        x = F.interpolate((x.clamp(-1, 1) + 1) / 2, size=(self.side, self.side), mode="bilinear")
        return self.features(normalize(x, IMAGENET_MEAN, IMAGENET_STD)).mean(dim=(2, 3))

    def of_set(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Features (N, 512), float64, of many images (N, 3, H, W)."""
        return torch.cat([self(batch) for batch in images.split(batch_size)]).double()


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
