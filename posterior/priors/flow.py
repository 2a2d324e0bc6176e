"""Rectified flow and flow matching: velocity networks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from posterior.checks import choice, real
from posterior.priors.network import Compile, MemoryFormat, NetworkPrior, per_row

Time = Literal["noise", "data"]


class FlowPrior(NetworkPrior):
    """A frozen network that gives the velocity d x_t / dt of straight paths between image x0 and noise n ~ N(0, I).

    ``time: noise`` (rectified flow, Stable Diffusion 3): x_t = (1 - t) x0 + t n with velocity v = n - x0, so that
    D = x_t - t v and sigma = t / (1 - t). ``time: data`` (flow matching): x_t = t x0 + (1 - t) n with v = x0 - n, so
    that D = x_t + (1 - t) v and sigma = (1 - t) / t. Either way the network sees x_t = x / (1 + sigma), and is called
    as network(x_t, time_scale t), t (B,).

    Source: Liu et al., ICLR 2023, arXiv:2209.03003; Lipman et al., ICLR 2023, arXiv:2210.02747.

    Args:
        network: the module. It may say what images it is for, see `Prior.ask`.
        time: what stands at t = 1, ``noise`` or ``data``.
        time_scale: what the network's time is a multiple of, > 0; 1000 for those of diffusers.
        sigma_min, sigma_max: noise levels that are asked, 0 < sigma_min < sigma_max. Training covers all t in (0, 1),
            but near the ends few were drawn: 0.001 and 999 are t = 0.001 and 0.999.
        checkpoint: state dict to load strictly; None leaves the network as it is.
        compile, memory_format: see `NetworkPrior`.

    Raises:
        UserError: if a number is out of range or the checkpoint does not fit; on evaluation outside the levels.
    """

    def __init__(
        self,
        network: nn.Module,
        time: Time,
        time_scale: float = 1.0,
        sigma_min: float = 0.001,
        sigma_max: float = 999.0,
        checkpoint: Path | None = None,
        compile: Compile | None = None,
        memory_format: MemoryFormat = "contiguous",
    ) -> None:
        choice("FlowPrior", "time", time, Time)
        real("FlowPrior", "time_scale", time_scale, above=0)
        real("FlowPrior", "sigma_min", sigma_min, above=0)
        real("FlowPrior", "sigma_max", sigma_max, above=sigma_min)
        super().__init__(network, checkpoint, compile, memory_format)
        self.time, self.time_scale, self.sigma_min, self.sigma_max = time, time_scale, sigma_min, sigma_max

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, None]:
        noise = sigma / (1 + sigma)  # the part of noise in x_t
        t = noise if self.time == "noise" else 1 / (1 + sigma)
        x_t = x / (1 + sigma)
        velocity = self.call_network(x_t, per_row(self.time_scale * t, x))
        return x_t - noise * velocity if self.time == "noise" else x_t + noise * velocity, None

    def facts(self) -> str:
        return f"{self.time} {self.time_scale} {self.sigma_min} {self.sigma_max}"
