"""Autoencoders of the library diffusers, as decoders.

Facts of the format: `config.json` and `diffusion_pytorch_model.*` as diffusers 0.42 writes and reads them
(huggingface/diffusers, Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from posterior.checkpoint import load_state
from posterior.errors import UserError
from posterior.hub import AUTOENCODERS, local_folder
from posterior.priors.from_diffusers import (
    NETWORK,
    Scaling,
    Section,
    autoencoder_in,
    current,
    library,
    weights_in,
)
from posterior.priors.latent import Decoder
from posterior.reading import read_json, read_state, shown

KINDS = {"AutoencoderKL": "AutoencoderKL", "VQModel": "VQModel"}


class DiffusersDecoder(Decoder):
    """The decoder of an AutoencoderKL or a VQModel of diffusers, read from its folder.

    g(z) = decode(scale z + shift), the scale as the autoencoder's configuration has it (`Scaling`). A VQModel moves
    each latent to the nearest of its codes first; its gradient is the one that it was trained with, as if they were
    not moved. The encoder is read, and not kept. Nothing is downloaded.

    Args:
        folder: of the autoencoder, or of a pipeline (``vae/``, ``vqvae/``); ``hf://owner/name`` is looked up in the
            hub's local cache.

    Raises:
        UserError: naming file and key, if diffusers is not installed; a file is missing or damaged; or the autoencoder
            is of another class, or scaled by numbers that do not fit its channels.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        root = local_folder(Path(folder))
        path = autoencoder_in(root) or root / NETWORK
        if not path.is_file():
            if without := [root / name / NETWORK for name in AUTOENCODERS if (root / name).is_dir()]:
                raise UserError(
                    f"{shown(without[0])} is missing: the autoencoder's configuration, which diffusers writes beside "
                    "weights"
                )
            raise UserError(
                f"{shown(root)} has no autoencoder: neither {NETWORK} nor {' nor '.join(f'{n}/' for n in AUTOENCODERS)}"
            )
        section = Section(path, read_json(path, "autoencoder"))
        network = section.made_by(library(), section.choose("_class_name", KINDS))
        weights = weights_in(path.parent)
        state = {current(key): value for key, value in read_state(weights, "weights").items()}
        load_state(network, state, f"weights {shown(weights)}")
        network.encoder, network.quant_conv = nn.Identity(), nn.Identity()
        settings = network.config
        self.network, self.channels = network, settings.out_channels
        self.latent_channels = settings.get("vq_embed_dim") or settings.latent_channels
        self.factor = 2 ** (len(settings.block_out_channels) - 1)
        self.scaling = Scaling.read(section)
        for key, numbers in (("scale", self.scaling.scale), ("shift", self.scaling.shift)):
            if len(numbers) not in (1, self.latent_channels):
                raise UserError(
                    f"{shown(path)}: its latents have {self.latent_channels} channels, their {key} {len(numbers)}"
                )
            self.register_buffer(key, torch.tensor(numbers).view(-1, 1, 1))
        self.requires_grad_(False).eval()

    scale: Tensor
    shift: Tensor

    def forward(self, z: Tensor) -> Tensor:
        return self.network.decode(self.scale * z + self.shift, return_dict=False)[0]
