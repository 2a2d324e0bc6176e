"""Operators that act on rows and columns apart: resizing and Gaussian blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from posterior import waits
from posterior.checks import MOST_KERNEL, MOST_SIDE, choice, real, whole
from posterior.errors import UserError
from posterior.operators.base import Diagonal, LinearOperator, OperatorFamily
from posterior.operators.motion_blur import check_kernel_size, check_mirrors

Reduction = Literal["bicubic", "average"]


class Separable(LinearOperator):
    """y = R x C^T per channel, R along the height and C along the width. A^T v = R^T v C.

    Args:
        rows: R, (h, H).
        columns: C, (w, W).
        channels: number of channels.
    """

    def __init__(self, rows: Tensor, columns: Tensor, channels: int) -> None:
        super().__init__((channels, rows.shape[1], columns.shape[1]))
        self.row_matrix = rows
        self.column_matrix = columns

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (self.image_shape[0], len(self.row_matrix), len(self.column_matrix))

    def forward(self, x: Tensor) -> Tensor:
        return self.row_matrix @ (x @ self.column_matrix.mT)

    def adjoint(self, v: Tensor) -> Tensor:
        return self.row_matrix.mT @ (v @ self.column_matrix)

    def norm(self) -> Tensor:
        return waits.on_host("operator norm", _product_norm, self.row_matrix, self.column_matrix)

    def diagonal(self) -> Diagonal:
        parts = [torch.linalg.eigh(m.mT.double() @ m.double()) for m in (self.row_matrix, self.column_matrix)]
        (row_gains, rows), (column_gains, columns) = parts
        gains = (row_gains[:, None] * column_gains).clamp_min(0).to(self.row_matrix)
        rows, columns = rows.to(self.row_matrix), columns.to(self.row_matrix)
        return Diagonal(gains, lambda x: rows.mT @ x @ columns, lambda c: rows @ c @ columns.mT)


def _product_norm(rows: Tensor, columns: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(rows.double(), 2) * torch.linalg.matrix_norm(columns.double(), 2)


def _separable(matrix_of_size, image_shape: Sequence[int]) -> Separable:  # type: ignore[no-untyped-def]
    channels, height, width = image_shape
    rows, columns = (torch.from_numpy(matrix_of_size(size).astype(np.float32)) for size in (height, width))
    return Separable(rows, columns, channels)


def reflect_index(index: np.ndarray, size: int, repeat_edge: bool) -> np.ndarray:
    """Indices outside [0, size) mirrored back inside, with or without repeating the edge pixel."""
    period = 2 * size if repeat_edge else max(2 * size - 2, 1)
    index = index % period
    return np.where(index < size, index, period - index - (1 if repeat_edge else 0))


def _scatter(weights: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    """The matrix (outputs, size) whose row i adds weights[i, k] at column index[i, k]."""
    matrix = np.zeros((len(index), size))
    np.add.at(matrix, (np.arange(len(index))[:, None], index), weights)
    return matrix


def cubic_resize_matrix(size: int, scale: int) -> np.ndarray:
    """Antialiased cubic down-sampling of a line, (size / scale, size), float64.

    Keys' cubic with a = -0.5 stretched by ``scale``; output i is centred at (i + 0.5) scale - 0.5; taps sum to 1;
    beyond the border the line is mirrored with the edge pixel repeated. Source: R. Keys, IEEE Trans. ASSP 29 (1981);
    stretching and mirroring are those of Matlab's ``imresize``, which the DPS measurement uses.
    """
    centres = (np.arange(size // scale) + 0.5) * scale - 0.5
    index = np.floor(centres)[:, None].astype(int) + np.arange(-2 * scale, 2 * scale + 1)
    t = np.abs(centres[:, None] - index) / scale
    weights = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t <= 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0))
    weights /= weights.sum(axis=1, keepdims=True)
    return _scatter(weights, reflect_index(index, size, repeat_edge=True), size)


def average_matrix(size: int, scale: int) -> np.ndarray:
    """Means of ``scale`` neighbours of a line, (size / scale, size), float64."""
    return np.kron(np.eye(size // scale), np.full((1, scale), 1 / scale))


def gaussian_blur_matrix(size: int, kernel_size: int, std: float) -> np.ndarray:
    """Gaussian blur of a line mirrored without repeating the edge pixel, (size, size), float64.

    The kernel is the response of `scipy.ndimage.gaussian_filter1d` (cut at 4 std) on a line of ``kernel_size`` pixels
    to its middle pixel, as in the DPS code: where 4 std exceed the half width the tails are mirrored back inside.
    """
    impulse = np.zeros(kernel_size)
    impulse[kernel_size // 2] = 1
    kernel = scipy.ndimage.gaussian_filter1d(impulse, std)
    index = np.arange(size)[:, None] + np.arange(kernel_size) - kernel_size // 2
    return _scatter(np.broadcast_to(kernel, index.shape), reflect_index(index, size, repeat_edge=False), size)


class SuperResolution(OperatorFamily):
    """Down-sampling by an integer factor.

    Args:
        scale: factor >= 2; must divide the image's height and width.
        kernel: ``bicubic`` is the DPS measurement (see `cubic_resize_matrix`), ``average`` the mean of each block.

    Raises:
        UserError: if scale < 2 or the kernel is another, or on realisation if it does not divide the size.
    """

    def __init__(self, scale: int = 4, kernel: Reduction = "bicubic") -> None:
        whole("SuperResolution", "scale", scale, 2, MOST_SIDE)
        choice("SuperResolution", "kernel", kernel, Reduction)
        self.scale, self.kernel = scale, kernel

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Separable:
        _, height, width = image_shape
        if height % self.scale or width % self.scale:
            raise UserError(
                f"SuperResolution: scale {self.scale} does not divide the image size {height}x{width}: crop the images "
                "(`try` does it by itself)"
            )
        matrix = cubic_resize_matrix if self.kernel == "bicubic" else average_matrix
        return _separable(lambda size: matrix(size, self.scale), image_shape)


class GaussianBlur(OperatorFamily):
    """Gaussian blur with reflect padding (edge pixel not repeated); output has the input's size.

    Args:
        kernel_size: odd side of the kernel in pixels (DPS: 61).
        std: standard deviation in pixels, > 0 (DPS: 3.0).

    Raises:
        UserError: if kernel_size is even or std <= 0, or on realisation if the image is too small to be mirrored.
    """

    def __init__(self, kernel_size: int = 61, std: float = 3.0) -> None:
        check_kernel_size("GaussianBlur", kernel_size, 1)
        real("GaussianBlur", "std", std, above=0, most=MOST_KERNEL)
        self.kernel_size, self.std = kernel_size, std

    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Separable:
        check_mirrors("GaussianBlur", image_shape, self.kernel_size)
        return _separable(lambda size: gaussian_blur_matrix(size, self.kernel_size, self.std), image_shape)
