"""What a person has set: refused in one line where it makes no sense, before memory or time is asked for."""

from __future__ import annotations

import reprlib
from collections.abc import Sized
from typing import Any, get_args

from posterior.errors import UserError

SMALLEST, LARGEST = 1e-12, 1e9
"""Of positive reals: their squares, and ratios of these, stay well inside float32."""
MOST_STEPS = 1_000_000
"""Levels of a schedule, timesteps of a network, steps of a chain or a solver: a thousand times the usual number."""
MOST_TRAINING_STEPS = 100_000_000
"""Steps of an optimiser: a hundred times what the largest networks of the field took."""
MOST_SAMPLES = 10_000
"""Chains an image, all in memory at once; copies within a step."""
MOST_SIDE = 16_384
"""Pixels: a colour image of that side has 3 GB in float32."""
MOST_KERNEL = 2_047
"""Side of a blur kernel in pixels; motion blur draws on a canvas of twice that."""
MOST_CHANNELS = 4_096
"""Of an image, a network's first level, or a covariance of colours."""
MOST_CLASSES = 100_000
"""Of a class-conditional network: ImageNet has 1000, and all of it 21841."""
MOST_COILS = 256
"""Of an MRI scanner: twice what the largest arrays have."""
MOST_IMAGES = 10_000_000
"""Of a data set that is made up by number: a list of the ids has about 1 GB."""
MOST_BATCH = 65_536
"""Images a batch."""
MOST_WORKERS = 512
"""Processes that read: each has its own copy of the program."""


def whole(who: str, name: str, value: int, least: int, most: int) -> None:
    """Refuse an integer outside [least, most].

    Args:
        who: the class, as the message names it.
        name: of the setting.
        value: of the setting.
        least, most: what is allowed.

    Raises:
        UserError: if it is outside.
    """
    if not least <= value <= most:
        raise UserError(f"{who}: {name} must be >= {least} and <= {most}, got {value}")


def real(
    who: str,
    name: str,
    value: float,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    smallest: float = SMALLEST,
) -> None:
    """Refuse a real number that is NaN, infinite, beyond `LARGEST` in size, or outside the bounds.

    Where a bound from below is 0, numbers between 0 and ``smallest`` are refused too: their inverses overflow.

    Args:
        who: the class, as the message names it.
        name: of the setting.
        value: of the setting.
        above: it must be larger than this.
        least: it must not be smaller.
        below: it must be smaller than this.
        most: it must not be larger.
        smallest: as above.

    Raises:
        UserError: if it is outside.
    """
    tiny = 0 in (above, least) and 0 < value < smallest
    good = -LARGEST <= value <= LARGEST and not tiny  # false for NaN
    good = good and (above is None or value > above) and (least is None or value >= least)
    if good and (below is None or value < below) and (most is None or value <= most):
        return
    low = f"> {above:g}" if above is not None else f">= {-LARGEST if least is None else least:g}"
    high = f"< {below:g}" if below is not None else f"<= {LARGEST if most is None else most:g}"
    hint = f", and not as small, the smallest being {smallest:g}" if tiny else ""
    raise UserError(f"{who}: {name} must be {low} and {high}{hint}, got {value}")


def check_label(who: str, num_classes: int | None, label: int | None) -> None:
    """Raises:
    UserError: if a class-conditional network has no label, another one has, or there is no such class.
    """
    if num_classes is None and label is None:
        return
    if num_classes is None:
        raise UserError(f"{who}: label is {label}, but the network has no classes: leave label out")
    whole(who, "num_classes", num_classes, 1, MOST_CLASSES)
    if label is None:
        raise UserError(f"{who}: the network has {num_classes} classes: label must say which one is sampled")
    whole(who, "label", label, 0, num_classes - 1)


def length(who: str, name: str, value: Sized, least: int, most: int) -> None:
    """Refuse a list with fewer entries than ``least`` or more than ``most``.

    Raises:
        UserError: if it has.
    """
    if not least <= len(value) <= most:
        raise UserError(f"{who}: {name} must have {least} to {most} entries, got {len(value)}")


def choice(who: str, name: str, value: object, words: Any) -> None:
    """Refuse a word that is none of a ``Literal`` type, such as one that is spelt otherwise.

    Args:
        who: the class, as the message names it.
        name: of the setting.
        value: of the setting.
        words: the type, e.g. ``Literal["ramp", "hann"]``.

    Raises:
        UserError: naming the words there are.
    """
    *others, last = get_args(words)
    if value not in (*others, last):
        raise UserError(f"{who}: {name} must be {', '.join(others)} or {last}, got {brief(value)}")


def brief(value: object) -> str:
    """A value as a line of a message has room for it."""
    return reprlib.repr(value)
