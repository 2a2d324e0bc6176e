"""Weights from files, strictly."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from posterior.errors import UserError


def load_checkpoint(network: nn.Module, checkpoint: Path, unused: str | None = None) -> None:
    """Load a state dict (``.pt``, weights only, or ``.safetensors``) strictly into a network.

    Args:
        network: is filled.
        checkpoint: the file.
        unused: start of the keys that the file may hold and the network leaves out, or None.

    Raises:
        UserError: naming the file, if it is missing or unreadable, or listing missing, unexpected and misshapen keys.
    """
    try:
        if checkpoint.suffix == ".safetensors":
            state = safetensors.torch.load_file(checkpoint)
        else:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(checkpoint))
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {checkpoint} does not exist") from error
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, safetensors.SafetensorError) as error:
        raise UserError(
            f"checkpoint {checkpoint} is not a readable state dict: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        inside = f"; it holds {', '.join(map(str, state))}"[:200] if isinstance(state, dict) else ""
        raise UserError(f"checkpoint {checkpoint} is not a state dict (names to tensors){inside}")
    if unused is not None:
        state = {key: value for key, value in state.items() if not key.startswith(unused)}
    expected = network.state_dict()
    problems = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
            for key in expected
            if key in state and state[key].shape != expected[key].shape
        ],
    }
    if any(problems.values()):
        told = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
            for what, keys in problems.items()
            if keys
        )
        raise UserError(f"checkpoint {checkpoint} is of another architecture than {type(network).__name__}: {told}")
    network.load_state_dict(state)
