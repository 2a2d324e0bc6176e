"""The phase of complex images as a picture, beside that of the magnitude."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import hsv_to_rgb
from torch import Tensor


def phase_pixels(x: Tensor) -> np.ndarray:
    """Real and imaginary part (2, H, W) -> (H, W, 3) uint8: colour is the phase, brightness the magnitude, 0 to 1.

    Phase 0 is red, 2 pi / 3 green, -2 pi / 3 blue.
    """
    real, imaginary = x.detach().cpu().double().numpy()
    hue = np.arctan2(imaginary, real) / (2 * math.pi) % 1
    brightness = np.clip(np.hypot(real, imaginary), 0, 1)
    return np.rint(255 * hsv_to_rgb(np.stack([hue, np.ones_like(hue), brightness], axis=-1))).astype(np.uint8)
