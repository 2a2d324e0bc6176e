"""Priors that are another prior in other words."""

from __future__ import annotations

from torch import Tensor

from posterior.checks import MOST_CHANNELS, real, whole
from posterior.errors import UserError
from posterior.priors.base import Prior


class WrappedPrior(Prior):
    """Another prior: subclasses say what differs. What it is for is taken over.

    Args:
        prior: the other one.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        self.sigma_min, self.sigma_max = prior.sigma_min, prior.sigma_max
        self.channels, self.size, self.size_multiple = prior.channels, prior.size, prior.size_multiple
        self.value_range = prior.value_range

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor | None]:
        return self.prior._predict(x, sigma)

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """As the other prior has it: at sigma 0, where it is one in closed form, as well; ``sigma`` as `_predict`'s."""
        return self.prior.score(x, sigma)

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._counted(self._score(x, self._checked(x, sigma)))

    def curvature(self, sigma: float) -> float:
        return self.prior.curvature(sigma)

    def content(self) -> str:
        return self.prior.fingerprint()


class RescaledPrior(WrappedPrior):
    """A prior of images in [low, high], asked in [-1, 1]: x = (2 u - low - high) / (high - low) for its image u.

    Its noise levels are in units of u, ours are 2 / (high - low) times as large: twice for [0, 1].

    Args:
        prior: of images in [low, high].
        low, high: values of black and white there.

    Raises:
        UserError: if they are not in order.
    """

    def __init__(self, prior: Prior, low: float = 0.0, high: float = 1.0) -> None:
        real("RescaledPrior", "low", low)
        real("RescaledPrior", "high", high, above=low)
        super().__init__(prior)
        self.scale, self.shift = 2 / (high - low), -(low + high) / (high - low)
        self.sigma_min, self.sigma_max = self.scale * prior.sigma_min, self.scale * prior.sigma_max
        self.value_range = (-1.0, 1.0)

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor | None]:
        denoised, fraction = self.prior._predict((x - self.shift) / self.scale, sigma / self.scale)
        return self.scale * denoised + self.shift, fraction

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.prior.score((x - self.shift) / self.scale, sigma / self.scale) / self.scale

    def curvature(self, sigma: float) -> float:
        return self.prior.curvature(sigma / self.scale) / self.scale**2

    def facts(self) -> str:
        return f"{self.scale} {self.shift}"


class ChannelwisePrior(WrappedPrior):
    """A grey prior for pictures of several channels: each channel is an image of its own, independent of the others.

    It knows nothing of colour: no channel tells anything of another. The other way round, a colour prior for grey
    pictures, is none: noise that is the same in all channels is not what the network was trained on.

    An image counts once, whatever the number of its channels.

    Args:
        prior: of images with one channel.
        channels: of the pictures, >= 1.

    Raises:
        UserError: if the prior is of several channels.
    """

    def __init__(self, prior: Prior, channels: int = 3) -> None:
        whole("ChannelwisePrior", "channels", channels, 1, MOST_CHANNELS)
        if prior.channels not in (None, 1):
            raise UserError(f"ChannelwisePrior: prior must be of images with 1 channel, not of {prior.channels}")
        super().__init__(prior)
        self.channels = channels

    def _apart(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, float | Tensor]:
        """Each channel as an image (B C, 1, H, W), and its level."""
        levels = sigma.repeat_interleave(x.shape[1], dim=0) if isinstance(sigma, Tensor) else sigma
        return x.flatten(0, 1)[:, None], levels

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor | None]:
        denoised, fraction = self.prior._predict(*self._apart(x, sigma))
        return denoised.view_as(x), None if fraction is None else fraction.view_as(x)

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.prior.score(*self._apart(x, sigma)).view_as(x)

    def facts(self) -> str:
        return str(self.channels)
