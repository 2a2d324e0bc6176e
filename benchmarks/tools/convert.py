"""Published weights made readable: no code of theirs runs, and what is written can hold none."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from posterior.checks import MOST_CLASSES, brief, real, whole
from posterior.edm_pickle import read_pickle
from posterior.errors import UserError
from posterior.reading import check_file, reason, shown
from posterior.shell import Parser

NETWORKS = {
    "SongUNet": "posterior.priors.SongUNet",
    "DhariwalUNet": "posterior.priors.DhariwalUNet",
    "UNet": "posterior.priors.EDM2UNet",
}
"""Theirs -> the class that a configuration names; EDM2 calls its own UNet."""
PRECONDITIONINGS = ("EDMPrecond", "Precond")
"""EDM's own, and EDM2's; the other ones of EDM's repository are those of older papers."""
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
"""The levels between which EDM samples (arXiv:2206.00364, Table 1); its files often say 0 and infinity."""


def edm_settings(facts: dict[str, Any], weights: str) -> dict[str, Any]:
    """The prior of a published file, as a file of settings says it.

    Args:
        facts: as `read_pickle` gives them.
        weights: name of the safetensors file.

    Raises:
        UserError: if the preconditioning or the network is of another kind, or a fact is not what its name says.
    """
    if facts["preconditioning"] not in PRECONDITIONINGS:
        raise UserError(f"its preconditioning is {facts['preconditioning']}, not one of {', '.join(PRECONDITIONINGS)}")
    if facts["network"] not in NETWORKS:
        raise UserError(f"its network is a {facts['network']}, not one of {', '.join(NETWORKS)}")
    numbers = (int, float), "a number"
    low = _fact(facts, "sigma_min", SIGMA_MIN, *numbers) or SIGMA_MIN
    high = _fact(facts, "sigma_max", SIGMA_MAX, *numbers)
    settings = {
        "checkpoint": weights,
        "sigma_data": _fact(facts, "sigma_data", 0.5, *numbers),
        "sigma_min": low,
        "sigma_max": SIGMA_MAX if high == math.inf else high,
        "network": {
            "class_path": NETWORKS[facts["network"]],
            "init_args": _fact(facts, "settings", {}, (dict,), "a mapping"),
        },
    }
    for key, above in (("sigma_data", 0), ("sigma_min", 0), ("sigma_max", low)):
        real(facts["preconditioning"], key, settings[key], above=above)
    classes = _fact(facts, "label_dim", 0, (int,), "a whole number")
    whole(facts["preconditioning"], "label_dim", classes, 0, MOST_CLASSES)
    if classes:
        settings["num_classes"] = classes
    return {"class_path": "posterior.priors.EDMPrior", "init_args": settings}


def _fact(facts: dict[str, Any], key: str, default: Any, kinds: tuple[type, ...], what: str) -> Any:
    """What a file says, or what it means where it says nothing.

    Raises:
        UserError: if that is of no such kind.
    """
    value = facts.get(key, default)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UserError(f"its {key} must be {what}, got {brief(value)}")
    return value


def convert_edm(file: Path, output: Path) -> dict[str, Any]:
    """Write the weights of a published pickle, and beside them, with the ending .json, the settings of their prior.

    Args:
        file: of EDM or EDM2.
        output: the .safetensors file.

    Returns:
        The settings.

    Raises:
        UserError: naming the file, if it is no such pickle, something is there already, or it cannot be written.
    """
    places = output, output.with_suffix(".json")
    for place in places:
        if os.path.lexists(place):  # no error where a name is too long
            raise UserError(f"convert: {shown(place)} is there already: name another --output")
    if not output.parent.is_dir():
        raise UserError(f"convert: {shown(output.parent)}, where --output would be, is not a folder: make it first")
    state, facts = read_pickle(file)
    try:
        settings = edm_settings(facts, output.name)
    except UserError as error:
        raise UserError(f"pickle {shown(file)}: {error}") from error
    try:
        safetensors.torch.save_file(state, places[0])
        places[1].write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(f"convert: {shown(output)} cannot be written: {reason(error)}") from error
    return settings


def convert_command(arguments: Sequence[str]) -> None:
    """Read the command line, convert, say how the prior is named."""
    parser = Parser(
        prog="posterior-sampling convert",
        description="Published pickles of EDM and EDM2 as safetensors and settings; nothing in them is run.",
        allow_abbrev=False,
    )
    parser.add_argument("kind", choices=["edm"], help="edm: a .pkl file of NVlabs/edm or edm2")
    parser.add_argument("file", type=Path, help="the file")
    parser.add_argument("--output", type=Path, help="the .safetensors file (FILE with that ending)")
    options = parser.parse_args(list(arguments))
    check_file(options.file, "pickle")
    output = options.output or options.file.with_suffix(".safetensors")
    if output.suffix != ".safetensors":
        raise UserError(f"convert: --output must end in .safetensors, got {shown(output)}")
    settings = convert_edm(options.file, output)["init_args"]
    print(f"{output}: the weights; {output.with_suffix('.json')}: the prior (--model.prior takes it)")
    if "num_classes" in settings:
        print(f"It has {settings['num_classes']} classes: --model.prior.init_args.label says which one is sampled.")
