"""A sampler run on a problem, from y alone, in cells that are kept: a run that is killed goes on from them."""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import inspect
import io
import json
import marshal
import os
import pickle
import random
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import posterior
from benchmarks.judge.problems import Case, Problem, state_of
from posterior.errors import Diverged, UserError
from posterior.files import write_whole
from posterior.measurement import Measurement
from posterior.metrics.distribution import distance_of_projections, sorted_projections
from posterior.operators import Operator
from posterior.priors import Prior
from posterior.priors.base import Cost
from posterior.random import Streams, key_of
from posterior.samplers import Sampler
from posterior.samplers.base import Observer, unobserved

FAR = 1e6
"""Numbers of images are about 1: a chain beyond this has diverged."""
SAME = 1e-5
"""Numbers of truths and measurements that are made again differ by less."""
LARGE = 1000
"""Numbers of an image from which a problem counts as large."""
PACKAGE = Path(posterior.__file__).parent
SHARED = ("priors/**/*.py", "operators/**/*.py", "noise.py", "measurement.py", "random.py")
"""Files of `PACKAGE` that a problem has objects of."""
COMPUTED = {"import_module", "import_class", "__import__"}
"""What imports modules whose names do not stand in an import statement."""


@dataclass(frozen=True)
class Sizes:
    """How much is sampled of one problem.

    Args:
        measurements: that are compared with exact samples.
        samples: of each of them.
        pairs: further (x, y), for ranks.
        ranked: K, samples of each pair.
        sets: exact sets of a measurement, of as many samples.
        rows: chains at a time.
        purpose: of the measurements; those of another one are others, whatever the seed.
    """

    measurements: int
    samples: int
    pairs: int
    ranked: int
    sets: int = 4
    rows: int = 500
    purpose: str = "compared"


@dataclass(frozen=True)
class Budget:
    """Sizes for small and for large problems."""

    name: str
    small: Sizes
    large: Sizes

    def of(self, problem: Problem) -> Sizes:
        """What a problem is worth."""
        return self.large if problem.dimension >= LARGE else self.small


class FromFunction(Sampler):
    """A plain function as a sampler: called once an image, with what it has parameters for.

    ``y`` (the measurement, (*measurement_shape)), ``operator`` (of one image: ``forward``, ``adjoint``),
    ``num_samples``, ``prior`` (``denoise``, ``score``), ``sigma_y`` and ``generator`` (torch's), as far as it has
    parameters of these names. It returns (num_samples, C, H, W). Global random states (torch, numpy, random) are set
    from the seed, the image and the samples' numbers before each call, and put back after it.

    Args:
        function: the function.

    Raises:
        UserError: if it has a parameter of another name without a default.
    """

    OFFERED = ("y", "operator", "num_samples", "prior", "sigma_y", "generator")

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.wanted = []
        for name, parameter in inspect.signature(function).parameters.items():
            if name in self.OFFERED:
                self.wanted.append(name)
            elif parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                raise UserError(
                    f"{function.__name__} wants {name!r}; a function is given {', '.join(self.OFFERED)}, as far as it "
                    "has parameters of these names"
                )

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, observe: Observer = unobserved) -> Tensor:
        rows_of: dict[str, list[int]] = {}
        for row, (image_id, _) in enumerate(rng.rows):
            rows_of.setdefault(image_id, []).append(row)
        samples: Tensor | None = None
        for done, (image_id, rows) in enumerate(rows_of.items(), start=1):
            one = measurement.rows(torch.tensor(rows[:1], device=measurement.y.device))
            seed = key_of(rng.seed, image_id, rng.rows[rows[0]][1], "function") >> 1
            offered = {
                "y": one.y[0],
                "operator": one.operator,
                "num_samples": len(rows),
                "prior": prior,
                "sigma_y": one.likelihood.sigma_y,
                "generator": torch.Generator(one.y.device).manual_seed(seed),
            }
            with _seeded(seed):
                found = torch.as_tensor(self.function(**{name: offered[name] for name in self.wanted}))
            if tuple(found.shape) != (len(rows), *measurement.image_shape):
                raise UserError(
                    f"{self.function.__name__} returned {tuple(found.shape)}, expected (num_samples, C, H, W) = "
                    f"{(len(rows), *measurement.image_shape)}"
                )
            if samples is None:
                samples = torch.empty(len(rng), *measurement.image_shape, device=measurement.y.device)
            samples[rows] = found.to(samples)
            observe("function", done, len(rows_of), samples)
        assert samples is not None
        return samples


@dataclass(frozen=True)
class Contestant:
    """A sampler to be judged.

    Args:
        name: what it is called in tables.
        made: problem -> the sampler, with the settings that it has there.
        digest: problem -> digest of settings and code.
        patterns: of problems' names that it has settings of their own for.
    """

    name: str
    made: Callable[[Problem], Sampler]
    digest: Callable[[Problem], str]
    patterns: Sequence[str] = ()


@dataclass
class Sampled:
    """What a sampler has given on a problem.

    Args:
        problem: where.
        cases: those that are compared with exact samples.
        samples: of each case, (N, C, H, W).
        pairs: those whose truths are ranked.
        ranked: (K, P, C, H, W).
        diverged: ids of cases and pairs with a chain that is not finite.
        forward, backward: calls a sample.
        seconds: of all, and of how many samples.
    """

    problem: Problem
    cases: list[Case] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)
    pairs: list[Case] = field(default_factory=list)
    ranked: list[Tensor] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    forward: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0
    rows: int = 0

    @property
    def total(self) -> int:
        """Cases and pairs that were tried."""
        return len(self.cases) + len(self.pairs) + len(self.diverged)

    def add(self, cell: Cell, cases: Sequence[Case], compared: bool) -> None:
        """The rows of a cell: (samples, cases, C, H, W)."""
        values = torch.from_numpy(cell.samples)
        finite = (values.abs() < FAR).flatten(2).all(dim=2).all(dim=0)
        for place, case in enumerate(cases):
            if not finite[place]:
                self.diverged.append(case.id)
            elif compared:
                self.cases.append(case)
                self.samples.append(values[:, place])
            else:
                self.pairs.append(case)
                self.ranked.append(values[:, place])
        self.forward += cell.forward
        self.backward += cell.backward
        self.seconds += cell.seconds
        self.rows += cell.samples.shape[0] * cell.samples.shape[1]


@dataclass(frozen=True)
class Cell:
    """Samples of a few cases, with what they are samples for, and what they cost in all.

    Args:
        samples: (S, cases, C, H, W), NaN for cases that diverged.
        truth: of each case, (cases, C, H, W).
        y: the measurement that the sampler saw, (cases, *measurement_shape).
        forward, backward: calls.
        seconds: of this machine.
    """

    samples: np.ndarray
    truth: np.ndarray
    y: np.ndarray
    forward: float
    backward: float
    seconds: float

    @classmethod
    def of(cls, samples: Tensor, cases: Sequence[Case], forward: float, backward: float, seconds: float) -> Cell:
        """Of samples (S, cases, C, H, W)."""
        truth, y = torch.cat([case.truth for case in cases]), torch.cat([case.measurement.y for case in cases])
        return cls(samples.numpy(), truth.numpy(), y.numpy(), forward, backward, seconds)

    @classmethod
    def read(cls, path: Path) -> Cell | None:
        """A kept one; None if there is none, or it is damaged or of a version that kept no truths."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                cost = (float(value) for value in arrays["cost"])
                return cls(arrays["samples"], arrays["truth"], arrays["y"], *cost)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError, RuntimeError):
            return None

    def write(self, path: Path) -> None:
        """Keep it; the file appears whole."""
        buffer = io.BytesIO()
        cost = np.array([self.forward, self.backward, self.seconds])
        np.savez(buffer, samples=self.samples, truth=self.truth, y=self.y, cost=cost)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getvalue())

    def is_of(self, cases: Sequence[Case], count: int) -> bool:
        """Whether it holds so many samples for each of these truths and measurements."""
        other = Cell.of(torch.empty(count, len(cases), *cases[0].truth.shape[1:]), cases, 0, 0, 0)
        if self.samples.shape != other.samples.shape or self.y.shape != other.y.shape:
            return False
        pairs = ((self.truth, other.truth), (self.y, other.y))
        return all(np.allclose(kept, now, rtol=0, atol=SAME) for kept, now in pairs)


def planned(problem: Problem, sizes: Sizes) -> Iterator[tuple[str, list[str], int]]:
    """The cells of a problem: (name, ids of cases, samples of each)."""
    for number in range(sizes.measurements):
        ids = [f"{problem.name}/{sizes.purpose}/{number}"]
        yield f"{sizes.purpose}-{number:04d}-{sizes.samples}", ids, sizes.samples
    together = max(1, sizes.rows // sizes.ranked)
    for start in range(0, sizes.pairs, together):
        ids = [f"{problem.name}/pair/{number}" for number in range(start, min(start + together, sizes.pairs))]
        yield f"pairs-{start:05d}-{len(ids)}-{sizes.ranked}", ids, sizes.ranked


def run(
    contestant: Contestant,
    problem: Problem,
    sizes: Sizes,
    seed: int,
    folder: Path | None = None,
    told: Callable[[int], None] = lambda rows: None,
    device: torch.device | str = "cpu",
    known: dict[str, Case] | None = None,
    sample: bool = True,
) -> Sampled:
    """Samples of all cells, those that are kept and those that are not yet.

    Args:
        contestant: the sampler.
        problem: where.
        sizes: how much.
        seed: of measurements and samples.
        folder: of the cells; None: they are not kept.
        told: called with the number of samples that a cell had, when it is there.
        device: where the sampler runs.
        known: cases by id, for all samplers of the problem; those that are missing are added.
        sample: whether cells that are missing are sampled; otherwise they are left out.

    Raises:
        UserError: if the sampler does not keep to the rules (`draw`), or its settings do not fit.
    """
    found, known = Sampled(problem), {} if known is None else known
    place = None
    if folder is not None:
        place = folder / contestant.digest(problem) / f"{problem.name}-{problem.digest}-{seed}"
    sampler: Sampler | None = None
    for name, ids, count in planned(problem, sizes):
        path = None if place is None else place / f"{name}.npz"
        cell = None if path is None else _kept(path, problem, ids, count, seed, known)
        if cell is None and not sample:
            continue
        known |= {case.id: case for case in problem.cases([one for one in ids if one not in known], seed)}
        cases = [known[one] for one in ids]
        if cell is None:
            sampler = sampler or contestant.made(problem)
            cell = draw(contestant.name, sampler, problem, cases, count, seed, device)
            if path is not None:
                cell.write(path)
        compared = name.startswith(sizes.purpose)
        found.add(*_blurred(problem, cell, cases, seed, compared), compared)
        told(count * len(ids))
    return found


def _blurred(
    problem: Problem, cell: Cell, cases: Sequence[Case], seed: int, compared: bool
) -> tuple[Cell, Sequence[Case]]:
    """Samples, and truths that are ranked among them, as they are compared (`Problem.blur`).

    What is kept stays as the sampler gave it.
    """
    if not problem.blur:
        return cell, cases
    values = torch.from_numpy(cell.samples)
    samples = [problem.blurred(values[:, place], case.id, seed, "samples") for place, case in enumerate(cases)]
    if not compared:
        cases = [replace(case, truth=problem.blurred(case.truth, case.id, seed, "truth")) for case in cases]
    return replace(cell, samples=torch.stack(samples, dim=1).numpy()), cases


def _kept(
    path: Path, problem: Problem, ids: Sequence[str], count: int, seed: int, known: dict[str, Case]
) -> Cell | None:
    """A kept cell, if its measurements are what the problem makes of its truths now; those are known from then on.

    Truths are not drawn again for it: that may take many network calls. Where other samplers have been given another
    truth by that name, the cell is not theirs to be compared with, and is left out.
    """
    cell = Cell.read(path)
    if cell is None or cell.truth.shape != (len(ids), *problem.image_shape):
        return None
    cases = [known.get(case.id, case) for case in problem.cases(ids, seed, torch.from_numpy(cell.truth))]
    if not cell.is_of(cases, count):
        return None
    known |= {case.id: case for case in cases}
    return cell


def draw(
    name: str,
    sampler: Sampler,
    problem: Problem,
    cases: Sequence[Case],
    count: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Cell:
    """So many samples of each case, by one call of the sampler, which is held to the rules.

    Each call is of the sampler as it was made: what it changes of itself has no part in the next (`_anew`).

    Raises:
        UserError: if it returns another shape or type, changes its arguments or a global random state, or raises
            anything but `Diverged`.
    """
    prior = copy.deepcopy(problem.prior).to(device)  # the problem's own stays as it is, and on the CPU
    rows = problem.batch(cases, seed).to(device).repeat(count)
    y, states, weights, operator = rows.y.clone(), _random_states(), state_of(prior), _tensors_of(rows.operator)
    streams = Streams(seed, [case.id for case in cases], count, device)
    cost, start = (prior.cost.forward, prior.cost.backward), time.monotonic()
    shape = (len(streams), *problem.image_shape)
    try:
        with torch.no_grad():
            samples = _anew(sampler)(prior, rows, streams)
    except Diverged as error:
        samples = torch.zeros(shape, device=device)
        bad = [image_id in error.reasons for image_id, _ in streams.rows]
        samples[torch.tensor(bad, device=device)] = torch.nan
        if not all(bad):
            raise UserError(f"{name}: says that it diverged, but not in all images of the batch") from error
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{name} fails on {problem.name}: {type(error).__name__}: {text}") from error
    seconds = time.monotonic() - start
    dense = isinstance(samples, Tensor) and samples.layout == torch.strided and not samples.is_meta
    if not dense or tuple(samples.shape) != shape or not samples.is_floating_point():
        told = f"{tuple(samples.shape)} {samples.dtype}" if dense else f"a {_kind_of(samples)}"
        raise UserError(f"{name}: returned {told}, expected a tensor of floats {shape}: one sample for each row")
    if not torch.equal(rows.y, y):
        raise UserError(f"{name}: changed its measurement: a sampler leaves its arguments as they are")
    now = _tensors_of(rows.operator)
    if any(not torch.equal(value, now.get(key, value.new_empty(0))) for key, value in operator.items()):
        raise UserError(f"{name}: changed the operator: a sampler leaves its arguments as they are")
    if state_of(prior) != weights:
        raise UserError(f"{name}: changed the prior: a sampler leaves its arguments as they are")
    changed = [what for what, state in _random_states().items() if not _same(state, states[what])]
    if changed:
        raise UserError(
            f"{name}: changed the global random state of {', '.join(changed)}: draw from rng, so that a sample does "
            "not depend on what ran before (a plain function may use them: name the function itself)"
        )
    if not isinstance(prior.cost, Cost):
        raise UserError(f"{name}: changed the prior's cost: a sampler leaves its arguments as they are")
    spent = (prior.cost.forward - cost[0], prior.cost.backward - cost[1])
    kept = samples.detach().float().cpu().view(count, len(cases), *problem.image_shape)
    return Cell.of(kept, cases, float(spent[0]), float(spent[1]), seconds)


def _anew(sampler: Sampler) -> Sampler:
    """A copy; of what cannot be copied the thing itself."""
    try:
        return copy.deepcopy(sampler)
    except Exception:  # it raises what it likes
        return sampler


def _kind_of(value: object) -> str:
    """Of something that is no dense tensor."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return "tensor without numbers" if value.is_meta else f"{str(value.layout).removeprefix('torch.')} tensor"


def _tensors_of(operator: Operator) -> dict[str, Tensor]:
    """Copies of what decides A; what is kept of its own computations is not."""
    held = vars(operator).items()
    return {key: value.clone() for key, value in held if isinstance(value, Tensor) and not key.startswith("_kept")}


def _random_states() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - somebody else's use of it is looked for
        "random": random.getstate(),
    }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Global random states set from a seed, and put back whatever happens."""
    before = _random_states()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - a function's author may use it
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before["torch"])
        np.random.set_state(before["numpy"])  # noqa: NPY002
        random.setstate(before["random"])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(np.array_equal(one["state"][key], other["state"][key]) for key in one["state"])
    return bool(one == other)


def device_here(device: torch.device | str) -> None:
    """Refuse a device that is not there.

    Raises:
        UserError: with the first line of what torch says.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch is built without it
        raise UserError(f"--device: {device} cannot be used here: {str(error).splitlines()[0]}") from error


def code_of(sampler: Any) -> str:
    """Digest of the code that decides what a sampler gives: its module's file, what that imports from beside it
    (`_beside`), and `posterior` without other samplers.

    All of `posterior` counts, but for those files of `posterior/samplers` that nothing here can reach (`_unreached`).
    Of a problem's truth it is the code that decides its exact samples.
    """
    files, whole = set(PACKAGE.rglob("*.py")) - _unreached(sampler), hashlib.blake2b(digest_size=8)
    for kind in _classes(sampler):
        try:
            files |= _beside(Path(inspect.getfile(kind)))
        except (OSError, TypeError):  # of a notebook, say: another state of it cannot be told from this one
            whole.update(os.urandom(16))
    for file in sorted(files):
        if file.is_file():
            whole.update(hashlib.blake2b(file.read_bytes()).digest())
    return whole.hexdigest()


def _beside(file: Path) -> set[Path]:
    """A module's file, and those that its import statements name in its own package, or beside it if it has none.

    And theirs. Modules that are imported by a computed name, and packages from elsewhere, are not followed.
    """
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    left, reached = [file], set[Path]()
    while left:
        one = left.pop()
        if one in reached or PACKAGE in one.parents or not one.is_file():
            continue
        reached.add(one)
        for level, place, names in _statements(one.read_bytes()) if one.suffix == ".py" else []:
            base = one.parents[level - 1] if level else root
            if not level and root != file.parent and place[0] != file.relative_to(root).parts[0]:
                continue  # of another package
            places = [base.joinpath(*place), *(base.joinpath(*place, name) for name in names)]
            left += [path for at in places for path in (at.with_suffix(".py"), at / "__init__.py") if path.is_file()]
    return reached


@functools.lru_cache(maxsize=512)
def _statements(code: bytes) -> list[tuple[int, list[str], list[str]]]:
    """Import statements of a module: how many dots, the parts of the place, the names that are taken from it."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            found.append((node.level, (node.module or "").split("."), [alias.name for alias in node.names]))
        elif isinstance(node, ast.Import):
            found += [(0, alias.name.split("."), list[str]()) for alias in node.names]
    return found


def _unreached(sampler: Any) -> set[Path]:
    """Files of `posterior/samplers` that cannot matter to a sampler.

    It starts from the modules of every class and function that the sampler holds, as pickle finds them, and from all
    modules that a problem may hold (`SHARED`), and follows import statements, those inside functions too. Where a
    package stands in one (``from posterior.samplers import DPS``), the module counts that its ``__init__.py`` has the
    name from; that file itself does not count, since it holds nothing but imports and a list of names. Where anything
    cannot be followed (a class from elsewhere, a relative import, a module that is imported by a computed name, a
    package that is imported whole or does more than to import), nothing is left out.
    """
    held, left = _Held(), [file for pattern in SHARED for file in PACKAGE.glob(pattern)]
    reached: set[Path] = set()
    try:
        held.dump(sampler)
        own = [name for name in held.modules if name.partition(".")[0] not in {*sys.stdlib_module_names, "torch"}]
        left += [_home(name, "") for name in own]
        _home("posterior.samplers", "Sampler")
        while left:
            file = left.pop()
            if file not in reached:
                reached.add(file)
                left += [_home(place, name) for place, name in _imports(file.read_bytes())]
    except Exception:  # pickle raises what it likes; code that cannot be followed is a LookupError
        return set()
    return set((PACKAGE / "samplers").rglob("*.py")) - reached


class _Held(pickle.Pickler):
    """Notes the modules of all classes and functions that an object holds."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.modules: set[str] = set()

    def reducer_override(self, held: Any) -> Any:
        named = held if inspect.isclass(held) or inspect.isroutine(held) else type(held)
        self.modules.add(named.__module__ or "builtins")
        return NotImplemented


@functools.lru_cache(maxsize=512)
def _imports(code: bytes) -> list[tuple[str, str]]:
    """What a module's code imports from `posterior`: (place, name) of ``from PLACE import NAME``.

    Raises:
        LookupError: if it cannot be told.
    """
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found += [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) or {getattr(node, "id", ""), getattr(node, "attr", "")} & COMPUTED:
            raise LookupError("imports that cannot be followed")
    return [(place, name) for place, name in found if place.partition(".")[0] == "posterior"]


def _home(place: str, name: str) -> Path:
    """The file that ``from PLACE import NAME`` has the name from.

    Raises:
        LookupError: if that is a package, or is no module of `posterior`, or the package does more than to import.
    """
    package, *parts = place.split(".")
    folder = PACKAGE.joinpath(*parts)
    for file in (folder.with_suffix(".py"), folder / f"{name}.py"):
        if package == "posterior" and file.is_file():
            return file
    known = _exported((folder / "__init__.py").read_bytes()) if package == "posterior" else {}
    return _home(*known[name])


@functools.lru_cache(maxsize=64)
def _exported(code: bytes) -> dict[str, tuple[str, str]]:
    """Of the code of an ``__init__.py``: name -> place and name where it has it from.

    Raises:
        LookupError: if it does more than to import and to list names.
    """
    found: dict[str, tuple[str, str]] = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
        elif not (isinstance(node, ast.Expr) or "__all__" in {getattr(one, "id", "") for one in ast.walk(node)}):
            raise LookupError("more than imports")
    return found


def _classes(value: Any, above: tuple[int, ...] = ()) -> Iterator[Any]:
    """The classes of an object and of what it holds, as far as they have a file; not again of those it stands in."""
    if id(value) in above:
        return
    above = (*above, id(value))
    if isinstance(value, FromFunction):
        yield value.function
    elif hasattr(value, "__dict__") and not isinstance(value, (type, Tensor)):
        for kind in type(value).__mro__:
            if kind.__module__ not in ("builtins", "abc", "typing"):
                yield kind
        for inner in vars(value).values():
            yield from _classes(inner, above)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _classes(inner, above)


def contents_of(value: Any) -> str:
    """Digest of an object: its class, and all that it holds; of a function: its code, defaults and what it encloses.

    Where that cannot be written down, one that is never found again: nothing is taken for it.
    """
    function = value.function if isinstance(value, FromFunction) else None
    try:
        if inspect.isfunction(function):
            enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
            held = pickle.dumps((function.__defaults__, function.__kwdefaults__, enclosed))
            told = f"{function.__module__}.{function.__qualname__}".encode() + marshal.dumps(function.__code__) + held
        else:
            told = f"{type(value).__module__}.{type(value).__qualname__}".encode() + pickle.dumps(vars(value))
    except Exception:  # pickle raises what it likes
        told = os.urandom(16)
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def digest_of(settings: Any, sampler: Any) -> str:
    """Of settings and code."""
    told = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(f"{told} {code_of(sampler)}".encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Exact:
    """Exact samples of a measurement.

    Args:
        sets: independent ones, (N, C, H, W).
        projections: of each of them (`sorted_projections`).
        floor: mean sliced W2 between two of them.
    """

    sets: list[Tensor]
    projections: list[Tensor]
    floor: float

    @classmethod
    def of(cls, samples: Tensor, size: int) -> Exact:
        """So many a set."""
        sets = list(samples.split(size))
        along = [sorted_projections(one) for one in sets]
        floors = [distance_of_projections(a, b) for place, a in enumerate(along) for b in along[place + 1 :]]
        return cls(sets, along, float(np.mean(floors)))

    def ratio(self, samples: Tensor) -> float:
        """Mean sliced W2 of samples (N, C, H, W) to these sets, over the floor."""
        own = sorted_projections(samples)
        return float(np.mean([distance_of_projections(own, other) for other in self.projections])) / self.floor


@dataclass(frozen=True)
class ExactSets:
    """Exact samples of a problem's measurements, kept for all samplers.

    Args:
        folder: where they are kept, by the code that has drawn them; None: nowhere.
        seed: of measurements.
    """

    folder: Path | None
    seed: int
    kept: dict[tuple[str, str, int], Exact] = field(default_factory=dict)

    def of(self, problem: Problem, case: Case, sizes: Sizes) -> Exact:
        """Those of a measurement."""
        key = (problem.digest, case.id, sizes.samples)
        if key not in self.kept:
            samples = problem.blurred(self._samples(problem, case, sizes), case.id, self.seed, "exact samples")
            self.kept[key] = Exact.of(samples, sizes.samples)
        return self.kept[key]

    def _samples(self, problem: Problem, case: Case, sizes: Sizes) -> Tensor:
        count = sizes.sets * sizes.samples
        number = case.id.rsplit("/", 1)[-1]
        path = None
        if self.folder is not None:
            name = f"{problem.name}-{problem.digest}-{self.seed}"
            path = self.folder / "exact" / code_of(problem.truth) / name / f"{number}-{count}.npz"
            cell = Cell.read(path)
            if cell is not None and cell.is_of([case], count):
                return torch.from_numpy(cell.samples[:, 0])
        start = time.monotonic()
        samples = problem.exact(case, count, self.seed).float().cpu()
        if path is not None:
            Cell.of(samples[:, None], [case], 0.0, 0.0, time.monotonic() - start).write(path)
        return samples
