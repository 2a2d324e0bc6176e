"""Functions of an image of a digit, for ``--functional`` and ``model.functionals``: how probable each class is.

``posterior.metrics.digits.seven`` is the probability that it is a 7, by the classifier that ships (`DigitClassifier`);
``confidence`` that of its likeliest class, low for what is no digit.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from posterior.checks import whole
from posterior.metrics.classifier import CLASSES, shipped_classifier


@dataclass(frozen=True)
class ClassProbability:
    """The probability of a class, images (N, 1, 32, 32) in [-1, 1] -> (N,).

    Args:
        digit: the class, 0 to 9.

    Raises:
        UserError: if there is no such class; on a call, if images have another shape.
    """

    digit: int

    def __post_init__(self) -> None:
        whole("ClassProbability", "digit", self.digit, 0, CLASSES - 1)

    @property
    def __name__(self) -> str:
        return f"digit_{self.digit}"

    def __call__(self, images: Tensor) -> Tensor:
        return _probabilities(images)[:, self.digit]


def confidence(images: Tensor) -> Tensor:
    """The largest probability of a class, images (N, 1, 32, 32) in [-1, 1] -> (N,)."""
    return _probabilities(images).max(dim=1).values


def _probabilities(images: Tensor) -> Tensor:
    found: Tensor = shipped_classifier(images.device)(images.float())
    return found


zero, one, two, three, four, five, six, seven, eight, nine = (ClassProbability(digit) for digit in range(CLASSES))
