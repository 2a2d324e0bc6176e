"""Networks in the preconditioning of Karras et al.: EDM, EDM2, and what follows them."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from posterior.checks import check_label, real
from posterior.errors import UserError
from posterior.priors.network import Compile, MemoryFormat, NetworkPrior, per_row


class EDMPrior(NetworkPrior):
    """A frozen network F in D(x, sigma) = c_skip x + c_out F(c_in x; c_noise).

    With s = sigma_data and r^2 = sigma^2 + s^2: c_skip = s^2 / r^2, c_out = sigma s / r, c_in = 1 / r, c_noise =
    log(sigma) / 4. The network is called as network(c_in x, c_noise), x (B, C, H, W), c_noise (B,); one whose
    ``forward`` takes ``class_labels`` gets them too: the label's unit vector (B, num_classes), or None without classes.

    Source: Karras et al., NeurIPS 2022, arXiv:2206.00364, equation 7 and Table 1; EDM2 (CVPR 2024, arXiv:2312.02696)
    has the same.

    Args:
        network: the module. It may say what images it is for, see `Prior.ask`.
        sigma_data: standard deviation of the data that it was trained for, > 0.
        sigma_min, sigma_max: noise levels that it was trained on, 0 < sigma_min < sigma_max.
        checkpoint: state dict to load strictly; None leaves the network as it is. For published pickles:
            ``posterior-sampling convert edm FILE``.
        num_classes: of a class-conditional network; None: it has no classes.
        label: the class that is sampled, in 0, ..., num_classes - 1.
        compile, memory_format: see `NetworkPrior`.

    Raises:
        UserError: if a number is out of range, a label is missing or too many, or the checkpoint does not fit; on
            evaluation outside [sigma_min, sigma_max].
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        checkpoint: Path | None = None,
        num_classes: int | None = None,
        label: int | None = None,
        compile: Compile | None = None,
        memory_format: MemoryFormat = "contiguous",
    ) -> None:
        real("EDMPrior", "sigma_data", sigma_data, above=0)
        real("EDMPrior", "sigma_min", sigma_min, above=0)
        real("EDMPrior", "sigma_max", sigma_max, above=sigma_min)
        check_label("EDMPrior", num_classes, label)
        if checkpoint is not None and Path(checkpoint).suffix == ".pkl":
            raise UserError(
                f"EDMPrior: checkpoint {checkpoint} is a pickle, which would run code when it is loaded: "
                f"posterior-sampling convert edm {checkpoint}"
            )
        super().__init__(network, checkpoint, compile, memory_format)
        if "class_labels" in inspect.signature(network.forward).parameters:
            self.network = OneHot(network, num_classes, label)
        elif num_classes is not None:
            raise UserError(f"EDMPrior: {type(network).__name__} takes no class_labels, but num_classes is given")
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, None]:
        radius = (sigma**2 + self.sigma_data**2) ** 0.5
        noise = (sigma.log() if isinstance(sigma, Tensor) else math.log(sigma)) / 4
        output = self.call_network(x / radius, per_row(noise, x))
        return (self.sigma_data / radius) ** 2 * x + sigma * self.sigma_data / radius * output, None

    def facts(self) -> str:
        classes = f" {self.network.num_classes} {self.network.label}" if isinstance(self.network, OneHot) else ""
        return f"{self.sigma_data} {self.sigma_min} {self.sigma_max}{classes}"


class OneHot(nn.Module):
    """A network that is called with the same class for every image, as a unit vector.

    Args:
        network: called as network(x, c_noise, class_labels).
        num_classes: length of the vector; None: it is given None.
        label: the class.
    """

    def __init__(self, network: nn.Module, num_classes: int | None, label: int | None) -> None:
        super().__init__()
        self.network, self.num_classes, self.label = network, num_classes, label

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        labels = None
        if self.num_classes is not None and self.label is not None:
            labels = F.pad(x.new_ones(len(x), 1), (self.label, self.num_classes - 1 - self.label))
        return self.network(x, noise, class_labels=labels)
