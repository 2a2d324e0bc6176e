"""Folders of weights: on the disk, or by the name of a hub from which they were downloaded before."""

from __future__ import annotations

import os
from pathlib import Path

from posterior.errors import UserError
from posterior.reading import shown

HUB = "hf:"
"""The first part of ``hf://owner/name``, as a path."""


def local_folder(path: Path) -> Path:
    """The folder that a path or ``hf://owner/name`` names; nothing is downloaded.

    A name, with ``@revision`` or not, is looked up in the cache of the Hugging Face hub.

    Raises:
        UserError: if there is no such folder, or the name is not in the cache.
    """
    if path.parts[:1] == (HUB,):
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


def _cached(path: Path) -> Path:
    """The snapshot of ``hf://owner/name@revision``, the newest of ``main`` if it names no revision.

    Source: huggingface_hub's documentation of its cache (models--owner--name, refs, snapshots).
    """
    name, _, revision = "/".join(path.parts[1:]).partition("@")
    if len(name.split("/")) != 2 or ".." in path.parts:
        raise UserError(f"hf://{name}: a name of the hub has the form hf://owner/name")
    root = hub_cache() / f"models--{name.replace('/', '--')}"
    reference = root / "refs" / (revision or "main")
    try:
        commit = reference.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = root / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        at, option = (f"@{revision}", f" --revision {revision}") if revision else ("", "")
        raise UserError(
            f"hf://{name}{at} is not in the cache {shown(hub_cache())}, and nothing is downloaded here: "
            f"run 'hf download {name}{option}' where there is a network"
        )
    return snapshot
