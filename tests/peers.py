"""The golden runs of the field's samplers (../shared/reference/PEER_SAMPLERS.md): their problem, noise and arrays.

A clone alone has a part of them, tests/data/peers.npz: of some runs the first image's noise and end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posterior import Measurement, Streams
from posterior.noise import GaussianNoise
from posterior.operators.base import Diagonal, LinearOperator
from posterior.priors import Prior
from posterior.samplers import Sampler, SigmaSchedule

SHAPE = (1, 8, 8)
SIGMA_Y = 0.05
FOLDER = Path(__file__).parents[1]
FULL, PART = FOLDER.parent / "shared/reference/peer_samplers.npz", FOLDER / "tests/data/peers.npz"


class GaussianByMatrix(Prior):
    """N(mu, C): D(x, sigma) = mu + C (C + sigma^2 I)^-1 (x - mu), for images of `SHAPE`.

    Args:
        mu: (64,).
        covariance: C, (64, 64).
    """

    mu: Tensor
    values: Tensor
    vectors: Tensor

    def __init__(self, mu: Tensor, covariance: Tensor) -> None:
        super().__init__()
        values, vectors = torch.linalg.eigh(covariance)
        for name, value in (("mu", mu), ("values", values), ("vectors", vectors)):
            self.register_buffer(name, value)

    def _predict(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, None]:
        level = sigma.flatten(1) if isinstance(sigma, Tensor) else sigma
        gains = self.values / (self.values + level**2)
        moved = ((x.flatten(1) - self.mu) @ self.vectors * gains) @ self.vectors.mT
        return (self.mu + moved).view_as(x), None


class Decomposed(LinearOperator):
    """A = U diag(S) V^T with V as given, so that noise in V's coordinates means what the reference's means.

    Args:
        matrix: A, (m, 64).
        gains: squared singular values, 0 where V's coordinate is not observed, (64,).
        v: V, (64, 64).
    """

    def __init__(self, matrix: Tensor, gains: Tensor, v: Tensor) -> None:
        super().__init__(SHAPE)
        self.matrix, self.gains, self.v = matrix, gains, v

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return (len(self.matrix), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.mT).view(-1, *self.measurement_shape)

    def adjoint(self, v: Tensor) -> Tensor:
        return (v.flatten(1) @ self.matrix).view(-1, *SHAPE)

    def num_measured(self) -> Tensor:
        return (self.gains > 0).sum()

    def diagonal(self) -> Diagonal:
        return Diagonal(
            self.gains.view(1, *SHAPE),
            lambda x: (x.flatten(1) @ self.v).view_as(x),
            lambda c: (c.flatten(1) @ self.v.mT).view_as(c),
        )


class Recorded(Streams):
    """Streams that hand out recorded numbers: purpose -> draws in order, one row a chain.

    Args:
        draws: each draw (R, ...); it is reshaped to what is asked for, and has to have as many numbers.
        rows: R.
    """

    def __init__(self, draws: Mapping[str, Sequence[Tensor]], rows: int) -> None:
        super().__init__(0, [f"row {number}" for number in range(rows)])
        self.left: dict[str, Iterator[Tensor]] = {purpose: iter(given) for purpose, given in draws.items()}

    def randn(self, purpose: str, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        return next(self.left[purpose]).double().reshape(len(self), *shape)

    def randn_like(self, purpose: str, x: Tensor) -> Tensor:
        return self.randn(purpose, x.shape[1:])

    def rand_like(self, purpose: str, x: Tensor) -> Tensor:
        return self.randn(purpose, x.shape[1:])

    def used_up(self) -> bool:
        """Whether every number was asked for."""
        return all(next(left, None) is None for left in self.left.values())


@dataclass(frozen=True)
class Run:
    """One golden run: `arrays` by their names in the reference, and the problem.

    Args:
        name: e.g. ``"daps_orig"``.
        operator: ``"inpaint"``, ``"average"`` or ``"dense"``.
        arrays: noise, states and settings (scalars are 0-d), float64 or int64.
        problem: ``mu``, ``C``, ``betas``, and the operator's ``A``, ``y``, ``S``, ``V``, ``M``.
        precision: of what is stored, relative.
    """

    name: str
    operator: str
    arrays: Mapping[str, Tensor]
    problem: Mapping[str, Tensor]
    precision: float

    def prior(self) -> GaussianByMatrix:
        return GaussianByMatrix(self.problem["mu"], self.problem["C"])

    def measurement(self, rows: int) -> Measurement:
        """The problem's y, ``rows`` times over."""
        gains = self.problem["M"] * self.problem["S"] ** 2
        operator = Decomposed(self.problem["A"], gains, self.problem["V"])
        y = self.problem["y"].view(1, *operator.measurement_shape).expand(rows, -1, -1, -1)
        return Measurement(y, operator, GaussianNoise(SIGMA_Y))

    def setting(self, name: str) -> float:
        """One of its ``hyper_`` numbers."""
        return self.arrays[f"hyper_{name}"].item()

    def noise_levels(self) -> Tensor:
        """sigma_t = sqrt((1 - abar_t) / abar_t) of the 1000 timesteps of the noise-predicting codes."""
        abar = torch.cumprod(1 - self.problem["betas"], dim=0)
        return ((1 - abar) / abar).sqrt()

    def states_of(self, sampler: Sampler, draws: Mapping[str, Sequence[Tensor]], rows: int) -> list[Tensor]:
        """Every state that a sampler shows its observer, the result last; all recorded numbers have to be used."""
        states: list[Tensor] = []
        rng = Recorded(draws, rows)
        final = sampler(self.prior(), self.measurement(rows), rng, lambda *at: states.append(at[-1]))
        assert rng.used_up(), f"{self.name}: recorded noise is left over"
        return [*states, final]

    def agrees(self, found: Tensor, name: str, tolerance: float = 1e-6) -> None:
        """Hold an array against the reference's: largest difference over the largest value of the reference.

        Args:
            found: any shape with as many numbers.
            name: the array's; one that the part of a clone leaves out is passed over there, and of
                states it has the last.
            tolerance: 1e-6; 1e-5 where the reference itself rounds to float32.
        """
        if name not in self.arrays and self.precision > 0:
            return
        expected = self.arrays[name].double()
        if self.precision > 0:
            found = found.flatten()[-expected.numel() :]
        assert found.numel() == expected.numel(), (self.name, self.operator, name, found.shape, expected.shape)
        error = (found.double().reshape(expected.shape) - expected).abs().max() / expected.abs().max()
        assert error <= tolerance + self.precision, (self.name, self.operator, name, error.item())


PATH = FULL if FULL.is_file() else PART


@cache
def cases(*names: str) -> list[tuple[str, str]]:
    """(run, operator) of the named runs, as far as they are here: all of them where the reference is."""
    with np.load(PATH, allow_pickle=False) as stored:
        here = dict.fromkeys(tuple(key.split("/")[:2]) for key in stored.files)
    return [case for case in here if case[0] in names]


def golden(name: str, operator: str) -> Run:
    """The golden run of a sampler on an operator: whole where the reference is, otherwise the part in tests/data."""
    with np.load(PATH, allow_pickle=False) as stored:
        found = {
            key: _tensor(stored[key]) for key in stored.files if key.startswith((f"{name}/{operator}/", "problem/"))
        }
    arrays = {key.split("/")[-1]: value for key, value in found.items() if key.startswith(f"{name}/")}
    problem = {key.split("/")[-1]: value for key, value in found.items() if key.count("/") == 1}
    own = f"problem/{operator}/"
    problem |= {key.removeprefix(own): value for key, value in found.items() if key.startswith(own)}
    return Run(name, operator, arrays, problem, 0.0 if PATH == FULL else 2.0**-24)


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(value).to(torch.int64 if value.dtype.kind in "iu" else torch.float64)


@dataclass(frozen=True)
class Levels(SigmaSchedule):
    """As they were run: the reference's levels may repeat, or end above 0."""

    levels: Sequence[float]

    def sigmas(self) -> list[float]:
        return list(self.levels)


def by_rows(run: Run) -> Run:
    """The run on the form of its operator that codes with a singular value decomposition got: A of full row rank.

    For inpainting the coordinates that are observed come first; elsewhere that is what the problem has.
    """
    if "A_rows" not in run.problem:
        return run
    given = {name: run.problem[f"{name}_rows"] for name in ("A", "y", "V")}
    observed = torch.arange(len(run.problem["V_rows"])) < len(given["A"])
    return replace(
        run, problem={**run.problem, **given, "S": torch.ones(len(observed)).double(), "M": observed.double()}
    )


def spied(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[tuple[tuple, Any]]:
    """(arguments without self, result) of every call of a method, in order."""
    found: list[tuple[tuple, Any]] = []
    method = getattr(owner, name)

    def spy(self: Any, *arguments: Any) -> Any:
        found.append((arguments, method(self, *arguments)))
        return found[-1][1]

    monkeypatch.setattr(owner, name, spy)
    return found
