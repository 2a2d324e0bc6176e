"""A diffusion model as a prior: noise schedule + network -> denoiser, and its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from posterior import waits
from posterior.checks import choice
from posterior.errors import UserError
from posterior.priors.network import Compile, MemoryFormat, NetworkPrior
from posterior.priors.noise_schedule import LinearBetas, NoiseSchedule

Prediction = Literal["epsilon", "x0", "v"]


class DiffusionPrior(NetworkPrior):
    """A frozen variance-preserving network in sigma units (`method.md`, section 1).

    The network sees z = x / sqrt(1 + sigma^2) and the (fractional) timestep t with sigma_t = sigma. If its output has
    twice the image's channels, the second half v gives the variance fraction (v + 1) / 2 of Nichol and Dhariwal.

    Args:
        network: called as network(z, t), z (B, C, H, W), t (B,); a `posterior.priors.UNet`, say. It may say what
            images it is for, see `Prior.ask`.
        noise_schedule: the levels that the network was trained on.
        prediction: what the network predicts: the noise n, x0, or v = (n - sigma x0) / sqrt(1 + sigma^2) (Salimans and
            Ho, ICLR 2022; the preconditioning of Karras et al., NeurIPS 2022, for data of unit variance).
        checkpoint: state dict to load strictly; None leaves the network as it is.
        compile, memory_format: see `NetworkPrior`.

    Raises:
        UserError: if the checkpoint does not fit; on evaluation outside the schedule's range of sigma.
    """

    def __init__(
        self,
        network: nn.Module,
        noise_schedule: NoiseSchedule | None = None,
        prediction: Prediction = "epsilon",
        checkpoint: Path | None = None,
        compile: Compile | None = None,
        memory_format: MemoryFormat = "contiguous",
    ) -> None:
        choice("DiffusionPrior", "prediction", prediction, Prediction)
        super().__init__(network, checkpoint, compile, memory_format)
        self.noise_schedule = noise_schedule or LinearBetas()
        self.prediction = prediction
        self.sigma_min, self.sigma_max = map(float, self.noise_schedule.sigmas[[0, -1]])

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor | None]:
        if isinstance(sigma, Tensor):
            found = waits.on_host("timesteps", self._timesteps, sigma.flatten())
            timesteps = waits.to_device("timesteps", found, x)
        else:  # no copy to the device, which would wait for it
            timesteps = torch.full((len(x),), float(self.noise_schedule.timestep(sigma)), device=x.device)
        output = self.call_network(x / (1 + sigma**2) ** 0.5, timesteps)
        channels = x.shape[1]
        mean = output[:, :channels]
        if self.prediction == "v":
            denoised = x / (1 + sigma**2) - sigma / (1 + sigma**2) ** 0.5 * mean
        else:
            denoised = x - sigma * mean if self.prediction == "epsilon" else mean
        fraction = (output[:, channels:] + 1) / 2 if output.shape[1] == 2 * channels else None
        return denoised, fraction

    def _timesteps(self, sigma: Tensor) -> Tensor:
        return torch.from_numpy(self.noise_schedule.timestep(sigma.numpy().astype(np.float64)).astype(np.float32))

    def facts(self) -> str:
        label = getattr(self.network, "label", None)  # of a class-conditional `UNet`
        return f"{self.prediction} {self.noise_schedule!r}" + (f" {label}" if isinstance(label, int) else "")

    def training_error(self, x0: Tensor, noise: Tensor, sigma: np.ndarray) -> Tensor:
        """The network's output on x0 + sigma * noise minus what it should be, (B, C, H, W): its square is the loss.

        Args:
            x0: clean images, (B, C, H, W).
            noise: standard normal, (B, C, H, W).
            sigma: noise levels, (B,).

        Raises:
            UserError: if the network's output has not the image's channels (a learned variance is not trained).
        """
        timesteps = torch.from_numpy(self.noise_schedule.timestep(sigma).astype(np.float32)).to(x0.device)
        levels = torch.from_numpy(sigma).to(x0).view(-1, *[1] * (x0.ndim - 1))
        scale = (1 + levels**2) ** 0.5
        output = self.network((x0 + levels * noise) / scale, timesteps)
        if output.shape != x0.shape:
            raise UserError(
                f"training: the network's output is {tuple(output.shape[1:])} for images {tuple(x0.shape[1:])}; "
                "set learn_sigma to false"
            )
        targets = {"epsilon": noise, "x0": x0, "v": (noise - levels * x0) / scale}
        return output - targets[self.prediction]
