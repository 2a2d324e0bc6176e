"""A measurement operator in one file: a family, which a config names, and what it draws for a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from posterior import waits
from posterior.checks import real
from posterior.operators import LinearOperator, OperatorFamily
from posterior.operators.base import Diagonal


class MirroredMask(LinearOperator):
    """y = M F x: the picture is mirrored (F, left and right change places), then pixels are masked. A^T = F M.

    Args:
        mask: (B, 1, H, W), 1 = measured, 0 = masked, in the mirrored picture.
        image_shape: (C, H, W).
    """

    per_image: ClassVar[tuple[str, ...]] = ("mask",)  # these have a row an image, and follow `rows`

    def __init__(self, mask: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self.mask = mask

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.mask * x.flip(-1)

    def adjoint(self, v: Tensor) -> Tensor:
        """Exact: the steps of `forward`, each transposed, in reverse order."""
        return (self.mask * v).flip(-1)

    # What follows is needed because some entries are not measured, and because images differ.

    def restrict(self, y: Tensor) -> Tensor:
        return self.mask * y

    def num_measured(self) -> Tensor:
        return self.mask.flatten(1).sum(dim=1) * self.image_shape[0]

    def norm(self) -> Tensor:
        return waits.on_host("operator norm", Tensor.double, self.mask.amax(dim=(1, 2, 3)))

    def norm_bound(self) -> float:
        """Of all images, so that a batch does not decide a step size."""
        return 1.0

    # This is for speed alone: without it, solves take conjugate gradients.

    def diagonal(self) -> Diagonal:
        """A^T A = F M F."""
        return Diagonal(self.mask, lambda x: x.flip(-1), lambda c: c.flip(-1))


class MyOperator(OperatorFamily):
    """Each pixel of the mirrored picture is masked with the same probability, on its own; one mask for all channels.

    Args:
        share: probability that a pixel is masked, >= 0 and < 1.

    Raises:
        UserError: if it is out of range.
    """

    random = True  # it draws from an image's stream; False: `realise` gets no streams that matter

    def __init__(self, share: float = 0.5) -> None:
        real("MyOperator", "share", share, least=0, below=1)
        self.share = share

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> MirroredMask:
        _, height, width = image_shape
        drawn = [torch.rand(1, height, width, generator=generator) for generator in streams]
        return MirroredMask((torch.stack(drawn) >= self.share).float(), image_shape)
