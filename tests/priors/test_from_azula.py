"""Denoisers of azula's as priors: asked at sigma, they are what azula itself computes at the time of that level."""

from __future__ import annotations

import pytest
import torch
import yaml
from torch import nn

from posterior import UserError
from posterior.priors import AzulaPrior
from tests.formats import ROUNDING, UnitVariance, made, sampled, shipped

azula = pytest.importorskip("azula")
from azula.denoise import KarrasDenoiser, SimpleDenoiser  # noqa: E402
from azula.noise import CosineSchedule, RectifiedSchedule, VESchedule, VPSchedule  # noqa: E402
from azula.plugins import adm  # noqa: E402

SCHEDULES = [VPSchedule(), VESchedule(0.01, 100.0), CosineSchedule(), RectifiedSchedule()]
TIMES = (0.02, 0.3, 0.7, 0.98)


class Backbone(nn.Module):
    """A convolution that the noise level scales."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, t):
        return self.layer(x) * (1 + 0.1 * t.reshape(-1, 1, 1, 1))


def ablated(**settings):
    """azula's ADM, as its plugin makes it."""
    torch.manual_seed(0)
    made = adm.make_model(
        image_size=8, num_channels=32, channel_mult=(1, 2), attention_resolutions=(4,), num_res_blocks=1, **settings
    )
    for parameter in made.parameters():  # its last layers start at zero
        nn.init.normal_(parameter, std=0.05)
    return made.eval()


def compared(prior, denoiser, **keywords):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for t in TIMES:
        alpha, sigma = denoiser.schedule(torch.tensor(t, dtype=torch.float64))
        level = float(sigma / alpha)
        noisy = x * (1 + level**2) ** 0.5
        with torch.no_grad():
            expected = denoiser(alpha.float() * noisy, torch.tensor(t), **keywords).mean
        for one in (level, torch.tensor([level, level], dtype=torch.float64)):
            found = prior.denoise(noisy, one)
            assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", [KarrasDenoiser, SimpleDenoiser])
def test_a_denoiser_is_azulas(tmp_path, kind, schedule):
    torch.manual_seed(0)
    denoiser = kind(Backbone(), schedule)
    torch.save(denoiser.state_dict(), tmp_path / "denoiser.pt")
    prior = AzulaPrior(kind(Backbone(), schedule), tmp_path / "denoiser.pt", channels=3)
    compared(prior, denoiser)
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    assert prior.channels == 3
    assert prior.fingerprint() != AzulaPrior(kind(Backbone(), schedule)).fingerprint()


@pytest.mark.parametrize("settings", [{"learn_var": True}, {"num_classes": 5, "learn_var": False}])
def test_a_plugins_denoiser_with_or_without_classes(settings):
    denoiser = ablated(clip_mean=False, **settings)
    label = 3 if "num_classes" in settings else None
    keywords = {} if label is None else {"label": torch.tensor([3, 3])}
    compared(AzulaPrior(denoiser, label=label), denoiser, **keywords)


MINE = """
from azula.denoise import Denoiser, KarrasDenoiser
from azula.noise import CosineSchedule
from tests.priors.test_from_azula import Backbone


def denoiser(alpha_min: float = 1e-3) -> Denoiser:
    return KarrasDenoiser(Backbone(), CosineSchedule(alpha_min))
"""


def test_a_file_of_settings_names_a_function_that_makes_the_denoiser(tmp_path, monkeypatch):
    """And its weights may be those of the backbone alone, as they are published."""
    (tmp_path / "my_denoiser_of_azulas.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    backbone = Backbone()
    torch.save(backbone.state_dict(), tmp_path / "mine.pt")
    init = {"checkpoint": "mine.pt", "channels": 3, "size": 8}
    init["denoiser"] = {"class_path": "my_denoiser_of_azulas.denoiser", "init_args": {"alpha_min": 0.01}}
    (tmp_path / "prior.yaml").write_text(
        yaml.safe_dump({"class_path": "posterior.priors.AzulaPrior", "init_args": init})
    )
    prior = made(tmp_path / "prior.yaml", allow_local=True)
    assert (prior.channels, prior.size) == (3, (8, 8))
    compared(prior, KarrasDenoiser(backbone, CosineSchedule(0.01)))


def test_the_shipped_prior_in_this_form_gives_the_native_runs_samples():
    toon = shipped()
    prior = AzulaPrior(KarrasDenoiser(UnitVariance(toon, 1.0), VESchedule(0.005, 200.0)))
    assert (sampled(prior) - sampled(toon)).abs().max() < ROUNDING


def test_what_is_no_denoiser_is_refused():
    with pytest.raises(UserError, match="Backbone has no schedule: it is no denoiser of azula's"):
        AzulaPrior(Backbone())
    with pytest.raises(UserError, match=r"the schedule VESchedule goes from sigma 10 to 0\.1: it must rise"):
        AzulaPrior(KarrasDenoiser(Backbone(), VESchedule(10.0, 0.1)))
