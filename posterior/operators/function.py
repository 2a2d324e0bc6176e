"""Any differentiable function as an operator: looked at by numbers, its transpose by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from posterior import waits
from posterior.errors import UserError
from posterior.operators.base import LinearOperator, Operator
from posterior.random import Streams
from posterior.reading import reason

Function = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) -> measurements (B, ...) without noise."""
WEIGHTS = ((1.0, 1.0), (100.0, -30.0), (0.01, 0.003))
"""Of two normal images, at which f(a x + b z) = a f(x) + b f(z) is asked: a function may bend far out, or at 0."""
ROUNDING = 2e-3
"""Relative difference that is taken for rounding: convolutions of a GPU in TF32 have 1e-3."""
NEAR = 0.01
"""Length of a secant that a derivative is held against; numbers of an image are about 1."""


class FunctionOperator(Operator):
    """y = f(x), a differentiable function that takes each row by itself; measurements are seen as (B, m, 1, 1).

    Args:
        function: (B, C, H, W) -> (B, ...), the same for each row.
        image_shape: (C, H, W).
        size: m, the numbers of one image's measurement.
    """

    def __init__(self, function: Function, image_shape: Sequence[int], size: int) -> None:
        super().__init__(image_shape)
        self.function, self.size = function, size

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (self.size, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).reshape(len(x), *self.measurement_shape).to(x.dtype)


class LinearFunctionOperator(FunctionOperator, LinearOperator):
    """y = A x, A known by being applied; the adjoint is autograd's, so that it is the exact transpose.

    Args:
        function: A x, (B, C, H, W) -> (B, ...), differentiable.
        image_shape: (C, H, W).
        y: a measurement (B, ...): its size, and the dtype and device of which A is.
        count: of images that A may differ between, in the order of its rows.
        seen: what is measured, 1 or 0 for each entry, (1, m, 1, 1) or a row an image; None: all.
    """

    def __init__(
        self,
        function: Function,
        image_shape: Sequence[int],
        y: Tensor,
        count: int = 1,
        seen: Tensor | None = None,
    ) -> None:
        super().__init__(function, image_shape, y[0].numel())
        self.count, self.seen, self.device, self.dtype = count, seen, y.device, y.dtype

    def adjoint(self, v: Tensor) -> Tensor:
        return Operator.vjp(self, v.new_zeros(len(v), *self.image_shape), v)

    def restrict(self, y: Tensor) -> Tensor:
        return y if self.seen is None else self.seen * y

    def num_measured(self) -> Tensor:
        return super().num_measured() if self.seen is None else self.seen.flatten(1).sum(dim=1).squeeze(0)

    def norm(self) -> Tensor:
        """A bound on ||A|| of any of the images, (): power iteration, and 2 % more."""
        x = torch.randn(1, *self.image_shape, generator=torch.Generator().manual_seed(0)).to(self.device, self.dtype)
        x, length = x.expand(self.count, -1, -1, -1), x.new_ones(1, 1, 1, 1)
        for _ in range(100):
            x = self.adjoint(self.forward(x / length))
            length = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
        return 1.02 * length.max().sqrt()


@torch.no_grad()
def operator_of(function: Function, image_shape: Sequence[int], y: Tensor) -> tuple[Operator, Tensor]:
    """The operator that a function is, found out by asking it, and its value at 0 where that is to be taken off y.

    It is linear if f(a x + b z) - f(0) = a (f(x) - f(0)) + b (f(z) - f(0)) for normal images x and z, a and b of three
    sizes. A x is then f(x) - f(0), and entries at which A x is 0 for both are not measured. Otherwise it is not linear.

    Args:
        function: (B, C, H, W) -> (B, ...), without noise.
        image_shape: (C, H, W).
        y: measurements (B, ...): their shape, dtype and device.

    Returns:
        The operator, and the offset (1, m, 1, 1): f(0) if it is linear, 0 if not.

    Raises:
        UserError: if the function fails, gives something else than real numbers of the shape of y, is not the same for
            each row and at each call, changes its argument, or has no gradient, or another than its values say.
    """
    shape = tuple(image_shape)
    x, z = Streams(0, ["x", "z"], device=y.device).randn("images", shape, y.dtype).split(1)
    both, alone = _asked(function, torch.cat([x, z])), _asked(function, x)
    if both.shape[1:] != y.shape[1:]:
        more = ": give y an axis of images before them, y[None]" if both.shape[1:] == y.shape else ""
        raise UserError(f"forward gives {_told(both)} for an image of {shape}, y has {_told(y)}{more}")
    if not _same(_asked(function, x), alone):
        raise UserError(
            "forward gives something else when it is called again: leave its noise out, sigma_y stands for it"
        )
    if not (_same(both[:1], alone) and _same(both[1:], _asked(function, z))):
        raise UserError(
            "forward gives another result for an image alone than for the same image in a batch of two: "
            "call once for each y where each has its own operator"
        )
    _check_gradient(function, x, z)
    centre = _asked(function, torch.zeros_like(x))
    first, second = alone - centre, both[1:] - centre
    for a, b in WEIGHTS:
        expected = a * first + b * second
        found = _asked(function, a * x + b * z) - centre
        scale = abs(a) * _size(first) + abs(b) * _size(second)
        if _size(found - expected) > ROUNDING * scale + 1e-6 * _size(centre):
            return FunctionOperator(function, shape, y[0].numel()), y.new_zeros(1, 1, 1, 1)
    seen = ((first != 0) | (second != 0)).to(y.dtype).reshape(1, -1, 1, 1)

    def applied(images: Tensor) -> Tensor:
        return function(images) - centre

    linear = function if not centre.any() else applied
    operator = LinearFunctionOperator(linear, shape, y, seen=None if seen.all() else seen)
    _check_transpose(operator, x + 1)
    return operator, centre.reshape(1, -1, 1, 1)


def _asked(function: Function, x: Tensor) -> Tensor:
    """f(x), looked at.

    Raises:
        UserError: if it fails, changes x, or gives something else than one row of finite real numbers for each image.
    """
    given = x.clone()
    try:
        found = function(given)
    except Exception as error:
        told = f"{type(error).__name__}: {reason(error)}"
        raise UserError(f"forward must take any number of images; for {tuple(x.shape)} it fails: {told}") from error
    if not torch.equal(given.detach(), x):
        raise UserError("forward changes the images that it is given: let it work on a copy")
    if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != len(x):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"forward must give a tensor with one row an image: for {tuple(x.shape)} it gives {got}")
    if not found.is_floating_point():
        more = ": torch.view_as_real makes such of complex ones" if found.is_complex() else ""
        raise UserError(f"forward must give real floating-point numbers, got {found.dtype}{more}")
    if not waits.fetch("finite?", torch.isfinite(found).all()):
        raise UserError("forward gives NaN or infinite values for an image of normal numbers")
    return found.to(x.dtype)


def _check_gradient(function: Function, x: Tensor, direction: Tensor) -> None:
    """Hold the gradient of f at x against a secant.

    Raises:
        UserError: if there is none, or it has little to do with the values.
    """
    change = (_asked(function, x + NEAR * direction) - _asked(function, x - NEAR * direction)).detach()
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        try:
            found = function(x)
            (grad,) = torch.autograd.grad(found, x, change.to(found.dtype))
        except Exception as error:
            raise UserError(
                "forward is not differentiable: autograd finds no way from its result to the image "
                f"(numpy, .detach() or no_grad inside?): {reason(error)}"
            ) from error
    moved, expected = 2 * NEAR * (grad * direction).sum(), change.square().sum()
    ratio = waits.fetch("gradient", torch.stack([moved, expected]))
    if ratio[1] == 0:
        raise UserError("forward does not depend on the image: it gives the same for images that differ")
    if not 0.25 * ratio[1] <= ratio[0] <= 4 * ratio[1]:
        raise UserError(
            f"forward is not differentiable: its gradient says {ratio[0] / ratio[1]:.2g} of what its values do "
            "(is something rounded, or detached, inside?)"
        )


def _check_transpose(operator: LinearFunctionOperator, x: Tensor) -> None:
    """Hold <x, A^T v> against <A x, v>, v = A x and a constant: means are what is detached most often.

    Raises:
        UserError: if autograd's transpose is that of another map.
    """
    found = operator.forward(x)
    v = found + found.square().mean().sqrt()
    gap = (found * v).sum() - (x * operator.adjoint(v)).sum()
    if _size(gap) > ROUNDING * _size(found) * _size(v):
        raise UserError(
            "forward is linear, but its gradient is that of another function (is a part of it detached inside?)"
        )


def _same(found: Tensor, expected: Tensor) -> bool:
    return _size(found - expected) <= ROUNDING * _size(expected)


def _size(x: Tensor) -> float:
    """||x||."""
    return float(waits.fetch("size", torch.linalg.vector_norm(x.detach().double())))


def _told(y: Tensor) -> str:
    return str(tuple(y.shape[1:]))
