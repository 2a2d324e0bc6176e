import math

import torch

from posterior.results.report_phase import phase_pixels


def test_the_colour_is_the_phase_and_the_brightness_the_magnitude():
    phase = torch.tensor([[0.0, 2 * math.pi / 3, -2 * math.pi / 3, 0.0]])
    magnitude = torch.tensor([[1.0, 0.6, 2.0, 0.0]])
    pixels = phase_pixels(torch.stack([magnitude * phase.cos(), magnitude * phase.sin()]))
    assert pixels.tolist() == [[[255, 0, 0], [0, 153, 0], [0, 0, 255], [0, 0, 0]]]
