"""Score networks in sigma units as priors: for networks that were trained elsewhere, on complex MRI slices, say."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from posterior.checks import choice, real
from posterior.priors.network import Compile, MemoryFormat, NetworkPrior, per_row

Output = Literal["score", "noise", "denoised"]


class ScoreNetworkPrior(NetworkPrior):
    """A frozen network of the variance-exploding kind, called as network(x, sigma), x (B, C, H, W), sigma (B,).

    Channels are the network's: two for complex images (Jalal et al., NeurIPS 2021; Song et al., ICLR 2022). A network
    that wants something else of sigma is wrapped by a module of the user's own, a ``class_path`` away.

    Args:
        network: the module. It may say what images it is for, see `Prior.ask`.
        sigma_min, sigma_max: noise levels that it was trained on, 0 < sigma_min < sigma_max.
        output: what it gives: ``score``; ``noise``, that is -sigma times the score; or ``denoised``.
        checkpoint: state dict to load strictly; None leaves the network as it is.
        compile, memory_format: see `NetworkPrior`.

    Raises:
        UserError: if the levels are not in order or the checkpoint does not fit; on evaluation outside them.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_min: float,
        sigma_max: float,
        output: Output = "score",
        checkpoint: Path | None = None,
        compile: Compile | None = None,
        memory_format: MemoryFormat = "contiguous",
    ) -> None:
        choice("ScoreNetworkPrior", "output", output, Output)
        real("ScoreNetworkPrior", "sigma_min", sigma_min, above=0)
        real("ScoreNetworkPrior", "sigma_max", sigma_max, above=sigma_min)
        super().__init__(network, checkpoint, compile, memory_format)
        self.output = output
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, None]:
        found = self.call_network(x, per_row(sigma, x))
        if self.output == "denoised":
            return found, None
        return x + (sigma**2 * found if self.output == "score" else -sigma * found), None

    def facts(self) -> str:
        return f"{self.output} {self.sigma_min} {self.sigma_max}"
