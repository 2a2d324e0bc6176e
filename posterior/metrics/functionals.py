"""A function of an image that somebody wants to know: posterior mean, interval and probability."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.settings.classes import import_class

TOGETHER = 256
"""Images that a function is given at once, at most."""
OUTSIDE = 0.1
"""Of the posterior, on each side of the interval."""


@dataclass(frozen=True)
class Functional:
    """A function of images by name: for each image a number, a probability, or yes or no.

    Args:
        name: what its columns begin with.
        function: (N, C, H, W), about in [-1, 1] -> (N,); each value is of its own image.
    """

    name: str
    function: Callable[[Tensor], Any]

    @classmethod
    def of(cls, function: Callable[[Tensor], Any]) -> Functional:
        """By the name of the function, or of the class of an object that can be called."""
        return cls(getattr(function, "__name__", type(function).__name__), function)

    @classmethod
    def at(cls, path: str, option: str) -> Functional:
        """Of a path, ``my_module.f``; a class is made without arguments.

        Raises:
            UserError: naming the option, if nothing that can be called is there.
        """
        full, found = import_class(path, None, option)
        if inspect.isclass(found):
            found = found()
        if not callable(found):
            raise UserError(f"{option}: {full} is no function of images (N, C, H, W)")
        return cls.of(found)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Values (N,) of images (N, C, H, W), of their type or bool, on their device.

        Raises:
            UserError: if the function fails, or gives anything but a real number an image.
        """
        return torch.cat([self._values(part) for part in images.split(TOGETHER)])

    def _values(self, images: Tensor) -> Tensor:
        try:
            found = torch.as_tensor(self.function(images.clone())).to(images.device)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise UserError(f"functional {self.name} fails: {type(error).__name__}: {text}") from error
        if tuple(found.shape) != (len(images),) or found.is_complex():
            raise UserError(
                f"functional {self.name} gave {tuple(found.shape)} {found.dtype} for {len(images)} images, expected a "
                f"number for each, ({len(images)},)"
            )
        return found if found.dtype == torch.bool else found.to(images.dtype)

    def columns(self, chains: Tensor) -> dict[str, Tensor]:
        """What K samples (K, B, C, H, W) of the posterior say of it: column -> (B,).

        ``NAME_probability`` of a function that says yes or no; otherwise ``NAME_mean`` (of one that gives
        probabilities, the probability), ``NAME_10`` and ``NAME_90``, between which it lies with a probability of 80 %.
        """
        values = self(chains.flatten(0, 1)).view(chains.shape[:2])
        if values.dtype == torch.bool:
            return {f"{self.name}_probability": values.to(chains.dtype).mean(dim=0)}
        low, high = (values.quantile(share, dim=0) for share in (OUTSIDE, 1 - OUTSIDE))
        return {f"{self.name}_mean": values.mean(dim=0), f"{self.name}_10": low, f"{self.name}_90": high}
