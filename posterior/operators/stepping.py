"""Solvers that step through time, differentiated without keeping every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_stretches(
    advance: Callable[[tuple[Tensor, ...], int, int], tuple[Tensor, ...]], state: tuple[Tensor, ...], num_steps: int
) -> tuple[Tensor, ...]:
    """A state after ``num_steps`` steps, in stretches of about sqrt(num_steps).

    Where gradients are asked for, a stretch's inside is computed again on the way back, so that memory holds about
    2 sqrt(num_steps) steps (Griewank and Walther, ACM Trans. Math. Softw. 26, 19, 2000, in its simplest form).

    Args:
        advance: takes a state from one step's number to another's.
        state: at step 0; a stretch may add tensors to it.
        num_steps: >= 1.
    """
    length = max(1, round(num_steps**0.5))
    run = partial(checkpoint, advance, use_reentrant=False, preserve_rng_state=False)
    for start in range(0, num_steps, length):
        step = run if torch.is_grad_enabled() else advance
        state = step(state, start, min(start + length, num_steps))
    return state


def spread(low: float, high: float, x: Tensor) -> Tensor:
    """An image in [-1, 1] as a quantity from low to high."""
    return low + (high - low) * (x + 1) / 2
