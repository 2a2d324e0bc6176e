"""Priors by the name that they have on the Hugging Face hub, in its local cache: benchmarks/tools/fetch.py fills it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posterior.errors import UserError
from posterior.reading import shown

HUB = "hf:"
"""The first part of ``hf://owner/name``, as a path."""
PRIOR = "posterior.priors.DiffusersPrior"
"""The class that reads a folder of the hub."""
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""Of a network of diffusers: the first that is there is taken."""
CONFIGURATIONS = ("config.json", "scheduler_config.json")
"""Of the network, and of the scheduler."""
AUTOENCODERS = ("vae", "vqvae")
"""Folders of a latent pipeline's autoencoder."""
TEXTS = "text_encoder"
"""Folder of what tells a pipeline's network texts, or its first word where there are several."""


def on_hub(path: Path) -> bool:
    """Whether a path is ``hf://owner/name``."""
    return path.parts[:1] == (HUB,)


def hub_settings(path: Path) -> dict[str, Any]:
    """The settings of the prior that ``hf://owner/name`` names, as a file of settings would hold them."""
    return {"class_path": PRIOR, "init_args": {"folder": "/".join([f"{HUB}/", *path.parts[1:]])}}


def local_folder(path: Path) -> Path:
    """The folder that a path or ``hf://owner/name`` names; nothing is downloaded.

    A name, with ``@revision`` or not, is looked up in the cache of the Hugging Face hub.

    Raises:
        UserError: if there is no such folder, or the name is not in the cache.
    """
    if on_hub(path):
        return _cached(path)
    if not path.is_dir():
        raise UserError(f"{shown(path)} is not a folder; one of the hub's is named hf://owner/name")
    return path


def hub_cache() -> Path:
    """Where the hub's own tools keep what they download: HF_HUB_CACHE, or ``hub`` in HF_HOME, or ~/.cache/huggingface.

    Source: huggingface_hub's documentation of environment variables.
    """
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache"))
    home = os.environ.get("HF_HOME") or str(Path(home) / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or str(Path(home) / "hub")).expanduser()


def parted(path: Path) -> tuple[str, str]:
    """``owner/name`` and the revision, which may be empty, of ``hf://owner/name@revision``.

    Raises:
        UserError: if it has another form.
    """
    name, _, revision = "/".join(path.parts[1:]).partition("@")
    if len(name.split("/")) != 2 or ".." in path.parts:
        raise UserError(f"hf://{name}: a name of the hub has the form hf://owner/name")
    return name, revision


def _cached(path: Path) -> Path:
    """The snapshot of ``hf://owner/name@revision``, the newest of ``main`` if it names no revision.

    Source: huggingface_hub's documentation of its cache (models--owner--name, refs, snapshots).
    """
    name, revision = parted(path)
    root = hub_cache() / f"models--{name.replace('/', '--')}"
    reference = root / "refs" / (revision or "main")
    try:
        commit = reference.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = root / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        whole = f"hf://{name}{f'@{revision}' if revision else ''}"
        raise UserError(
            f"{whole} is not in the cache {shown(hub_cache())}, and nothing is downloaded here: "
            f"run 'posterior-sampling fetch {whole}' where there is a network"
        )
    return snapshot


def needed(files: Sequence[str]) -> list[str]:
    """Of a repository's files those that `DiffusersPrior` reads, and `DiffusersDecoder` of a latent pipeline.

    Args:
        files: paths in the repository: of a pipeline (``unet/``, ``scheduler/``, ``vae/``), or side by side.

    Raises:
        UserError: naming what is missing or too much, if it is no unconditional or class-conditional pipeline.
    """
    known = set(files)
    if texts := [name for name in files if name.startswith(TEXTS)]:
        raise UserError(
            f"it has {texts[0]}: its network is told texts, and only unconditional or class-conditional "
            "ones are read here"
        )
    unet = "unet/" if f"unet/{CONFIGURATIONS[0]}" in known else ""
    scheduler = "scheduler/" if f"scheduler/{CONFIGURATIONS[1]}" in known else ""
    networks = [unet, *(f"{place}/" for place in AUTOENCODERS if f"{place}/{CONFIGURATIONS[0]}" in known)]
    found = [f"{scheduler}{CONFIGURATIONS[1]}"]
    for folder in networks:
        weights = next((f"{folder}{name}" for name in WEIGHTS if f"{folder}{name}" in known), f"{folder}{WEIGHTS[0]}")
        found += [f"{folder}{CONFIGURATIONS[0]}", weights]
    if missing := [name for name in found if name not in known]:
        raise UserError(f"it has no {missing[0]}: it is no UNet2DModel with its scheduler")
    return found
