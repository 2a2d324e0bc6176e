"""Folders of the library diffusers as priors: an unconditional or class-conditional UNet2DModel and its scheduler.

Facts of the format: `config.json`, `scheduler_config.json` and `diffusion_pytorch_model.*` as diffusers 0.42 writes and
reads them (huggingface/diffusers, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posterior.checkpoint import load_state
from posterior.checks import brief, check_label, real, whole
from posterior.errors import UserError
from posterior.hub import AUTOENCODERS, CONFIGURATIONS, WEIGHTS, local_folder
from posterior.priors.base import Prior
from posterior.priors.diffusion import DiffusionPrior
from posterior.priors.edm import EDMPrior
from posterior.priors.flow import FlowPrior
from posterior.priors.network import Compile, MemoryFormat, check_execution
from posterior.priors.noise_schedule import NoiseSchedule
from posterior.priors.score_network import ScoreNetworkPrior
from posterior.priors.wrapped import RescaledPrior, WrappedPrior
from posterior.reading import read_json, read_state, reason, shown

NETWORK, SCHEDULER = CONFIGURATIONS
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention as files of 2022 call them -> as they are called now."""
PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
"""Theirs -> `DiffusionPrior`'s."""


class DiffusersPrior(WrappedPrior):
    """A frozen UNet2DModel of diffusers with the noise levels of its scheduler, both read from its folder.

    The folder is a pipeline's (``unet/``, ``scheduler/``) or has all files side by side. What the network predicts,
    and at which levels, is what ``scheduler_config.json`` says: DDPM, DDIM and PNDM (with betas of any kind; a last
    level without signal is left out), EDM, ScoreSdeVe and FlowMatch schedulers. Nothing is downloaded, and no code is
    loaded from the folder. Images are in [-1, 1]; those of ScoreSdeVe are in [0, 1] for the network, so that its noise
    levels are doubled here. A pipeline with an autoencoder beside is one of latents: `LatentPrior` takes both.

    Args:
        folder: on the disk; or ``hf://owner/name``, of which the copy in the hub's local cache is taken.
        label: the class, of a class-conditional network.
        patch_size: pixels are folded into channels for the network, squares of so many: 1 for all but the folders that
            ``posterior-sampling export`` says it of.
        compile, memory_format: see `posterior.priors.NetworkPrior`.

    Raises:
        UserError: naming file and key, if diffusers is not installed; a file is missing or damaged; the network is of
            another class; the scheduler, its prediction or its variance is not known here; or the label does not fit.
    """

    def __init__(
        self,
        folder: Path,
        label: int | None = None,
        patch_size: int = 1,
        compile: Compile | None = None,
        memory_format: MemoryFormat = "contiguous",
    ) -> None:
        check_execution("DiffusersPrior", compile, memory_format)
        whole("DiffusersPrior", "patch_size", patch_size, 1, 64)
        root = local_folder(Path(folder))
        files = Files.of(root)
        scheduler = Section(files.scheduler, read_json(files.scheduler, "scheduler"))
        kind = scheduler.choose("_class_name", KINDS)
        network = read_network(files, label, patch_size)
        super().__init__(kind(scheduler, network, compile, memory_format))
        self.sign, self.patch_size = network.sign, patch_size
        beside = autoencoder_in(root)
        self.scaling = None if beside is None else Scaling.read(Section(beside, read_json(beside, "autoencoder")))

    def check_images(self, image_shape: Sequence[int]) -> str | None:
        if self.scaling is not None:
            raise UserError(
                f"DiffusersPrior: these are latents, not images: there is an autoencoder, {shown(self.scaling.path)}. "
                "LatentPrior takes both"
            )
        return super().check_images(image_shape)

    def facts(self) -> str:
        return f"{self.sign} {self.patch_size}"


def autoencoder_in(folder: Path) -> Path | None:
    """The configuration of the autoencoder in a pipeline's folder, if it has one."""
    return next((path for name in AUTOENCODERS if (path := folder / name / NETWORK).is_file()), None)


def weights_in(folder: Path) -> Path:
    """The weights of a network beside its configuration.

    Raises:
        UserError: if there are none.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{shown(folder)} has no weights: neither {' nor '.join(WEIGHTS)}")


@dataclass(frozen=True)
class Files:
    """Where the parts of a pipeline are.

    Args:
        network: its configuration.
        scheduler: its configuration.
        weights: of the network.
    """

    network: Path
    scheduler: Path
    weights: Path

    @classmethod
    def of(cls, folder: Path) -> Files:
        """Of a pipeline's folder, or one with all files side by side.

        Raises:
            UserError: naming what is missing, if weights or a configuration are.
        """
        unet = folder / "unet" if (folder / "unet").is_dir() else folder
        scheduler = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
        for path, what in ((unet / NETWORK, "the network's"), (scheduler / SCHEDULER, "the scheduler's")):
            if not path.is_file():
                raise UserError(
                    f"{shown(path)} is missing: {what} configuration, which diffusers writes beside weights"
                )
        return cls(unet / NETWORK, scheduler / SCHEDULER, weights_in(unet))


@dataclass(frozen=True)
class Section:
    """What a configuration says.

    Args:
        path: the file.
        values: its mapping.
    """

    path: Path
    values: dict[str, Any]

    def choose(self, key: str, choices: dict[str, Any], default: str | None = None) -> Any:
        """The counterpart of a key's value; ``default`` is the library's own, for files that leave it out.

        Raises:
            UserError: naming file and key, if the key is missing or its value has none.
        """
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in choices:
            told = "is missing" if value is None else f"{value!r} is not known here"
            raise UserError(f"{shown(self.path)}: {key} {told} (known: {', '.join(choices)})")
        return choices[value]

    def number(self, key: str, default: float) -> float:
        """A number > 0.

        Raises:
            UserError: naming file and key, if it is none.
        """
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"{shown(self.path)}: {key} must be a number, got {value!r}")
        real(shown(self.path), key, value, above=0)
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...] | None:
        """One finite number, or a list of them; None: it is not said.

        Raises:
            UserError: naming file and key, if it is something else.
        """
        value = self.values.get(key)
        if value is None:
            return None
        listed = value if isinstance(value, list) else [value]
        for one in listed:
            if isinstance(one, bool) or not isinstance(one, (int, float)):
                raise UserError(f"{shown(self.path)}: {key} must be a number or a list of them, got {brief(value)}")
            real(shown(self.path), key, one)
        return tuple(map(float, listed))

    def made_by(self, library: ModuleType, name: str) -> Any:
        """The library's object of this configuration; of keys that are not its own it says nothing.

        Raises:
            UserError: naming the file, if it refuses.
        """
        try:
            return getattr(library, name).from_config(self.values)
        except Exception as error:
            raise UserError(f"{shown(self.path)}: diffusers makes no {name} of it: {reason(error)}") from error


@dataclass(frozen=True)
class Scaling:
    """z = (h - shift) / scale: h the latents of an autoencoder, z what a prior was trained on.

    Facts of the format: ``scaling_factor`` (1 / scale, of unit variance), ``shift_factor``, ``latents_mean`` and
    ``latents_std``, as the pipelines of diffusers decode.

    Args:
        path: the file that says so.
        scale, shift: one number, or one a channel.
    """

    path: Path = field(compare=False)
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def read(cls, section: Section) -> Scaling:
        """As an autoencoder's configuration has it.

        Raises:
            UserError: naming file and key, if a number is none.
        """
        factor = section.number("scaling_factor", 0.18215)
        mean, std = section.numbers("latents_mean"), section.numbers("latents_std")
        shift = section.numbers("shift_factor") or (0.0,)
        if mean is not None and std is not None:
            return cls(section.path, tuple(one / factor for one in std), mean)
        return cls(section.path, (1 / factor,), shift)

    def __str__(self) -> str:
        factors, shifts = (", ".join(f"{one:g}" for one in of) for of in ([1 / s for s in self.scale], self.shift))
        moved = f" after a shift by {shifts}" if any(self.shift) else ""
        return f"scaled by {factors}{moved} ({shown(self.path)})"


def library() -> ModuleType:
    """Raises:
    UserError: if diffusers is not installed.
    """
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise UserError("folders of diffusers need diffusers: pip install 'posterior-sampling[priors]'") from error
    return diffusers


class FromDiffusers(nn.Module):
    """A UNet2DModel called as network(x, t), x (B, C, H, W), t (B,), for one class.

    Args:
        network: the model.
        label: the class, or None.
        patch_size: side of the squares of pixels that are folded into channels.
    """

    def __init__(self, network: Any, label: int | None, patch_size: int) -> None:
        super().__init__()
        self.network, self.patch_size = network, patch_size
        settings, fold = network.config, patch_size**2
        self.in_channels = settings.in_channels // fold
        sides = (settings.sample_size,) * 2 if isinstance(settings.sample_size, int) else settings.sample_size
        self.image_size = sides and tuple(patch_size * side for side in sides)
        self.size_multiple = patch_size * 2 ** (len(settings.block_out_channels) - 1)
        self.learned = settings.out_channels == 2 * settings.in_channels
        self.label: Tensor | None
        self.register_buffer("label", None if label is None else torch.tensor(label))
        self.sign = 1

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        labels = None if self.label is None else self.label.expand(len(x))
        folded = F.pixel_unshuffle(x, self.patch_size)
        (output,) = self.network(folded, t, class_labels=labels, return_dict=False)
        return self.sign * F.pixel_shuffle(output, self.patch_size)


def read_network(files: Files, label: int | None, patch_size: int) -> FromDiffusers:
    """The network of a folder, with its weights.

    Raises:
        UserError: as `DiffusersPrior`.
    """
    section = Section(files.network, read_json(files.network, "network"))
    section.choose("_class_name", {"UNet2DModel": None})
    section.choose("time_embedding_type", {"positional": None, "fourier": None}, "positional")
    if section.values.get("class_embed_type") is not None:
        raise UserError(f"{shown(files.network)}: class_embed_type {section.values['class_embed_type']!r} is not known")
    network = section.made_by(library(), "UNet2DModel")
    settings = network.config
    if settings.out_channels not in (settings.in_channels, 2 * settings.in_channels):
        raise UserError(
            f"{shown(files.network)}: out_channels is {settings.out_channels}, which is neither in_channels "
            f"{settings.in_channels} nor twice that: it is no denoiser"
        )
    if settings.in_channels % patch_size**2:
        raise UserError(
            f"{shown(files.network)}: in_channels {settings.in_channels} is no multiple of patch_size^2 {patch_size**2}"
        )
    check_label("DiffusersPrior", settings.num_class_embeds, label)
    state = {current(key): value for key, value in read_state(files.weights, "weights").items()}
    load_state(network, state, f"weights {shown(files.weights)}")
    return FromDiffusers(network, label, patch_size)


def current(key: str) -> str:
    """A key with the names that attention has now."""
    parts = key.split(".")
    if "attentions" in parts and len(parts) > 1:
        parts[-2] = OLD_ATTENTION.get(parts[-2], parts[-2])
    return ".".join(parts)


@dataclass(frozen=True)
class TrainedBetas(NoiseSchedule):
    """Betas as they are listed.

    Args:
        num_steps: how many.
        listed: each in (0, 1).
    """

    listed: tuple[float, ...] = field(default=())

    def _make_betas(self, num_steps: int) -> np.ndarray:
        return np.array(self.listed)


def _variance_preserving(
    scheduler: Section, network: FromDiffusers, compile: Compile | None, memory_format: MemoryFormat
) -> DiffusionPrior:
    """Of DDPM and what shares its training."""
    prediction = scheduler.choose("prediction_type", PREDICTIONS, "epsilon")
    variance = scheduler.values.get("variance_type", "fixed_small")
    if network.learned != (variance == "learned_range"):
        raise UserError(
            f"{shown(scheduler.path)}: variance_type is {variance!r}, but the network's out_channels are "
            f"{'twice' if network.learned else 'not twice'} its in_channels, as 'learned_range' has them"
        )
    made = scheduler.made_by(library(), scheduler.values["_class_name"])
    betas = made.betas.double().numpy()
    if betas[-1] == 1:  # rescaled to no signal at the end: no noise level in units of the data
        betas = betas[:-1]
    if not ((betas > 0) & (betas < 1)).all():
        raise UserError(f"{shown(scheduler.path)}: its betas are not all between 0 and 1")
    return DiffusionPrior(
        network, TrainedBetas(len(betas), tuple(betas.tolist())), prediction, None, compile, memory_format
    )


def _plain(scheduler: Section, network: FromDiffusers) -> None:
    """Raises:
    UserError: if the network has learned a variance, which this scheduler knows nothing of.
    """
    if network.learned:
        raise UserError(
            f"{shown(scheduler.path)}: the network's out_channels are twice its in_channels, for no use here"
        )


def _karras(
    scheduler: Section, network: FromDiffusers, compile: Compile | None, memory_format: MemoryFormat
) -> EDMPrior:
    """Of EDM: c_out of ``v_prediction`` is minus that of ``epsilon``."""
    _plain(scheduler, network)
    network.sign = scheduler.choose("prediction_type", {"epsilon": 1, "v_prediction": -1}, "epsilon")
    return EDMPrior(
        network,
        scheduler.number("sigma_data", 0.5),
        scheduler.number("sigma_min", 0.002),
        scheduler.number("sigma_max", 80),
        compile=compile,
        memory_format=memory_format,
    )


def _variance_exploding(
    scheduler: Section, network: FromDiffusers, compile: Compile | None, memory_format: MemoryFormat
) -> RescaledPrior:
    """Of Song et al.: the network gives the score, and is told sigma.

    Its images are in [0, 1]: diffusers' ScoreSdeVePipeline cuts off what is outside, and maps nothing.
    """
    _plain(scheduler, network)
    low, high = scheduler.number("sigma_min", 0.01), scheduler.number("sigma_max", 1348)
    return RescaledPrior(ScoreNetworkPrior(network, low, high, "score", None, compile, memory_format), 0, 1)


def _flow(
    scheduler: Section, network: FromDiffusers, compile: Compile | None, memory_format: MemoryFormat
) -> FlowPrior:
    """Of flow matching: velocity n - x0, time in units of training steps."""
    _plain(scheduler, network)
    if scheduler.values.get("invert_sigmas"):
        raise UserError(f"{shown(scheduler.path)}: invert_sigmas is true: time runs the other way, which is not read")
    scale = scheduler.number("num_train_timesteps", 1000)
    return FlowPrior(network, "noise", scale, 1 / scale, scale, None, compile, memory_format)


KINDS: dict[str, Callable[[Section, FromDiffusers, Compile | None, MemoryFormat], Prior]] = {
    "DDPMScheduler": _variance_preserving,
    "DDIMScheduler": _variance_preserving,
    "PNDMScheduler": _variance_preserving,
    "EDMEulerScheduler": _karras,
    "EDMDPMSolverMultistepScheduler": _karras,
    "ScoreSdeVeScheduler": _variance_exploding,
    "FlowMatchEulerDiscreteScheduler": _flow,
}
