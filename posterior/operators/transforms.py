"""Compressed sensing: random Gaussian measurements, and some coefficients of a fast orthonormal transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import scipy.fft
import scipy.linalg
import torch
from torch import Tensor

from posterior.checks import choice, real, whole
from posterior.errors import UserError
from posterior.operators.base import MaskedOrthonormal, OperatorFamily
from posterior.operators.dense import Dense
from posterior.random import stream

Transform = Literal["dct", "hadamard"]
MOST_ENTRIES = 2**28
"""Of a dense matrix: 1 GB in float32."""


class GaussianSensing(OperatorFamily):
    """m random numbers of an image: y = A x, entries of A drawn from N(0, 1 / m), one matrix for all images.

    The matrix is dense, m x C H W: for small images (Candes, Romberg and Tao, 2006; Corollary 1.3).

    Args:
        num_measurements: m >= 1.
        seed: of the matrix.

    Raises:
        UserError: if num_measurements < 1, or the matrix would have more than 2^28 entries.
    """

    def __init__(self, num_measurements: int, seed: int = 0) -> None:
        whole("GaussianSensing", "num_measurements", num_measurements, 1, MOST_ENTRIES)
        self.num_measurements, self.seed = num_measurements, seed

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Dense:
        size = math.prod(image_shape)
        if size * self.num_measurements > MOST_ENTRIES:
            raise UserError(
                f"GaussianSensing: a {self.num_measurements} x {size} matrix is too large: take SubsampledTransform"
            )
        generator = stream(self.seed, "sensing matrix", -1, "operator")
        matrix = torch.randn(self.num_measurements, size, generator=generator) / math.sqrt(self.num_measurements)
        return Dense(matrix, image_shape)


class MaskedTransform(MaskedOrthonormal):
    """Some coefficients of a separable orthonormal transform of an image with random signs: y = M T D x.

    Args:
        mask: 1 = measured, (B, 1, H, W).
        signs: D's diagonal, +1 or -1, (B, 1, H, W).
        rows, columns: orthonormal matrices (H, H), (W, W); T x = rows x columns^T.
        image_shape: (C, H, W).
    """

    per_image: ClassVar[tuple[str, ...]] = ("mask", "signs")

    def __init__(self, mask: Tensor, signs: Tensor, rows: Tensor, columns: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__(mask, image_shape)
        self.signs, self.row_matrix, self.column_matrix = signs, rows, columns

    def analyse(self, x: Tensor) -> Tensor:
        return self.row_matrix @ (self.signs * x) @ self.column_matrix.T

    def synthesise(self, c: Tensor) -> Tensor:
        return self.signs * (self.row_matrix.T @ c @ self.column_matrix)

    def parameters_view(self) -> Tensor:
        return 2 * self.mask - 1


class SubsampledTransform(OperatorFamily):
    """A random share of the coefficients of a fast transform, all channels alike; drawn per image, as are the signs.

    Random signs before the transform make every coefficient tell about every pixel, so that few of them do what
    Gaussian measurements do (Do, Gan, Nguyen and Tran, IEEE Trans. Signal Process. 2012).

    Args:
        share: of the coefficients, in (0, 1].
        transform: ``dct`` (type II), or ``hadamard`` (H and W powers of 2), both orthonormal.
        random_signs: multiply pixels by random signs first.

    Raises:
        UserError: if share is out of range or the transform another; on realisation, if H or W is no power of 2 for
            Hadamard's.
    """

    random = True

    def __init__(self, share: float, transform: Transform = "dct", random_signs: bool = True) -> None:
        real("SubsampledTransform", "share", share, above=0, most=1)
        choice("SubsampledTransform", "transform", transform, Transform)
        self.share, self.transform, self.random_signs = share, transform, random_signs

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> MaskedTransform:
        _, height, width = image_shape
        kept = max(1, round(self.share * height * width))
        mask, signs = torch.zeros(len(streams), height * width), torch.ones(len(streams), height * width)
        for row, generator in enumerate(streams):
            mask[row, torch.randperm(height * width, generator=generator)[:kept]] = 1
            if self.random_signs:
                signs[row] = 2.0 * torch.randint(2, (height * width,), generator=generator) - 1
        shape = (-1, 1, height, width)
        rows, columns = (self._matrix(size) for size in (height, width))
        return MaskedTransform(mask.view(shape), signs.view(shape), rows, columns, image_shape)

    def _matrix(self, size: int) -> Tensor:
        if self.transform == "dct":
            matrix = scipy.fft.dct(np.eye(size), norm="ortho", axis=0)
        elif size & (size - 1):
            raise UserError(f"SubsampledTransform: Hadamard's transform needs sides that are powers of 2, got {size}")
        else:
            matrix = scipy.linalg.hadamard(size) / math.sqrt(size)
        return torch.from_numpy(matrix.astype(np.float32))
