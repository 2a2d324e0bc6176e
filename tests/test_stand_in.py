"""The derivations that stand in for the reference give the reference's own numbers."""

from __future__ import annotations

import numpy as np
import torch

from tests.stand_in import guided_arrays, operator_arrays, step_arrays


def test_the_derivations_give_the_references_numbers_from_its_inputs(reference, relative):
    operators, steps = (dict(np.load(reference / f"{name}.npz")) for name in ("operators", "sampler_steps"))
    for given, derive, tolerance in (
        (operators, operator_arrays, 3e-6),
        (steps, step_arrays, 1e-4),
        (steps, guided_arrays, 1e-4),
    ):
        for name, value in derive(given).items():
            assert value.shape == given[name].shape, name
            assert relative(torch.from_numpy(value), given[name]) < tolerance, name
