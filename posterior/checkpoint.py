"""Weights from files, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from posterior.errors import UserError
from posterior.reading import read_state, shown

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that weights of a network in floating point may be stored in."""


def load_checkpoint(network: nn.Module, checkpoint: Path, unused: str | None = None) -> None:
    """Load a state dict (``.pt``, weights only, or ``.safetensors``) strictly into a network.

    Args:
        network: is filled.
        checkpoint: the file.
        unused: start of the keys that the file may hold and the network leaves out, or None.

    Raises:
        UserError: naming the file, if it is missing or unreadable, or its values are no weights (`check_values`), or
            listing missing, unexpected and misshapen keys.
    """
    state = read_state(checkpoint)
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
    check_values(state, {key: value.dtype for key, value in expected.items()}, f"checkpoint {shown(checkpoint)}")
    network.load_state_dict(state)


def check_values(state: Mapping[str, Tensor], wanted: Mapping[str, torch.dtype], name: str) -> None:
    """Refuse tensors that cannot be weights.

    Args:
        state: what a file holds.
        wanted: the type that each becomes; any real floating point type may stand for another, the others must be it.
        name: of the file, for messages.

    Raises:
        UserError: naming the first one that is of another kind of number, or NaN or infinite in the wanted type.
    """
    for key, dtype in wanted.items():
        value = state[key]
        if value.dtype not in (FLOATS if dtype.is_floating_point else (dtype,)):
            raise UserError(f"{name}: {shown(key)} is {value.dtype}, where {dtype} is needed: it is another network's")
        if not torch.isfinite(value.to(dtype)).all():
            raise UserError(f"{name}: {shown(key)} holds NaN or infinite values: training diverged, or it is damaged")
