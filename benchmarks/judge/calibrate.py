"""A certificate for any prior: truths drawn from the prior itself, measured, sampled; ranks tell.

    posterior-sampling calibrate run --prior prior/toon_faces32 --task task.yaml --sampler sampler/kinetic_toon32
    posterior-sampling calibrate check results/calibrate

No closed form is needed. The law of the prior is that of its own reverse diffusion in 250 small steps (`LearnedTruth`);
under it a posterior sample and the truth are exchangeable given y, so the truth's rank among K samples is uniform
along every functional, and intervals hold it as often as they should (Talts et al., arXiv:1804.06788). `run` keeps
measurements' samples, `check` judges what is there, so that tests can be added later.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from benchmarks.judge.certificate import write_certificate
from benchmarks.judge.command import Progress, contestant_of, sample_work
from benchmarks.judge.problems import LearnedTruth, Problem, Truth, truth_of
from benchmarks.judge.recorded import LIMITS as RECORDED_LIMITS
from benchmarks.judge.recorded import RecordedProblem, Unknown, judge_recorded, recorded_problem
from benchmarks.judge.running import ExactSets, Sampled, Sizes, device_here, planned, run
from benchmarks.judge.scores import Curves, band_energies, calibration_tests, stacked
from benchmarks.judge.statistics import rank_tests
from benchmarks.judge.verdict import FEWEST_PAIRS as FEWEST_JUDGED
from benchmarks.judge.verdict import Judged, begun, correct, judge_samples, ranks_along
from benchmarks.tools.building import built, settings_of
from posterior.checks import MOST_SIDE, whole
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.metrics import Functional
from posterior.noise import Likelihood
from posterior.operators import OperatorFamily
from posterior.priors import Prior
from posterior.settings import conformed, read_yaml
from posterior.shell import Parser
from posterior.terminal import say_place, say_result

FEWEST_PAIRS, FEWEST_SAMPLES = 16, 4
MOST = 100_000
LEAST_TOP = 10.0
"""Noise level from which nothing is seen of an image: truths are drawn from there."""
RECORD = "calibrate.yaml"
LIMITS = """\
A pass says that truths and samples could not be told apart by these functionals, at this number of pairs. It is an
average over measurements: errors that cancel between them pass, and so does a sampler that ignores y (samples of the
prior are calibrated; the residual's ranks tell those). The law is that of the network's own reverse diffusion: whether
that is the law of pictures is another question. Where truth and samples both end in a denoising step, what that step
takes away from both is not seen."""


def problem_of(
    settings: dict[str, Any], denoised: bool, allow_local: bool = False, truth: Truth | None = None
) -> Problem:
    """The problem of a prior and a task, whose truths are the prior's own.

    Args:
        settings: ``prior``, ``operator``, ``likelihood``; ``image_shape`` where the prior does not say its own.
        denoised: whether truths end in one denoising step; a prior in closed form is drawn from exactly.
        allow_local: whether classes may come from files that are not installed.
        truth: what is known of images, if they are not to be drawn.

    Raises:
        UserError: naming what is missing or does not fit.
    """
    parts: dict[str, Any] = {"prior": Prior, "operator": OperatorFamily, "likelihood": Likelihood}
    known = {name: value for name, value in settings.items() if name in parts}
    unknown = settings.keys() - parts.keys() - {"image_shape", "tells"}
    if unknown:
        raise UserError(f"calibrate: {sorted(unknown)[0]} is no part of a task: operator, likelihood, image_shape")
    for name in parts:
        if name not in known:
            raise UserError(f"calibrate: {name} is missing")
    prior, operator, likelihood = built(conformed(known, parts, allow_local), parts, "calibrate")
    shape = settings.get("image_shape")
    if shape is None:
        if prior.channels is None or prior.size is None:
            raise UserError("calibrate: the prior does not say the size of its images: write image_shape into the task")
        shape = (prior.channels, *prior.size)
    shape = shape_of(shape)
    truth = drawn_from(prior, shape, denoised) if truth is None else truth
    return Problem("calibration", "truths of the prior itself", prior, operator, likelihood, shape, settings, truth)


def shape_of(given: Any) -> tuple[int, int, int]:
    """(C, H, W) as a task has it.

    Raises:
        UserError: if it is none.
    """
    if not isinstance(given, (list, tuple)) or [type(number) for number in given] != 3 * [int]:
        raise UserError(f"calibrate: image_shape must be three whole numbers C, H, W, got {given!r}")
    for number in given:
        whole("calibrate: image_shape", "a side", number, 1, MOST_SIDE)
    channels, height, width = given
    return channels, height, width


def drawn_from(prior: Prior, image_shape: tuple[int, int, int], denoised: bool) -> Truth:
    """The prior's own truths: exact where it has a closed form, otherwise of its reverse diffusion.

    Raises:
        UserError: if that cannot start, since the prior knows no level at which images are all noise.
    """
    exact = None if denoised else truth_of(prior, image_shape)
    if exact is not None:
        return exact
    if prior.sigma_max < LEAST_TOP:
        raise UserError(
            f"calibrate: {type(prior).__name__} gives no truths: its levels end at sigma {prior.sigma_max:.3g}, where "
            f"images are still seen; reverse diffusion from noise needs {LEAST_TOP:g} at least"
        )
    return LearnedTruth(prior, image_shape, denoised)


def sizes_of(pairs: int, samples: int, what: str = "pairs") -> Sizes:
    """Of a calibration; ``what`` they are.

    Raises:
        UserError: if nothing could be concluded from so few.
    """
    whole("calibrate", "pairs", pairs, 1, MOST)
    whole("calibrate", "samples", samples, 1, MOST)
    if pairs < FEWEST_PAIRS or samples < FEWEST_SAMPLES:
        raise UserError(
            f"calibrate: nothing can be concluded from {pairs} {what} with {samples} samples each: at least "
            f"{FEWEST_PAIRS} {what} and {FEWEST_SAMPLES} samples; 256 and 19 find a width error of a few per cent"
        )
    return Sizes(0, 0, pairs, samples, rows=max(samples, 160))


@dataclass(frozen=True)
class Asked:
    """What `run` was asked for; it stays in the folder, for `check`.

    Args:
        prior, task, sampler: as the command line has them.
        pairs, samples: how many.
        denoised: whether truths end in a denoising step.
        seed: of everything.
        allow_local: whether files may name classes that are not installed.
        cells: digest of the sampler under which its samples are kept; empty before there are any.
        functionals: paths of functions of images, along which truths are ranked, too.
        recorded: folder of measurements without truth, to be calibrated on in place of drawn truths; empty: none.
    """

    prior: str
    task: str
    sampler: str
    pairs: int = 256
    samples: int = 19
    denoised: bool = False
    seed: int = 0
    allow_local: bool = False
    cells: str = ""
    functionals: Sequence[str] = ()
    recorded: str = ""

    @classmethod
    def read(cls, folder: Path) -> Asked:
        """Of a folder.

        Raises:
            UserError: if nothing was calibrated there.
        """
        path = folder / RECORD
        if not path.is_file():
            raise UserError(
                f"{folder} holds no calibration (there is no {RECORD}): calibrate run --output {folder} ..."
            )
        found = read_yaml(path)
        try:
            return cls(**found)
        except TypeError as error:
            raise UserError(f"{path} is of another version, or damaged") from error

    def write(self, folder: Path) -> None:
        """Keep it."""
        folder.mkdir(parents=True, exist_ok=True)
        found = asdict(self) | {"functionals": list(self.functionals)}
        write_whole(folder / RECORD, yaml.safe_dump(found, sort_keys=False).encode())


def asked_problem(asked: Asked) -> Problem:
    """The problem of what was asked for.

    Raises:
        UserError: naming what does not fit.
    """
    whole("calibrate", "seed", asked.seed, 0, 2**63)
    sizes_of(asked.pairs, asked.samples)
    task = settings_of(asked.task, "--task")
    if not isinstance(task, dict):
        raise UserError(f"--task: {asked.task} must hold operator and likelihood")
    settings = {**task, "prior": settings_of(asked.prior, "--prior")}
    if not asked.recorded:
        return problem_of(settings, asked.denoised, asked.allow_local)
    for option, given in (("--denoised", asked.denoised), ("--functional", asked.functionals)):
        if given:
            raise UserError(f"{option} is about truths, and those of recorded measurements are not known")
    problem = problem_of(settings, False, asked.allow_local, Unknown())
    return recorded_problem(problem, Path(asked.recorded), asked.pairs, asked.seed)


def calibrate(asked: Asked, folder: Path, device: str = "cpu", sample: bool = True) -> Judged:
    """Sample what the folder does not have yet, judge all that is there, write the page.

    Args:
        asked: what.
        folder: of samples and page.
        device: where the sampler runs.
        sample: False: only judge what is there.

    Raises:
        UserError: naming what does not fit, or that there is nothing to judge.
    """
    device_here(device)
    problem = asked_problem(asked)
    sizes = sizes_of(asked.pairs, asked.samples)
    if isinstance(problem, RecordedProblem):
        sizes = sizes_of(len(problem.parts_of), asked.samples, "measurements")
    contestant = contestant_of(asked.sampler, asked.allow_local)
    wanted = functionals_at(asked.functionals)
    if sample:
        asked = replace(asked, cells=contestant.digest(problem))
        asked.write(folder)
    contestant = replace(contestant, digest=lambda _: asked.cells)
    total = sum(count * len(ids) for _, ids, count in planned(problem, sizes))
    progress = Progress(total * sample_work(problem), quiet=not sample)
    progress.begin(contestant.name, sample_work(problem))
    sampled = run(contestant, problem, sizes, asked.seed, folder / "cells", progress.told, device, sample=sample)
    if not sampled.total:
        raise UserError(f"{folder} holds no samples of this calibration, or those of another version: run it again")
    judged, curves = judge_all(sampled, sizes, wanted, asked.seed)
    correct([judged])
    told = f"of {len(sampled.pairs)} {'measurements, split in two,' if asked.recorded else 'pairs'} x {sizes.ranked}"
    limits = RECORDED_LIMITS if asked.recorded else LIMITS
    write_certificate(folder, told, asked.seed, contestant.name, judged, curves, limits)
    say_result(f"{contestant.name}: {judged.verdict()}.")
    say_place(f"report: {folder / 'calibrate.html'}")
    return judged


def functionals_at(paths: Sequence[str]) -> list[Functional]:
    """Functions of images by their paths.

    Raises:
        UserError: if one is not there, or two have the same name.
    """
    found = [Functional.at(path, "--functional") for path in dict.fromkeys(paths)]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--functional: two functions are called {name}")
    return found


def finite(functional: Functional, images: Tensor) -> Tensor:
    """Its values of images (K + 1, P, C, H, W), (K + 1, P).

    Raises:
        UserError: if one is not finite.
    """
    values = functional(images.flatten(0, 1)).view(images.shape[:2])
    if not values.isfinite().all():
        raise UserError(f"--functional: {functional.name} gave a value that is not finite")
    return values


def judge_all(
    sampled: Sampled, sizes: Sizes, functionals: Sequence[Functional], seed: int
) -> tuple[Judged, Curves | None]:
    """All tests of what was sampled, p-values not corrected yet; no curves where too few measurements are left."""
    problem, enough = sampled.problem, len(sampled.pairs) >= FEWEST_JUDGED
    if isinstance(problem, RecordedProblem):
        judged = begun(sampled, sizes)
        return judged, judge_recorded(judged, problem, sampled, seed) if enough else None
    judged = judge_samples(sampled, ExactSets(None, seed), sizes)
    return judged, judge_further(judged, sampled, functionals, seed) if enough else None


def judge_further(judged: Judged, sampled: Sampled, functionals: Sequence[Functional], seed: int) -> Curves:
    """Add to the judge's findings what only a calibration tests: functionals, pixels, scales, scores."""
    images = stacked(sampled.pairs, sampled.ranked)
    values = band_energies(images)
    values |= {one.name: finite(one, images) for one in functionals}
    ranks = {name: ranks_along(value, name, sampled.pairs, seed) for name, value in values.items()}
    judged.ranks |= ranks
    found, curves = calibration_tests(images)
    judged.findings += [*rank_tests(ranks, judged.ranked), *found]
    judged.shown = (sampled.ranked[0], images[0])
    return curves


def calibrate_command(arguments: Sequence[str]) -> None:
    """Read the command line; ``run`` samples and checks, ``check`` judges what a folder has."""
    parser = Parser(prog="posterior-sampling calibrate", description=str(__doc__).splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="draw truths, measure, sample, check; goes on from what is there")
    one.add_argument("--prior", required=True, help="file of settings, or shipped name")
    one.add_argument("--task", required=True, help="file with operator, likelihood and, if need be, image_shape")
    one.add_argument("--sampler", required=True, help="class, file of settings, or shipped name")
    one.add_argument("--pairs", type=int, default=256, help="truths and measurements (256)")
    one.add_argument("--samples", type=int, default=19, help="of each measurement (19)")
    one.add_argument("--denoised", action="store_true", help="truths end in a denoising step, as pictures do")
    one.add_argument("--recorded", default="", metavar="FOLDER", help="of .npy measurements of yours, without truth")
    one.add_argument("--output", type=Path, default=Path("results/calibrate"), help="folder (results/calibrate)")
    one.add_argument("--seed", type=int, default=0, help="of everything (0)")
    one.add_argument("--device", default="cpu", help="where the sampler runs (cpu)")
    one.add_argument("--allow-local", action="store_true", help="files may name classes that are not installed")
    other = commands.add_parser("check", help="judge what a folder has")
    other.add_argument("folder", type=Path)
    for command in (one, other):
        command.add_argument(
            "--functional",
            action="append",
            default=[],
            dest="functionals",
            metavar="my_module.f",
            help="a function of images (N, C, H, W) -> (N,), whose ranks are judged, too; may be given again",
        )
    options = vars(parser.parse_args(list(arguments)))
    if options.pop("command") == "check":
        asked = Asked.read(options["folder"])
        asked = replace(asked, functionals=[*asked.functionals, *options["functionals"]])
        judged = calibrate(asked, options["folder"], sample=False)
    else:
        folder, device = options.pop("output"), options.pop("device")
        judged = calibrate(Asked(**options), folder, device)
    if judged.failure:
        sys.exit(2)
