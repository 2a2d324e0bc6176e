"""How good a prior of digits is: distances of its samples to held-out digits, and samples that are no digits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.digits.density import HELD_OUT, Unlike, evenly
from benchmarks.judge.drawing import unconditional
from benchmarks.tools.html import pipes
from datamodules import IdxImageSet
from posterior.checks import MOST_IMAGES, MOST_STEPS, whole
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.metrics.classifier import CLASSES, DigitClassifier, shipped_classifier
from posterior.metrics.distances import frechet_distance
from posterior.metrics.precision_recall import precision_recall
from posterior.priors import EmpiricalPrior, Prior
from posterior.results.pictures import save_png, sheet
from posterior.terminal import say_place, say_result

SHAPE, SHOWN = (1, 32, 32), 64
TOGETHER = 500


def digit_prior(
    prior: Prior,
    images: Path,
    held_out: Path = HELD_OUT,
    count: int = 500,
    num_steps: int = 100,
    output: Path = Path("results/digit_prior"),
    seed: int = 0,
) -> None:
    """Samples of a prior beside training digits, both against held-out ones: a table, and a picture of 64 samples.

    Frechet distance, precision and recall are of the features of `DigitClassifier`, from equal numbers of digits. The
    row of training digits is the floor. Improbable and undecided: `Unlike`.

    Args:
        prior: of images 1x32x32; a learned one is drawn from by its reverse diffusion, ended by a denoising step.
        images: idx file of the digits that it has learned from.
        held_out: idx file of others.
        count: of each, >= 130: more than there are features.
        num_steps: network calls of a sample.
        output: folder of samples.png and digit_prior.md.
        seed: of the samples.

    Raises:
        UserError: if a number is out of range, or a file cannot be used.
    """
    whole("digit-prior", "count", count, 130, MOST_IMAGES)
    whole("digit-prior", "num_steps", num_steps, 2, MOST_STEPS)
    known = EmpiricalPrior.from_file(images, size=32)
    others = evenly(IdxImageSet(held_out).all(), count)
    training = evenly(IdxImageSet(images).all(), count)
    unlike = Unlike.of(known, others)
    prior.check_images(SHAPE)
    samples = unconditional(prior, SHAPE, count, num_steps, seed)
    save_png(sheet(samples[:SHOWN]), output / "samples.png")
    rows = table({"held-out digits": others, "training digits": training, "samples": samples}, others, unlike)
    told = "\n".join(pipes(rows))
    write_whole(output / "digit_prior.md", f"{told}\n".encode())
    say_result(told)
    say_place(f"picture: {output / 'samples.png'}")


def table(sets: dict[str, Tensor], real: Tensor, unlike: Unlike) -> list[list[str]]:
    """Head and a row for each set of digits (N, 1, 32, 32), against real ones.

    Raises:
        UserError: if a sample is not finite.
    """
    classifier, classes = shipped_classifier(), ", ".join(map(str, range(CLASSES)))
    head = ["digits", "Fréchet", "precision", "recall", "improbable", "undecided", f"shares of {classes}, %"]
    rows, reference = [head], features(classifier, real)
    for name, x in sets.items():
        if not x.isfinite().all():
            raise UserError(f"digit-prior: {name}: a value is NaN or infinite")
        distances = ["-", "-", "-"]
        if x is not real:
            own = features(classifier, x)
            precision, recall = precision_recall(own, reference)
            distances = [f"{frechet_distance(own, reference):.3g}", f"{precision:.3f}", f"{recall:.3f}"]
        found = torch.cat([classifier(part).argmax(dim=1) for part in x.split(TOGETHER)])
        shares = (100 * found.bincount(minlength=CLASSES) / len(x)).tolist()
        marks = [f"{float(mark.double().mean()):.1%}" for mark in (unlike.improbable(x), unlike.undecided(x))]
        rows.append([name, *distances, *marks, " ".join(f"{share:.0f}" for share in shares)])
    return rows


def features(classifier: DigitClassifier, x: Tensor) -> Tensor:
    """(N, 128) float64."""
    return torch.cat([classifier.features(part).double() for part in x.split(TOGETHER)])
