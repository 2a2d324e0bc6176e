"""`python -m benchmarks NAME`: the numbers that the project shows."""

import signal
import sys
from argparse import ArgumentError
from typing import Any

if __name__ == "__main__":  # before the imports, which take seconds
    signal.signal(signal.SIGINT, lambda signum, frame: sys.exit(130))

from jsonargparse import ArgumentParser, auto_cli

from benchmarks.annealing import annealing
from benchmarks.calibration import calibration
from benchmarks.compare import compare
from benchmarks.cost import cost
from benchmarks.differences import differences
from benchmarks.exact_posterior import exact_posterior
from benchmarks.fairness import fairness
from benchmarks.faults import faults
from benchmarks.fit_gaussian import fit_gaussian_toon
from benchmarks.fit_mixture import fit_mixture
from benchmarks.fuzz import fuzz
from benchmarks.gaussian_field import gaussian_field
from benchmarks.held_out import held_out_toon
from benchmarks.learned_prior import learned_prior
from benchmarks.matrix import matrix
from benchmarks.memory import memory
from benchmarks.mri import mri
from benchmarks.overhead import overhead
from benchmarks.pipeline import pipeline
from benchmarks.recipe import recipe_weights
from benchmarks.reference_features import reference_features
from benchmarks.step_size import step_size
from benchmarks.summarise import summarise
from lightning_cli import in_words, interrupted
from posterior.errors import UserError

COMMANDS: dict[str, Any] = {
    "annealing": annealing,
    "calibration": calibration,
    "compare": compare,
    "cost": cost,
    "differences": differences,
    "exact-posterior": exact_posterior,
    "fairness": fairness,
    "faults": faults,
    "fit-gaussian-toon": fit_gaussian_toon,
    "fit-mixture": fit_mixture,
    "fuzz": fuzz,
    "gaussian-field": gaussian_field,
    "held-out-toon": held_out_toon,
    "learned-prior": learned_prior,
    "matrix": matrix,
    "memory": memory,
    "mri": mri,
    "overhead": overhead,
    "pipeline": pipeline,
    "recipe-weights": recipe_weights,
    "reference-features": reference_features,
    "step-size": step_size,
    "summarise": summarise,
}


def run_matrix(arguments: list[str]) -> None:
    """`matrix`, whose --config is its own (that of `auto_cli` has options), and whose --smoke needs no value."""
    parser = ArgumentParser(prog="python -m benchmarks matrix", description=matrix.__doc__, exit_on_error=False)
    parser.add_function_arguments(matrix, as_group=False, fail_untyped=False, skip={"smoke", "allow_local"})
    parser.add_argument("--smoke", action="store_true", help="the small version, for CI")
    parser.add_argument("--allow-local", action="store_true", help="classes may come from files that are not installed")
    matrix(**vars(parser.parse_args(arguments)))


def main(arguments: list[str]) -> None:
    """Run one; whatever is wrong with what a user gave is one line, and the exit status 2."""
    try:
        if arguments[:1] == ["matrix"]:
            run_matrix([word for word in arguments[1:] if word != "--debug"])
        else:
            auto_cli(COMMANDS, as_positional=False, args=arguments, exit_on_error=False)
    except Exception as error:
        if isinstance(error, (UserError, OSError, ArgumentError)) and "--debug" not in arguments:
            print(f"error: {in_words(error)}", file=sys.stderr)
            sys.exit(2)
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupted)  # now that it is there
    main(sys.argv[1:])
