"""The command `posterior-sampling NAME` (or `python -m benchmarks NAME`): runs, and the numbers that the project shows.

A command's module is imported when the command is asked for, and no other.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from posterior.shell import begin, in_words, listed

COMMANDS = {
    "predict": ("lightning_cli:main", "draw posterior samples: configs/demo/*.yaml, configs/paper/*.yaml"),
    "fit": ("lightning_cli:main", "train a prior: configs/train/*.yaml"),
    "fit --images": (
        "benchmarks.probe.fit_folder:fit_command",
        "train a prior on a folder of pictures, in so many --hours",
    ),
    "check": ("lightning_cli:main", "which classes a file of settings would import"),
    "configs": ("posterior.shipped:main", "the files of settings that ship: a list; configs show NAME prints one"),
    "demo": ("benchmarks.matrix.demo:demo", "toon faces under three tasks: samples, a table, one picture"),
    "try": ("benchmarks.matrix.try_photo:try_command", "restore one photograph: try PHOTO.jpg"),
    "judge": (
        "benchmarks.judge.command:judge_command",
        "any sampler against exact posteriors, in words",
    ),
    "leaderboard": (
        "benchmarks.judge.leaderboard:leaderboard_command",
        "every sampler: right or wrong, and at what cost",
    ),
    "calibrate": (
        "benchmarks.judge.calibrate:calibrate_command",
        "under any prior: do ranks and intervals hold?",
    ),
    "matrix": ("benchmarks.matrix.matrix:matrix", "tasks x samplers x seeds: configs/benchmark/*.yaml"),
    "compare": ("benchmarks.matrix.compare:compare", "finished runs side by side"),
    "differences": ("benchmarks.matrix.differences:differences", "how far apart two runs of the same images are"),
    "report": ("benchmarks.matrix.comparison:report", "report.html of a run or a matrix, made again from its folder"),
    "summarise": ("benchmarks.matrix.summarise:summarise", "the tables of a run, made again from its journal"),
    "reference-features": (
        "benchmarks.matrix.reference_features:reference_features",
        "reference set of FID, KID",
    ),
    "convert": (
        "benchmarks.tools.convert:convert_command",
        "weights of EDM as safetensors: convert edm FILE",
    ),
    "export": ("benchmarks.tools.export:export", "a trained prior as a folder of diffusers"),
    "hdf5": ("benchmarks.tools.hdf5:hdf5", "the samples of a run as one HDF5 file, in the units of a recorded one"),
    "probe": ("benchmarks.probe.command:probe_command", "is a prior what it claims to be? --prior P --images FOLDER"),
    "draw": ("benchmarks.judge.drawing:draw", "what a prior knows: samples without a measurement, as a picture"),
    "fetch": (
        "benchmarks.tools.fetch:fetch_command",
        "download a prior of the Hugging Face hub: fetch hf://owner/name",
    ),
}
"""What runs need: name -> where it is, what it does."""

BENCHMARKS = {
    "annealing": "benchmarks.truth.annealing:annealing",
    "exact-posterior": "benchmarks.truth.exact_posterior:exact_posterior",
    "fairness": "benchmarks.truth.fairness:fairness",
    "gaussian-field": "benchmarks.truth.gaussian_field:gaussian_field",
    "judge-the-judge": "benchmarks.judge.planted:judge_the_judge",
    "trajectory": "benchmarks.judge.trajectory:levels",
    "cost": "benchmarks.faces.cost:cost",
    "fit-gaussian": "benchmarks.faces.fit_gaussian:fit_gaussian",
    "fit-mixture": "benchmarks.faces.fit_mixture:fit_mixture",
    "held-out-toon": "benchmarks.faces.held_out:held_out_toon",
    "learned-prior": "benchmarks.faces.learned_prior:learned_prior",
    "step-size": "benchmarks.faces.step_size:step_size",
    "denoising": "benchmarks.photos.denoising:denoising",
    "noise-level": "benchmarks.photos.noise_level:noise_level",
    "digit-classes": "benchmarks.digits.classes:digit_classes",
    "digit-classifier": "benchmarks.digits.classifier:digit_classifier",
    "digit-prior": "benchmarks.digits.prior:digit_prior",
    "digit-width": "benchmarks.digits.density:digit_width",
    "mri": "benchmarks.science.mri:mri",
    "gpu": "benchmarks.machine.gpu:gpu",
    "memory": "benchmarks.machine.memory:memory",
    "overhead": "benchmarks.machine.overhead:overhead",
    "pipeline": "benchmarks.machine.pipeline:pipeline",
    "randomness": "benchmarks.machine.randomness:randomness",
    "faults": "benchmarks.campaigns.faults:faults",
    "fuzz": "benchmarks.campaigns.fuzz:fuzz",
    "gallery": "benchmarks.tools.gallery:gallery",
    "recipe-weights": "benchmarks.tools.recipe:recipe_weights",
}
"""The numbers that the documents show, by the room of `benchmarks/` that they stand in."""

LONG = ("try", "matrix", "judge", "leaderboard", "calibrate", "probe", "fit --images")
"""Commands that tell how far they are, unless ``--quiet``; `predict` is one more."""

RENAMED = {
    "calibration": "judge (exact posteriors) and of calibrate (any prior)",
    "fit-gaussian-toon": "fit-gaussian (of any images)",
}
"""Commands of version 0.2.0 that are no more -> what they are part of."""


def by_room() -> str:
    """The benchmarks, a line for each room."""
    rooms: dict[str, list[str]] = {}
    for name, place in BENCHMARKS.items():
        rooms.setdefault(place.split(".")[1], []).append(name)
    return listed({room: ", ".join(names) for room, names in rooms.items()})


HELP = f"""\
posterior-sampling NAME [options]      NAME --help says what it takes; --version

{listed({name: told for name, (_, told) in COMMANDS.items()})}

--quiet: commands that take long print warnings and where the results are, no more.

Benchmarks:
{by_room()}"""


def load(name: str) -> Any:
    """The function of a command."""
    place = COMMANDS[name][0] if name in COMMANDS else BENCHMARKS[name]
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)


def run_matrix(arguments: list[str]) -> None:
    """`matrix`, whose --config is its own (that of `auto_cli` has options), and whose --smoke needs no value.

    Options that begin with ``--shared.`` are settings, read as `predict` reads its.
    """
    from jsonargparse import ArgumentParser

    from posterior.settings import read_command_line

    laid, own = list[str](), list[str]()
    into = own
    for word in arguments:
        if word.startswith("--"):  # a value goes where its option went
            into = laid if word.startswith("--shared.") else own
        into.append(word)
    matrix = load("matrix")
    parser = ArgumentParser(prog="posterior-sampling matrix", description=matrix.__doc__, exit_on_error=False)
    parser.add_function_arguments(matrix, as_group=False, fail_untyped=False, skip={"smoke", "allow_local", "above"})
    parser.add_argument("--smoke", action="store_true", help="the small version, for CI")
    parser.add_argument("--allow-local", action="store_true", help="classes may come from files that are not installed")
    matrix(**vars(parser.parse_args(own)), above=read_command_line(laid)[0])


def run(name: str, arguments: list[str]) -> None:
    """Run a command of this package; whatever is wrong with what a user gave is one line, and the exit status 2."""
    from argparse import ArgumentError

    try:
        flags = {"--debug", "--quiet"} if name in LONG else {"--debug"}
        given = [word for word in arguments if word not in flags]
        if name in LONG:
            from posterior.terminal import quietly

            with quietly("--quiet" in arguments):
                run_matrix(given) if name == "matrix" else load(name)(given)
        elif name in ("convert", "fetch", "report"):
            load(name)(given)
        else:
            from jsonargparse import auto_cli

            from posterior.settings import with_files_read

            function, prog = load(name), f"posterior-sampling {name}"
            given = with_files_read(given, function)
            auto_cli(function, as_positional=False, args=given, exit_on_error=False, prog=prog)
    except Exception as error:
        if isinstance(error, (ValueError, OSError, ArgumentError)) and "--debug" not in arguments:
            from posterior.errors import UserError

            if isinstance(error, (UserError, OSError, ArgumentError)):
                print(f"error: {in_words(error)}", file=sys.stderr)
                sys.exit(2)
        raise


def fits_images(words: list[str]) -> bool:
    """Whether a command line is one of `fit --images`, which has options, and a help, of its own."""
    return words[:1] == ["fit"] and any(word.split("=")[0] == "--images" for word in words)


def main() -> None:
    """What the console script and `python -m benchmarks` do."""
    of_pictures = fits_images(sys.argv[1:])
    begin(HELP, [] if of_pictures else None)
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # a sampler of one's own lies here; last, so that it hides nothing
    name, *arguments = sys.argv[1:] or [""]
    if name not in COMMANDS | BENCHMARKS:
        told = f"there is no command {name!r}" if name else "no command"
        if name in RENAMED:
            told = f"{name} is part of {RENAMED[name]} now"
        print(f"error: {told}: posterior-sampling --help lists them", file=sys.stderr)
        sys.exit(2)
    if of_pictures:
        run("fit --images", arguments)
    elif name in ("predict", "fit", "check"):
        load(name)()
    elif name == "configs":
        load(name)(arguments)
    else:
        run(name, arguments)


if __name__ == "__main__":
    main()
