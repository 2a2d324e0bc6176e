"""The operator interface: families that a config names, and realised operators that samplers see."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from posterior import waits


class Operator(ABC):
    """A realised measurement map for images of one shape; it knows no noise.

    Tensor attributes move with `to`; those named in `per_image` have one row per image and follow `rows`.
    """

    per_image: ClassVar[tuple[str, ...]] = ()

    def __init__(self, image_shape: Sequence[int]) -> None:
        self.image_shape = tuple(image_shape)

    @property
    @abstractmethod
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of one image's measurement."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A(x) without noise: (B, C, H, W) -> (B, *measurement_shape)."""

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """J(x)^T v, J the Jacobian of A at x: (B, C, H, W), (B, *measurement_shape) -> (B, C, H, W)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(self.forward(x), x, v)
        return grad

    def restrict(self, y: Tensor) -> Tensor:
        """y with the entries that the operator does not measure set to 0 (all are measured by default)."""
        return y

    def num_measured(self) -> Tensor:
        """Measured entries of an image: a scalar, or one count per image (B,)."""
        return torch.tensor(torch.Size(self.measurement_shape).numel())

    def view(self, y: Tensor) -> Tensor:
        """y as pictures (B, C, H, W) in [-1, 1] of the image's size, to look at."""
        return torch.nn.functional.interpolate(y, size=self.image_shape[-2:], mode="nearest").clamp(-1, 1)

    def parameters_view(self) -> Tensor | None:
        """What was drawn for each image, as pictures (B, 1 or 3, h, w) in [-1, 1] of any size; None: nothing to see."""
        return None

    def _map(self, names: Sequence[str], function) -> Self:  # type: ignore[no-untyped-def]
        other = copy.copy(self)
        for kept in ("_kept_basis", "_kept_bound"):  # they belong to the old rows, device and dtype
            other.__dict__.pop(kept, None)
        for name in names:
            setattr(other, name, function(getattr(self, name)))
        return other

    def rows(self, index: Tensor) -> Self:
        """The operator of the images ``index`` (repeats allowed)."""
        return self._map(self.per_image, lambda value: value[index])

    def to(self, device: torch.device | str | torch.dtype) -> Self:
        """The operator with its tensors on another device, or in another floating dtype."""
        names = [name for name, value in vars(self).items() if isinstance(value, Tensor)]
        return self._map(names, lambda value: value.to(device))


@dataclass(frozen=True)
class Diagonal:
    """A^T A = V diag(gains) V^T, V orthogonal.

    Args:
        gains: >= 0, shaped so that it multiplies coefficients (R, C, H, W).
        analyse: V^T x, (R, C, H, W) -> (R, C, H, W).
        synthesise: V c, likewise.
    """

    gains: Tensor
    analyse: Callable[[Tensor], Tensor]
    synthesise: Callable[[Tensor], Tensor]


class LinearOperator(Operator):
    """A linear map with its exact transpose."""

    @abstractmethod
    def adjoint(self, v: Tensor) -> Tensor:
        """A^T v: (B, *measurement_shape) -> (B, C, H, W)."""

    def norm(self) -> Tensor:
        """||A||, the largest singular value: one for all images (), or one for each (B,). By power iteration."""
        return power_iteration_norm(self)

    def norm_bound(self) -> float:
        """A bound on ||A|| that an image's batch does not change: `norm`, 1 % more where no subclass gives its own.

        Raises:
            NotImplementedError: if the operator has per-image parameters: then it has to know a bound for all images.
        """
        if self.per_image:
            raise NotImplementedError(f"{type(self).__name__}.norm_bound: needed for operators that differ by image")
        if "_kept_bound" not in self.__dict__:
            margin = 1.01 if type(self).norm is LinearOperator.norm else 1.0
            self.__dict__["_kept_bound"] = margin * waits.fetch("operator norm", self.norm())
        return self.__dict__["_kept_bound"]

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.adjoint(v)

    def diagonal(self) -> Diagonal | None:
        """The basis in which A^T A is diagonal, if it is known and fast; None otherwise."""
        return None

    def solve(self, b: Tensor, shift: float, tolerance: float = 1e-5, max_steps: int = 100) -> Tensor:
        """(A^T A + shift I)^-1 b, (R, C, H, W), shift > 0: in closed form where `diagonal` is known, otherwise by CG.

        The number of conjugate gradient steps is fixed beforehand, from the bound on their error, so that no device is
        waited for and a row does not depend on its batch. Where the bound asks for more than ``max_steps`` (if 100, for
        shifts below ||A||^2 / 270) the directions that A hardly passes are left short of their solution.

        Args:
            b: right-hand sides.
            shift: > 0.
            tolerance: relative error wanted of conjugate gradients, in the norm of A^T A + shift I.
            max_steps: of conjugate gradients, at most.
        """
        if (basis := self.basis()) is not None:
            return basis.synthesise(basis.analyse(b) / (basis.gains + shift))
        condition = 1 + self.norm_bound() ** 2 / shift  # the error falls by 1 - 2 / (1 + sqrt(condition)) a step
        steps = math.ceil(0.5 * condition**0.5 * math.log(2 / tolerance))
        return conjugate_gradients(lambda x: self.adjoint(self.forward(x)) + shift * x, b, min(steps, max_steps))

    def damped_inverse(self, r: Tensor, shift: float) -> Tensor:
        """(A^T A + shift I)^-1 A^T r, (R, C, H, W), shift > 0: the least ||r - A x||^2 + shift ||x||^2.

        Where a basis is known the shift is ten times the type's rounding times ||A||^2 at least. A^T r has rounding in
        directions that A does not pass, which a smaller shift would blow up to images of it.

        Args:
            r: residuals, (R, *measurement_shape).
            shift: > 0.
        """
        b, basis = self.adjoint(r), self.basis()
        if basis is None:
            return self.solve(b, shift)  # whose steps are too few to blow anything up
        coefficients = basis.analyse(b)
        gains = basis.gains.expand_as(coefficients)
        least = 10 * torch.finfo(r.dtype).eps * gains.amax(dim=(1, 2, 3), keepdim=True)
        return basis.synthesise(coefficients / (gains + least.clamp_min(shift)))

    def basis(self) -> Diagonal | None:
        """`diagonal`, found once."""
        if "_kept_basis" not in self.__dict__:
            with waits.inside("operator basis"):
                self.__dict__["_kept_basis"] = self.diagonal()
        return self.__dict__["_kept_basis"]


class MaskedOrthonormal(LinearOperator):
    """y = M V^T x: some coefficients of an image in an orthonormal basis, pixels themselves by default.

    Subclasses give the basis (`analyse`, `synthesise`). Coefficients that are not measured hold 0 in y.

    Args:
        mask: 1 = measured, (B, 1, H, W) or what multiplies coefficients (B, C, H, W) like it.
        image_shape: (C, H, W), also that of the coefficients.
    """

    per_image: ClassVar[tuple[str, ...]] = ("mask",)

    def __init__(self, mask: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self.mask = mask

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def analyse(self, x: Tensor) -> Tensor:
        """V^T x, (B, C, H, W)."""
        return x

    def synthesise(self, c: Tensor) -> Tensor:
        """V c, (B, C, H, W)."""
        return c

    def forward(self, x: Tensor) -> Tensor:
        return self.mask * self.analyse(x)

    def adjoint(self, v: Tensor) -> Tensor:
        return self.synthesise(self.mask * v)

    def restrict(self, y: Tensor) -> Tensor:
        return self.mask * y

    def num_measured(self) -> Tensor:
        shape = torch.Size(self.measurement_shape)
        return self.mask.flatten(1).sum(dim=1) * (shape.numel() // self.mask[0].numel())

    def norm(self) -> Tensor:
        return waits.on_host("operator norm", Tensor.double, self.mask.amax(dim=(1, 2, 3)))

    def norm_bound(self) -> float:
        return 1.0

    def diagonal(self) -> Diagonal | None:
        return Diagonal(self.mask, self.analyse, self.synthesise)


class OperatorFamily(ABC):
    """What a config names: settings from which each image's operator is drawn.

    `random` families draw their per-image parameters from that image's stream; the others ignore it.
    """

    random: ClassVar[bool] = False

    @abstractmethod
    def realise(self, image_shape: Sequence[int], streams: Sequence[torch.Generator] = ()) -> Operator:
        """The operator of a batch of images.

        Args:
            image_shape: (C, H, W).
            streams: one CPU generator per image; deterministic families need none.

        Raises:
            UserError: if the operator does not fit images of this shape.
        """


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows of images or measurements (R, ...), (R, 1, ..., 1) of as many dimensions."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, num_steps: int) -> Tensor:
    """Solve apply(x) = b, symmetric and positive definite, for each row (R, C, H, W) on its own, in so many steps."""

    x, residual, direction = torch.zeros_like(b), b, b
    rho = inner(b, b)
    for _ in range(num_steps):
        applied = apply(direction)
        alpha = rho / inner(direction, applied).clamp_min(1e-30)  # a row that is solved has rho = 0 and stays
        x = x + alpha * direction
        residual = residual - alpha * applied
        rho_next = inner(residual, residual)
        direction = residual + rho_next / rho.clamp_min(1e-30) * direction
        rho = rho_next
    return x


def power_iteration_norm(operator: LinearOperator, num_steps: int = 200, tolerance: float = 1e-7) -> Tensor:
    """||A|| by power iteration on A^T A in float64, for operators without a closed form: () or (B,), on the CPU.

    An image's estimate converges from below and is final once a step changes it by less than ``tolerance`` (relative),
    so that it does not depend on the other images.
    """
    return waits.on_host("operator norm", lambda host: _iterated_norm(host, num_steps, tolerance), operator)


def _iterated_norm(operator: LinearOperator, num_steps: int, tolerance: float) -> Tensor:
    operator = operator.to(torch.float64)
    rows = max((len(getattr(operator, name)) for name in operator.per_image), default=1)
    start = torch.randn(1, *operator.image_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, norms, done = start.expand(rows, -1, -1, -1), torch.zeros(rows), torch.zeros(rows, dtype=torch.bool)
    norms = norms.double()
    for _ in range(num_steps):
        x = operator.adjoint(operator.forward(x))
        length = torch.linalg.vector_norm(x.flatten(1), dim=1)
        x = x / length.view(-1, 1, 1, 1).clamp_min(1e-300)
        estimate = torch.where(done, norms, length.sqrt())
        done = done | ((estimate - norms).abs() <= tolerance * estimate)
        norms = estimate
        if done.all():
            break
    return norms if operator.per_image else norms[0]
