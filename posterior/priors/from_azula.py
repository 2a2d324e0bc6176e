"""Denoisers of azula's as priors; azula itself is not needed here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posterior.checkpoint import load_checkpoint
from posterior.checks import MOST_CHANNELS, MOST_CLASSES, MOST_SIDE, whole
from posterior.errors import UserError
from posterior.priors.base import Prior
from posterior.reading import read_states


class DenoiserPrior(Prior):
    """A denoiser of azula's, asked in sigma: x_t = alpha_t x at the time t at which sigma_t / alpha_t = sigma.

    Its noise range is that of its schedule, from t = 0 to t = 1.

    Args:
        denoiser: the module, whose ``schedule`` it follows.
        keywords: that it is called with.
    """

    def __init__(self, denoiser: nn.Module, keywords: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.denoiser, self.keywords = denoiser, dict(keywords or {})
        self.sigma_min, self.sigma_max = (self.level(torch.tensor(t).double()).item() for t in (0.0, 1.0))

    def level(self, t: Tensor) -> Tensor:
        """sigma_t / alpha_t, which rises with t in [0, 1]."""
        alpha, sigma = self.denoiser.schedule(t)  # type: ignore[operator]
        return sigma / alpha

    def time(self, sigma: Tensor) -> Tensor:
        """t, by bisection, float64, shaped as sigma."""
        low, high = torch.zeros_like(sigma), torch.ones_like(sigma)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.level(middle) < sigma
            low, high = middle.where(below, low), high.where(below, middle)
        return high

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, None]:
        if isinstance(sigma, Tensor):
            t = self.time(sigma.flatten().double())
            alpha = self.denoiser.schedule(t)[0].to(x).view(-1, 1, 1, 1)  # type: ignore[operator]
        else:  # on the host; some of azula's denoisers take one time alone
            moment = self.time(torch.tensor(sigma, dtype=torch.float64))
            alpha = self.denoiser.schedule(moment)[0].item()  # type: ignore[operator]
            t = torch.full((), moment.item(), dtype=x.dtype, device=x.device)
        with self.autocast(x):
            denoised = self.denoiser(alpha * x, t.to(x), **self.called_with(len(x))).mean
        return denoised.to(x.dtype), None

    def called_with(self, count: int) -> dict[str, Any]:
        """Keywords of a call on so many images."""
        return self.keywords


class AzulaPrior(DenoiserPrior):
    """A frozen denoiser of azula's, for images in [-1, 1], as a configuration names it.

    Args:
        denoiser: the module. It may say what images it is for, see `Prior.ask`.
        checkpoint: state dict of the denoiser, or of its ``backbone`` alone, to load strictly; None leaves it as it is.
        label: the class of a class-conditional one, handed on as ``label``; None: it is called without.
        channels: of the images; None: what the denoiser says, or any number.
        size: side of the images in pixels; None: what the denoiser says, or no size in particular.

    Raises:
        UserError: if a number is out of range; it has no schedule, or one whose noise level does not rise from t = 0 to
            t = 1; or the checkpoint does not fit.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        checkpoint: Path | None = None,
        label: int | None = None,
        channels: int | None = None,
        size: int | None = None,
    ) -> None:
        if not callable(getattr(denoiser, "schedule", None)):
            raise UserError(f"AzulaPrior: {type(denoiser).__name__} has no schedule: it is no denoiser of azula's")
        if label is not None:
            whole("AzulaPrior", "label", label, 0, MOST_CLASSES)
        if channels is not None:
            whole("AzulaPrior", "channels", channels, 1, MOST_CHANNELS)
        if size is not None:
            whole("AzulaPrior", "size", size, 1, MOST_SIDE)
        super().__init__(denoiser)
        if not 0 <= self.sigma_min < self.sigma_max:
            raise UserError(
                f"AzulaPrior: the schedule {type(denoiser.schedule).__name__} goes from sigma {self.sigma_min:g} to "
                f"{self.sigma_max:g}: it must rise"
            )
        if checkpoint is not None:
            load_checkpoint(_part(denoiser, Path(checkpoint)), Path(checkpoint))
        self.ask(denoiser)
        self.channels = channels or self.channels
        self.size = (size, size) if size else self.size
        self.label: Tensor | None
        self.register_buffer("label", None if label is None else torch.tensor(label))
        self.requires_grad_(False).eval()

    def called_with(self, count: int) -> dict[str, Any]:
        return self.keywords if self.label is None else self.keywords | {"label": self.label.expand(count)}

    def facts(self) -> str:
        return str(self.level(torch.linspace(0, 1, 9, dtype=torch.float64)).tolist())


def _part(denoiser: nn.Module, checkpoint: Path) -> nn.Module:
    """What a file has the weights of: a denoiser, or its backbone."""
    keys = [key for state in read_states(checkpoint).values() for key in state]
    whole = any("backbone" in key.split(".")[:-1] for key in keys)
    backbone = getattr(denoiser, "backbone", None)
    return backbone if isinstance(backbone, nn.Module) and not whole else denoiser
