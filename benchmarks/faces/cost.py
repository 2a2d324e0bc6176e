"""Quality against cost on the small toon-face tasks under the learned prior."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from benchmarks.faces.step_size import SAMPLERS, SIGMA_Y, TASKS, measured_faces
from benchmarks.tools.measuring import drawn, face_metrics, measured
from benchmarks.tools.tables import interval, read_rows, spelt, write_rows
from benchmarks.tools.tuning import read_samplers
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.metrics import ImageMetric
from posterior.operators import LinearOperator
from posterior.priors import DiffusionPrior
from posterior.random import Streams
from posterior.samplers import AnnealedSampler, ConditionalDescent, Sampler
from posterior.shipped import CONFIGS


@dataclass(frozen=True)
class Method:
    """A sampler; an annealed one may start from the kept samples of another method."""

    sampler: Sampler
    start: str | None = None


@dataclass
class Row:
    """What a method made of one face."""

    method: str
    task: str
    face: str
    case: str
    """Digest of prior, seed and measurement: only rows of the same case are compared."""
    key: str
    """Digest of the sampler, and of that of its start: a row of another one is made again."""
    samples: int
    l2: float
    lpips: float
    residual: float
    """Of the first sample."""
    l2_of_mean: float | None
    std_unmeasured: float | None
    """With several samples: rms standard deviation of (A^T A + sigma_y^2)^-1 sigma_y^2 x, what y does not tell."""
    forward: float
    backward: float
    seconds: float
    """A sample, of this machine."""


def cost(
    prior: DiffusionPrior,
    output: Path = Path("results/cost"),
    table: Path = Path("docs/cost.csv"),
    only: Sequence[str] = (),
    num_faces: int = 96,
    mean_faces: int = 16,
    num_samples: int = 8,
    budgets: Sequence[int] = (50, 100),
    dps_steps: int = 1000,
    num_levels: int = 1000,
    batch_size: int = 16,
    held_out: Path = CONFIGS / "data" / "toon_faces32.npz",
    seed: int = 0,
) -> list[Row]:
    """L2, LPIPS, residual, spread and cost of each method on held-out faces; writes cost.png and completes the table.

    Every method sees the same measurements. Rows that the table has, of the same prior, sampler and measurement, are
    not computed again, so that faces and methods can be added later; samples are kept in the folder. Differences to DPS
    are paired: over the faces that both have, rows of other priors or measurements left out. Prints a Markdown table.

    Args:
        prior: e.g. configs/prior/toon_faces32.yaml.
        output: folder of samples and of the picture.
        table: the .csv, a row a method, task and face.
        only: beginnings of names of methods to run; all if empty. The report has all that the table has.
        num_faces: held-out faces.
        mean_faces: of these, the first so many have ``num_samples`` samples.
        num_samples: of the mean.
        budgets: network calls of the kinetic sampler, and of first order from the same start.
        dps_steps: DPS steps (respaced if fewer than 1000).
        num_levels: of the paper's composition.
        batch_size: faces at a time.
        held_out: the held-out faces.
        seed: of measurements and samples.

    Raises:
        UserError: if LPIPS has no weights, no method has such a name, or DPS is neither run nor in the table.
    """
    metrics = face_metrics()
    output.mkdir(parents=True, exist_ok=True)
    prior.requires_grad_(False)
    known = {(row.method, row.task, row.face): row for row in read_rows(table, Row)}
    baseline = f"DPS {dps_steps}"
    if only and not baseline.startswith(tuple(only)) and not any(name == baseline for name, _, _ in known):
        raise UserError(f"cost: the table {table} has no row of {baseline}, which others are paired with: run it too")
    ran, shown = False, []
    for task, (family, scale) in TASKS.items():
        batch = measured_faces(held_out, family, num_faces, seed)
        assert batch.measurement is not None
        assert batch.truth is not None
        work = _Work(prior, batch.measurement, batch.truth, batch.ids, batch.seed, output / _slug(task), batch_size)
        work.methods = methods(scale, dps_steps, num_levels, budgets)
        for name in work.methods:
            if only and not name.startswith(tuple(only)):
                continue
            ran = True
            for index, face in enumerate(batch.ids):
                wanted, row = num_samples if index < mean_faces else 1, known.get((name, task, face))
                own = (work.case(index), work.key(name))
                if row is None or (row.case, row.key) != own or row.samples < wanted:
                    end = mean_faces if index < mean_faces else len(batch.ids)
                    work.draw(name, wanted, range(index, min(end, len(batch.ids))))
                    known[name, task, face] = work.row(name, task, index, wanted, metrics)
            write_rows(table, [known[place] for place in sorted(known)])
        cases = {face: work.case(index) for index, face in enumerate(batch.ids)}
        shown += [row for row in known.values() if row.task == task and cases.get(row.face) == row.case]
    if not ran:
        raise UserError(f"cost: no method is called {list(only)}")
    found = summaries(shown, baseline)
    report(found)
    _plot(found, output / "cost.png")
    print(f"picture: {output / 'cost.png'}")
    return shown


def methods(scale: float, dps_steps: int, num_levels: int, budgets: Sequence[int]) -> dict[str, Method]:
    """By name. "paper": the published composition. "smoothed": the same, its score read at 0.08, one denoising step.

    "conditional": what ships, and one call more, which makes pictures of its samples as the others' last step does.
    """
    blanks = {"STEPS": dps_steps, "SCALE": scale, "NUM_LEVELS": num_levels, "GROWTH": 9 / num_levels}
    baseline = f"DPS {dps_steps}"
    found = {baseline: Method(read_samplers(SAMPLERS, "dps", blanks)["DPS"])}
    for name, sampler in read_samplers(SAMPLERS, "from_dps", blanks).items():
        found[f"{name} {num_levels}"] = Method(sampler, baseline)
    for name, sampler in read_samplers(SAMPLERS, "as_it_ships", {}).items():
        assert isinstance(sampler, ConditionalDescent)
        found[f"{name} {sampler.calls + sampler.final_denoising}"] = Method(sampler)
    for calls in budgets:
        begin = round(0.29 * calls)
        levels = calls - 1 - 2 * begin  # one call begins the chain, one ends it
        blanks = {"BEGIN": begin, "LEVELS": levels, "LEVELS_FIRST": levels + 1}
        for name, sampler in read_samplers(SAMPLERS, "of_calls", blanks).items():
            found[f"{name} {calls}"] = Method(sampler)
    return found


@dataclass
class _Work:
    """The chains of one task; each is kept in a file of its own."""

    prior: DiffusionPrior
    measurement: Measurement
    truth: Tensor
    ids: Sequence[str]
    seed: int
    folder: Path
    batch_size: int

    def __post_init__(self) -> None:
        self.methods: dict[str, Method] = {}
        self.prior_digest = self.prior.fingerprint()

    def case(self, index: int) -> str:
        """Digest of what every method of a face shares."""
        digest = hashlib.blake2b(f"{self.prior_digest}/{self.seed}/".encode(), digest_size=6)
        digest.update(self.measurement.y[index].cpu().numpy().tobytes())
        return digest.hexdigest()

    def key(self, name: str) -> str:
        """Digest of a method's settings."""
        method = self.methods[name]
        start = "" if method.start is None else self.key(method.start)
        return hashlib.blake2b(f"{method.sampler!r}/{start}".encode(), digest_size=6).hexdigest()

    def path(self, name: str, index: int, sample: int) -> Path:
        return self.folder / _slug(name) / f"{self.ids[index]}.s{sample}.{self.case(index)}.{self.key(name)}.npz"

    def draw(self, name: str, num_samples: int, faces: Sequence[int]) -> None:
        """The first face's samples that are not there yet, each in a batch with those of the next faces."""
        for sample in range(num_samples):
            if not self.path(name, faces[0], sample).exists():
                self._draw(name, sample, faces[: self.batch_size])

    def _draw(self, name: str, sample: int, faces: Sequence[int]) -> None:
        """One sample of each of the faces that have none."""
        method, missing = self.methods[name], [n for n in faces if not self.path(name, n, sample).exists()]
        if not missing:
            return
        if method.start is not None:
            self._draw(method.start, sample, missing)
        rng = Streams(self.seed, [self.ids[n] for n in missing], samples=[sample])
        measurement = self.measurement.rows(torch.tensor(missing))
        x, cost = drawn(self.prior, lambda: self._run(method, measurement, missing, sample, rng))
        for n, image in zip(missing, x, strict=True):
            path = self.path(name, n, sample)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".partial.{path.name}")
            np.savez(partial, image=image.cpu().numpy(), spent=astuple(cost))
            partial.replace(path)
        told = f"{name}, {self.folder.name}: {len(missing)} chains from {self.ids[missing[0]]}, sample {sample}"
        print(f"{told}, {cost.seconds:.2f} s each", file=sys.stderr, flush=True)

    def _run(self, method: Method, measurement: Measurement, faces: Sequence[int], sample: int, rng: Streams) -> Tensor:
        if method.start is None:
            return method.sampler(self.prior, measurement, rng)
        sampler = method.sampler
        assert isinstance(sampler, AnnealedSampler)
        assert sampler.anchor_sigma is not None
        estimate = torch.from_numpy(np.stack([self._load(method.start, n, sample)[0] for n in faces]))
        anchor = estimate + sampler.anchor_sigma * rng.randn_like("anchor", estimate)
        return sampler.from_anchor(self.prior, measurement, anchor, rng)

    def _load(self, name: str, index: int, sample: int) -> tuple[np.ndarray, np.ndarray]:
        with np.load(self.path(name, index, sample)) as kept:
            return kept["image"], kept["spent"]

    def row(self, name: str, task: str, index: int, num_samples: int, metrics: dict[str, ImageMetric]) -> Row:
        """Of samples that are all there."""
        kept = [self._load(name, index, sample) for sample in range(num_samples)]
        x, spent = torch.from_numpy(np.stack([image for image, _ in kept])), kept[0][1]
        start = self.methods[name].start
        if start is not None:
            spent = spent + self._load(start, index, 0)[1]
        one = self.measurement.rows(torch.tensor([index]))
        values = {key: float(value) for key, value in measured(metrics, x[:, None], self.truth[[index]], one).items()}
        spread = unmeasured_std(x, one.linear_operator("cost"), SIGMA_Y) if num_samples > 1 else None
        forward, backward, seconds = (float(value) for value in spent)
        return Row(
            name,
            task,
            self.ids[index],
            self.case(index),
            self.key(name),
            num_samples,
            values["l2"],
            values["lpips"],
            values["residual"],
            values.get("l2_of_mean"),
            spread,
            forward,
            backward,
            seconds,
        )


def unmeasured_std(x: Tensor, operator: LinearOperator, sigma_y: float) -> float:
    """Rms standard deviation over samples x, (K, C, H, W), of one image, of what a measurement leaves open.

    sigma_y^2 (A^T A + sigma_y^2)^-1 x: a direction that A passes with gain g counts with sigma_y^2 / (g^2 + sigma_y^2).
    """
    rows = operator.rows(torch.zeros(len(x), dtype=torch.long))
    return float((sigma_y**2 * rows.solve(x, sigma_y**2)).var(dim=0).mean().sqrt())


@dataclass(frozen=True)
class Summary:
    """A method on a task; pairs of (mean, half width of its 95 % interval)."""

    count: int
    l2: tuple[float, float]
    """Paired difference to DPS, in % of DPS's mean on the same faces."""
    lpips: tuple[float, float]
    """Paired difference to DPS."""
    residual: tuple[float, float]
    l2_of_mean: tuple[float, float] | None
    """As ``l2``, of the means of several samples."""
    std_unmeasured: tuple[float, float] | None
    forward: float
    backward: float
    seconds: float


def summary(rows: Sequence[Row], dps: Sequence[Row]) -> Summary:
    """Of one method on one task, beside DPS on the same."""
    base = {row.face: row for row in dps}
    pairs = [(row, base[row.face]) for row in rows if row.face in base]
    means = [
        (a.l2_of_mean, b.l2_of_mean)
        for a, b in pairs
        if a.l2_of_mean is not None and b.l2_of_mean is not None and a.samples == b.samples
    ]
    spreads = [row.std_unmeasured for row in rows if row.std_unmeasured is not None]
    return Summary(
        len(pairs),
        _relative([(a.l2, b.l2) for a, b in pairs]),
        interval([a.lpips - b.lpips for a, b in pairs]),
        interval([a.residual for a, _ in pairs]),
        _relative(means) if means else None,
        interval(spreads) if spreads else None,
        *(float(np.mean([getattr(a, name) for a, _ in pairs])) for name in ("forward", "backward", "seconds")),
    )


def _relative(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    base = float(np.mean([b for _, b in pairs]))
    middle, half = interval([a - b for a, b in pairs])
    return 100 * middle / base, 100 * half / base


def summaries(rows: Sequence[Row], baseline: str) -> dict[tuple[str, str], Summary]:
    """(task, method) -> summary, the baseline first; a method without a face in common with it is left out."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.task, row.method), []).append(row)
    found = {}
    for task in dict.fromkeys(row.task for row in rows):
        dps = grouped.get((task, baseline), [])
        names = [method for other, method in grouped if other == task]
        for name in sorted(names, key=lambda name: (name != baseline, name.rsplit(" ", 1)[0], int(name.split()[-1]))):
            if {row.face for row in grouped[task, name]} & {row.face for row in dps}:
                found[task, name] = summary(grouped[task, name], dps)
    return found


def report(found: dict[tuple[str, str], Summary]) -> None:
    """Print the summaries as a Markdown table."""
    print(
        "| task | method | faces | L2 vs DPS, % | LPIPS vs DPS | residual | L2 of mean vs DPS's, % | std unmeasured |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (task, method), one in found.items():
        cells = [
            f"{method} ({one.forward:.0f} + {one.backward:.0f}, {one.seconds:.2f} s)",
            str(one.count),
            spelt(one.l2, 1, "+"),
            spelt(one.lpips, 4, "+"),
            spelt(one.residual, 3),
            spelt(one.l2_of_mean, 1, "+"),
            spelt(one.std_unmeasured, 4),
        ]
        print(f"| {task} | {' | '.join(cells)} |")


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _plot(found: dict[tuple[str, str], Summary], path: Path) -> None:
    """A column a task, a row a measure, over network calls; DPS dashed."""
    tasks = list(dict.fromkeys(task for task, _ in found))
    measures = {
        "l2": "L2 vs DPS, %",
        "lpips": "LPIPS vs DPS",
        "residual": "residual",
        "std_unmeasured": "std unmeasured",
        "l2_of_mean": "L2 of mean vs DPS's, %",
    }
    figure = Figure(figsize=(4.4 * len(tasks), 2.7 * len(measures)), layout="constrained")
    names = dict.fromkeys(name.rsplit(" ", 1)[0] for _, name in found)
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    panels = figure.subplots(len(measures), len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        for axes, (measure, title) in zip(panels[:, column], measures.items(), strict=True):
            _panel(axes, {name: s for (other, name), s in found.items() if other == task}, measure, colours)
            axes.set(xscale="log", ylabel=title if column == 0 else "")
        panels[0, column].set_title(task)
        panels[-1, column].set_xlabel("network calls, forward + backward")
    lines = [Line2D([], [], color=colour, marker="o", label=name) for name, colour in colours.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))
    figure.savefig(path, dpi=90)


def _panel(axes: Axes, found: dict[str, Summary], measure: str, colours: dict[str, str]) -> None:
    curves: dict[str, list[tuple[float, tuple[float, float]]]] = {}
    for name, one in found.items():
        value = getattr(one, measure)
        if value is not None:
            curves.setdefault(name.rsplit(" ", 1)[0], []).append((one.forward + one.backward, value))
    for name, points in curves.items():
        calls, middle, half = zip(*((call, *pair) for call, pair in points), strict=True)
        axes.errorbar(calls, middle, half, marker="o", capsize=3, color=colours[name])
    reference = 1.0 if measure == "residual" else curves["DPS"][0][1][0] if "DPS" in curves else 0.0
    axes.axhline(reference, linestyle="--", color="grey", linewidth=1)
