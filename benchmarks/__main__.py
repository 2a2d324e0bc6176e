"""`python -m benchmarks NAME`: the numbers that the project shows."""

import sys
from typing import Any

from jsonargparse import auto_cli

from benchmarks.fit_gaussian import fit_gaussian_toon
from benchmarks.gaussian_field import gaussian_field
from benchmarks.mixture import mixture
from benchmarks.overhead import overhead
from benchmarks.recipe import recipe_weights
from posterior.errors import UserError

COMMANDS: dict[str, Any] = {
    "fit-gaussian-toon": fit_gaussian_toon,
    "gaussian-field": gaussian_field,
    "mixture": mixture,
    "overhead": overhead,
    "recipe-weights": recipe_weights,
}

if __name__ == "__main__":
    try:
        auto_cli(COMMANDS, as_positional=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
