"""Where the host waits for an accelerator: every such place goes through a door that has a name.

A wait lets the device run dry. None belongs into a step of a sampler; tests/test_devices.py counts those of a run by
name, and fails on one that has none. On a CPU the doors cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Around calls that wait by themselves, such as torch.linalg's, which look whether they have converged.

    Args:
        name: of the wait.
    """
    yield


def fetch(name: str, x: Tensor) -> Any:
    """The values as (nested lists of) Python numbers.

    Args:
        name: of the wait.
        x: of any shape, () gives a number.
    """
    return x.tolist()


def on_host(name: str, compute: Callable[..., Any], *values: Any) -> Any:
    """A computation on the CPU, of copies of its arguments.

    Args:
        name: of the wait.
        compute: what to do with them.
        values: tensors or operators, anything that has ``to``.
    """
    return compute(*(value.to("cpu") for value in values))


def to_device(name: str, x: Tensor, like: Tensor | torch.device) -> Tensor:
    """A copy on a device: from pageable memory that waits for it.

    Args:
        name: of the wait.
        x: a tensor on the host.
        like: the device, or a tensor there, whose dtype the copy gets if both are floating.
    """
    if isinstance(like, torch.device):
        return x.to(like)
    same = x.is_floating_point() and like.is_floating_point()
    return x.to(like.device, like.dtype if same else x.dtype)
