"""Published weights made readable: no code of theirs runs, and what is written can hold none."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from benchmarks.tools.parsing import Parser
from posterior.edm_pickle import read_pickle
from posterior.errors import UserError
from posterior.reading import shown

NETWORKS = {
    "SongUNet": "posterior.priors.SongUNet",
    "DhariwalUNet": "posterior.priors.DhariwalUNet",
    "UNet": "training.networks_edm2.UNet",
}
"""Theirs -> the class that a configuration names; EDM2's is in a clone of its repository alone."""
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
        UserError: if the preconditioning or the network is of another kind.
    """
    if facts["preconditioning"] not in PRECONDITIONINGS:
        raise UserError(f"its preconditioning is {facts['preconditioning']}, not one of {', '.join(PRECONDITIONINGS)}")
    if facts["network"] not in NETWORKS:
        raise UserError(f"its network is a {facts['network']}, not one of {', '.join(NETWORKS)}")
    low, high = facts.get("sigma_min") or SIGMA_MIN, facts.get("sigma_max", SIGMA_MAX)
    settings = {
        "checkpoint": weights,
        "sigma_data": facts.get("sigma_data", 0.5),
        "sigma_min": low,
        "sigma_max": high if math.isfinite(high) else SIGMA_MAX,
        "network": {"class_path": NETWORKS[facts["network"]], "init_args": facts["settings"]},
    }
    if facts.get("label_dim"):
        settings["num_classes"] = facts["label_dim"]
    return {"class_path": "posterior.priors.EDMPrior", "init_args": settings}


def convert_edm(file: Path, output: Path) -> dict[str, Any]:
    """Write the weights of a published pickle, and beside them, with the ending .json, the settings of their prior.

    Args:
        file: of EDM or EDM2.
        output: the .safetensors file.

    Returns:
        The settings.

    Raises:
        UserError: naming the file, if it is no such pickle, or something is there already.
    """
    places = output, output.with_suffix(".json")
    for place in places:
        if place.exists():
            raise UserError(f"convert: {shown(place)} is there already: name another --output")
    state, facts = read_pickle(file)
    try:
        settings = edm_settings(facts, output.name)
    except UserError as error:
        raise UserError(f"pickle {shown(file)}: {error}") from error
    safetensors.torch.save_file(state, places[0])
    places[1].write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
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
    output = options.output or options.file.with_suffix(".safetensors")
    if output.suffix != ".safetensors":
        raise UserError(f"convert: --output must end in .safetensors, got {shown(output)}")
    settings = convert_edm(options.file, output)["init_args"]
    print(f"{output}: the weights; {output.with_suffix('.json')}: the prior (--model.prior takes it)")
    if "num_classes" in settings:
        print(f"It has {settings['num_classes']} classes: --model.prior.init_args.label says which one is sampled.")
    if settings["network"]["class_path"] == NETWORKS["UNet"]:
        print("Its network's code is not here: put a clone of NVlabs/edm2 on PYTHONPATH, and say --allow-local.")
