"""Weights from files, strictly."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from posterior.errors import UserError
from posterior.reading import read_states, shown

log = logging.getLogger(__name__)

AVERAGED = re.compile(r"(?<![a-z])ema(?![a-z])", re.IGNORECASE)
"""In the name of an averaged copy, as a word of its own."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that weights of a network in floating point may be stored in."""


def load_checkpoint(network: nn.Module, checkpoint: Path, unused: str | None = None) -> None:
    """Load a state dict (``.pt``, weights only, or ``.safetensors``) strictly into a network.

    A file of training code may hold several, side by side or under names (``module.``, ``model.ema.``) that their keys
    begin with: that which has the network's keys is taken, and of several the averaged one, called ``ema``; a line says
    so. Beside such names no other key may be, but for counters: single integers.

    Args:
        network: is filled.
        checkpoint: the file.
        unused: start of the keys that the file may hold and the network leaves out, or None.

    Raises:
        UserError: naming the file, if it is missing or unreadable, or as `load_state` does.
    """
    parts = read_states(checkpoint)
    if unused is not None:
        parts = {
            name: {key: value for key, value in state.items() if not key.startswith(unused)}
            for name, state in parts.items()
        }
    load_state(network, _fitting(parts, list(network.state_dict()), checkpoint), f"checkpoint {shown(checkpoint)}")


def load_state(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Fill a network strictly.

    Args:
        network: is filled. It may have a method ``hint``, which is given the state and says in a few words which of
            its settings do not fit it, or "".
        state: key -> tensor.
        name: of the file, for messages.

    Raises:
        UserError: if the values are no weights (`check_values`), or listing missing, unexpected and misshapen keys.
    """
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
            f"{len(keys)} {what}: {', '.join(map(shown, keys[:5]))}{', ...' if len(keys) > 5 else ''}"
            for what, keys in problems.items()
            if keys
        )
        hint = network.hint(state) if isinstance(network, Hinting) else ""
        raise UserError(f"{name} is of another architecture than {type(network).__name__}: {hint}{told}")
    check_values(state, {key: value.dtype for key, value in expected.items()}, name)
    network.load_state_dict(state)


@runtime_checkable
class Hinting(Protocol):
    """A network that knows which of its settings a state dict does not fit."""

    def hint(self, state: Mapping[str, Tensor]) -> str:
        """A few words, ending in ": ", or ""."""


def _fitting(parts: Mapping[str, dict[str, Tensor]], expected: list[str], checkpoint: Path) -> dict[str, Tensor]:
    """The state dict of a file that has a network's keys; if none has, the one that is closest.

    Args:
        parts: name -> state dict, of the file.
        expected: the network's keys.
        checkpoint: the file.

    Raises:
        UserError: if several have, and not exactly one of them is called ``ema``.
    """
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, state in parts.items():
        found |= {(name, prefix): copy for prefix, copy in _copies(state, expected).items()}
    fits = [place for place, state in found.items() if state.keys() == set(expected)]
    if len(fits) > 1:
        fits = [place for place in fits if AVERAGED.search(".".join(place))] or fits
    told = [shown(".".join(place).strip(".")) or "the file's top" for place in fits]
    if len(fits) > 1:
        raise UserError(
            f"checkpoint {shown(checkpoint)} holds several networks that fit, {', '.join(told)}: "
            "save the one that is meant"
        )
    if fits and fits[0] != ("", ""):
        log.info(f"checkpoint {shown(checkpoint)}: the weights are those of {told[0]}")
    wanted = set(expected)
    return found[fits[0]] if fits else max(found.values(), key=lambda state: len(wanted & state.keys()))


def _copies(state: Mapping[str, Tensor], expected: list[str]) -> dict[str, dict[str, Tensor]]:
    """What of a state dict may be a network, by what stands before its keys.

    What belongs to no copy is a key too many in each, unless it counts something.
    """
    found = {
        prefix: {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for prefix in _prefixes(state, expected)
    }
    whole = [prefix for prefix, copy in found.items() if copy.keys() == set(expected)]
    over = [key for key in state if not key.startswith(tuple(whole)) and not _counts(state[key])]
    for prefix in whole:
        found[prefix] |= {f"{key} (beside {prefix}*)": state[key] for key in over}
    return found


def _counts(value: Tensor) -> bool:
    return value.numel() == 1 and not value.dtype.is_floating_point and not value.dtype.is_complex


def _prefixes(state: Mapping[str, Tensor], expected: list[str]) -> list[str]:
    """What may stand before all of a network's keys: nothing, or names with dots."""
    ends = [key.removesuffix(expected[0]) for key in state if key.endswith(f".{expected[0]}")] if expected else []
    return ["", *dict.fromkeys(ends)]


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
