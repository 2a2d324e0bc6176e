"""Priors of ours in a format that other libraries load."""

from __future__ import annotations

import json
from pathlib import Path

from posterior.errors import UserError
from posterior.priors import Prior
from posterior.priors.to_diffusers import write_diffusers
from posterior.reading import shown


def export(prior: Prior, output: Path) -> None:
    """Write a trained prior as a folder of diffusers (DDPMPipeline).

    Args:
        prior: a DiffusionPrior of a UNet, e.g. configs/prior/toon_faces32.yaml.
        output: the folder to write; beside it, with the ending .json, the same prior for --model.prior here.
    """
    settings_file = output.with_name(f"{output.name}.json")
    for place in (output, settings_file):
        if place.exists():
            raise UserError(f"export: {shown(place)} is there already: name another --output")
    patch_size = write_diffusers(prior, output)
    settings = {"folder": output.name, **({"patch_size": patch_size} if patch_size > 1 else {})}
    named = {"class_path": "posterior.priors.DiffusersPrior", "init_args": settings}
    settings_file.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
    print(f"{output}: DDPMPipeline.from_pretrained loads it; here: --model.prior {settings_file}")
    if patch_size > 1:
        print(
            f"Its network sees pictures whose pixels are folded into channels by {patch_size}: unfold what the "
            f"pipeline gives with torch.nn.functional.pixel_shuffle(x, {patch_size})."
        )
