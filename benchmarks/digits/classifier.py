"""Train the classifier of digits that ships, and say how good it is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import IdxImageSet
from posterior.checks import MOST_IMAGES, whole
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.metrics.classifier import CLASSES, DigitClassifier, calibration_error
from posterior.random import stream
from posterior.terminal import remark, say_result

BATCH = 128
RATE, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
TURN, GROWTH, SHEAR, SHIFT, NOISE = math.radians(12), 0.1, 0.15, 2 / 16, 0.1
"""Largest turn, growth, shear and shift (of half a side) of an image that is learned from, and noise added to it."""


def digit_classifier(
    images: Path,
    labels: Path,
    test_images: Path,
    test_labels: Path,
    output: Path = Path("results/digits_classifier.safetensors"),
    epochs: int = 4,
    held_out: int = 5000,
    seed: int = 0,
) -> None:
    """Train `DigitClassifier`, calibrate it on digits left out, write it in float16, and test what is written.

    Args:
        images, labels: idx files of the training digits, 32x32 at most.
        test_images, test_labels: of the test digits.
        output: the .safetensors file.
        epochs: passes over the training digits, >= 1; one and a half minutes of one core for 4 of 55,000.
        held_out: so many training digits, the last ones, are for the temperature alone.
        seed: of weights, order and distortions.

    Raises:
        UserError: if a number is out of range, a file cannot be used, or labels are none of digits.
    """
    whole("digit-classifier", "epochs", epochs, 1, 1000)
    known, test = labelled(images, labels), labelled(test_images, test_labels)
    whole("digit-classifier", "held_out", held_out, 100, min(MOST_IMAGES, len(known[0]) - BATCH))
    unseen = known[0][-held_out:], known[1][-held_out:]
    network = fitted(known[0][:-held_out], known[1][:-held_out], epochs, seed)
    network.temperature.fill_(temperature_of(predicted(network, unseen[0]).log(), unseen[1]))
    state = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    write_whole(output, safetensors.torch.save(state))
    stored = DigitClassifier.from_file(output)
    say_result(f"{output}: {output.stat().st_size / 1e3:.0f} kB, temperature {float(stored.temperature):.3f}")
    for name, (digits, truth) in (("held-out training digits", unseen), ("test digits", test)):
        say_result(f"{len(truth)} {name}: {report(predicted(stored, digits), truth)}")


def labelled(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Digits (N, 1, 32, 32) in [-1, 1] and their classes (N,).

    Raises:
        UserError: naming the file, if it cannot be used, or a label is above 9.
    """
    source = IdxImageSet(images, labels)
    pictures = source.all()
    classes = torch.tensor([source.label(index) for index in range(len(source))])
    if classes.max() >= CLASSES:
        raise UserError(f"idx labels {labels}: a digit is at most {CLASSES - 1}, one is {int(classes.max())}")
    return pictures, classes


def fitted(images: Tensor, labels: Tensor, epochs: int, seed: int) -> DigitClassifier:
    """A network trained by stochastic gradient descent, its rate rising for a fifth of the steps and falling to 0."""
    network = initialised(seed).train()
    optimiser = torch.optim.SGD(network.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)
    steps = len(images) // BATCH
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, epochs * steps, pct_start=0.2)
    for epoch in range(epochs):
        start, total = time.process_time(), torch.zeros(())
        for x, target in batches(images, labels, seed, epoch):
            optimiser.zero_grad()
            loss = F.cross_entropy(network.logits(x), target)
            loss.backward()
            optimiser.step()
            rates.step()
            total += loss.detach()
        seconds = time.process_time() - start
        remark(f"epoch {epoch + 1} of {epochs}: loss {float(total) / steps:.4f}, {seconds:.0f} CPU seconds")
    return network.requires_grad_(False).eval()


def initialised(seed: int) -> DigitClassifier:
    """Convolutions of He et al. (ICCV 2015), the rest as torch has it; the last layer at 0: all classes alike."""
    network, generator = DigitClassifier(), stream(seed, "digit classifier", -1, "weights")
    for weight in network.layers.parameters():
        if weight.ndim == 4:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    for weight in network.head.parameters():
        torch.nn.init.zeros_(weight)
    return network


def batches(images: Tensor, labels: Tensor, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Distorted images and labels, once each in an order of this epoch; what fills no batch is left out."""
    draws = stream(seed, "digit classifier", epoch, "batches")
    for chosen in torch.randperm(len(images), generator=draws).split(BATCH):
        if len(chosen) == BATCH:
            yield distorted(images[chosen], draws), labels[chosen]


def distorted(x: Tensor, draws: torch.Generator) -> Tensor:
    """Images (B, 1, H, W), each turned, stretched, sheared, shifted, and with noise of a level of its own."""
    turn, wide, high, shear, right, down = (2 * torch.rand(6, len(x), generator=draws) - 1).unbind()
    cos, sin, shear = (TURN * turn).cos(), (TURN * turn).sin(), SHEAR * shear
    wide, high = 1 + GROWTH * wide, 1 + GROWTH * high
    rows = [wide * cos, high * (shear * cos - sin), SHIFT * right, wide * sin, high * (shear * sin + cos), SHIFT * down]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(x.shape), align_corners=False)
    moved = F.grid_sample(x + 1, grid, align_corners=False) - 1  # what comes from outside is black, -1
    level = NOISE * torch.rand(len(x), 1, 1, 1, generator=draws)
    return moved + level * torch.randn(x.shape, generator=draws)


def predicted(network: DigitClassifier, images: Tensor) -> Tensor:
    """Probabilities (N, 10), float64."""
    return torch.cat([network.logits(part).double().softmax(dim=1) for part in images.split(500)])


def temperature_of(log_probabilities: Tensor, labels: Tensor) -> float:
    """The temperature at which labels (N,) are likeliest, by what logits (N, C) up to a constant are divided."""

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(log_probabilities / math.exp(log_temperature), labels))

    return math.exp(scipy.optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)


def report(probabilities: Tensor, labels: Tensor) -> str:
    """Accuracy, calibration error and log loss, in words."""
    right = (probabilities.argmax(dim=1) == labels).double()
    loss = float(F.nll_loss(probabilities.log(), labels))
    error = calibration_error(probabilities, labels)
    mean = float(probabilities.max(dim=1).values.mean())
    return (
        f"{right.mean():.2%} right, mean confidence {mean:.2%}, expected calibration error {error:.2%}, "
        f"log loss {loss:.4f}"
    )
