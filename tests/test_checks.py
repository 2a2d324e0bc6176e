"""Every class that a config can name is built with every one of its numbers bent: it works, or ends in one line."""

from __future__ import annotations

import inspect
import math
import sys
import time
import tracemalloc
import types
import typing
import warnings
from collections.abc import Sequence

import pytest
import torch

import datamodules
import posterior.metrics
import posterior.noise
import posterior.operators
import posterior.priors
import posterior.samplers
from posterior import Measurement, UserError, stream
from posterior.checks import LARGEST, MOST_STEPS, SMALLEST, length, real, whole
from posterior.module import PosteriorSampling
from posterior.noise import GaussianNoise, Likelihood
from posterior.operators import OperatorFamily, SuperResolution
from posterior.priors import (
    DiffusionPrior,
    GaussianFieldPrior,
    GaussianMixturePrior,
    LocalUNet,
    NoiseSchedule,
    Prior,
    RingPrior,
    ShellError,
    UNet,
    respaced_timesteps,
)
from posterior.samplers import (
    DPS,
    AdmissibleAnnealing,
    AnnealingSchedule,
    GeometricAnnealing,
    ListedSigmas,
    SigmaSchedule,
)
from posterior.training import DenoisingTraining, TrainingLevels

REALS = [0.0, -1.0, 1e-320, 1e-9, 1e9, 1e308, math.inf, -math.inf, math.nan]
WHOLES = [0, -1, 1, 2, 10**6, 10**9, 10**18]
FIELD = {
    "mean": [0.0, 0.1],
    "components": [[1.0, 0.0], [0.0, 1.0]],
    "amplitude": [0.01, 0.01],
    "exponent": [2.0, 2.0],
    "cutoff": [0.1, 0.1],
}
DATA = {"operator": SuperResolution(2), "likelihood": GaussianNoise()}


EDM = {"img_resolution": 16, "model_channels": 16, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [8]}


class Scheduled(torch.nn.Identity):
    """As a denoiser of azula's."""

    def schedule(self, t):
        return torch.ones_like(t), 0.01 + t

    def forward(self, x, t, label=None):
        return types.SimpleNamespace(mean=x)


def identity() -> DiffusionPrior:
    return DiffusionPrior(torch.nn.Identity())


NEEDED: dict[str, typing.Any] = {
    "AdmissibleAnnealing": {
        **{"alpha": 1.0, "radius": 2.0, "accuracy": 0.5, "inverse_failure": 2.0, "max_levels": 1000},
    },
    "AnnealedLangevin": {"step_size": 1e-4},
    "AzulaPrior": lambda: {"denoiser": Scheduled()},
    "CTPhantoms": DATA,
    "CTSlices": {"root": "nowhere"} | DATA,
    "ChannelwisePrior": lambda: {"prior": GaussianFieldPrior([0.0], [[1.0]], [0.01], [2.0], [0.1])},
    "DenoisingTraining": lambda: {"prior": identity(), "validation_sigmas": [1.0]},
    "DhariwalUNet": EDM,
    "DiffusersPrior": {"folder": "nowhere"},
    "DiffusionPrior": lambda: {"network": torch.nn.Identity()},
    "EDM2UNet": EDM | {"channels_per_head": 16},
    "EDMPrior": lambda: {"network": torch.nn.Identity()},
    "EmpiricalPrior": lambda: {"images": torch.zeros(2, 2, 4, 4)},
    "FlowPrior": lambda: {"network": torch.nn.Identity(), "time": "noise"},
    "FolderImages": {"root": "nowhere"},
    "GaussianFieldPrior": FIELD,
    "GaussianSensing": {"num_measurements": 4},
    "GeometricAnnealing": {"num_levels": 3, "top": 2.0},
    "GeometricSigmas": {"num_levels": 3, "top": 9.0, "bottom": 0.1},
    "ImageArray": {"path": "nowhere"} | DATA,
    "ImageFolder": {"root": "nowhere"} | DATA,
    "IdxImageSet": {"path": "nowhere"},
    "IdxImages": {"path": "nowhere"} | DATA,
    "KarrasSigmas": {"num_levels": 3, "top": 9.0, "bottom": 0.1},
    "KineticLangevin": {"score_sigma": 0.1},
    "ListedSigmas": {"levels": [2.0, 1.0, 0.0]},
    "LocalPrior": lambda: {"network": LocalUNet(widths=[8], down_blocks=[1], up_blocks=[])},
    "MRISlices": {"root": "nowhere"} | DATA,
    "NoAnnealing": {"num_steps": 2},
    "PerturbedPrior": lambda: {"prior": RingPrior(0.1), "error": ShellError(2, 1.0, 0.5, 2.0, 0.1)},
    "Phantoms": DATA,
    "PosteriorSampling": lambda: {"prior": identity(), "sampler": DPS(), "metrics": []},
    "RecordedKSpace": {"root": "nowhere"},
    "RecordedMeasurements": {"root": "nowhere", "image_shape": [3, 32, 32]} | DATA,
    "RescaledPrior": lambda: {"prior": GaussianFieldPrior(**FIELD)},
    "RingPrior": {"width": 0.1},
    "ScoreNetworkPrior": lambda: {"network": torch.nn.Identity(), "sigma_min": 0.01, "sigma_max": 50.0},
    "Photographs": DATA,
    "SceneImages": lambda: {"scene": datamodules.BlackHole()},
    "Scenes": lambda: {"scene": datamodules.BlackHole()} | DATA,
    "ShellError": {"dimension": 4, "radius": 1.0, "width": 0.3, "order": 2.0, "error": 0.1},
    "SongUNet": EDM,
    "SquareImages": {"root": "nowhere", "size": 16, "cache": "nowhere"},
    "SubsampledTransform": {"share": 0.5},
    "ToonFaces": DATA,
    "TrainingImages": lambda: {"training": datamodules.FolderImages("a"), "validation": datamodules.FolderImages("b")},
    "UNet": {
        **{"image_size": 16, "num_channels": 32, "channel_mult": [1, 1], "attention_resolutions": [8]},
        **{"num_heads": 2, "num_head_channels": -1},
    },
}
"""What a class must be given, and what its bent numbers must fit to: by name."""


def named_by_configs() -> list[type]:
    """What a ``class_path`` or a section of a config can name."""
    found = {PosteriorSampling, DenoisingTraining, TrainingLevels}
    for module in (
        posterior.samplers,
        posterior.priors,
        posterior.operators,
        posterior.noise,
        posterior.metrics,
        datamodules,
    ):
        found |= {value for value in vars(module).values() if inspect.isclass(value) and not inspect.isabstract(value)}
    inner = (posterior.operators.Operator, posterior.samplers.Target, posterior.samplers.AnnealedMeasurement)
    others = {"Level", "MixturePosterior", "Cost", "VaryingNoise", "RecordMeans", "MeanOverImages", "KernelWizard"}
    found = {
        c for c in found if c.__module__.split(".")[0] in ("posterior", "datamodules") and not issubclass(c, inner)
    }
    return sorted((c for c in found if c.__name__ not in others), key=lambda c: c.__name__)


def parts(hint: object) -> set[object]:
    """What a type is made of, or itself; the arguments of a Callable, a list, are left out."""
    return {one for one in typing.get_args(hint) if not isinstance(one, list)} or {hint}


def bent(hint: object, usual: object) -> list[object]:
    """Values of a type, nonsense among them; none for what is no number and no list of numbers."""
    kinds = parts(hint)
    if len(kinds) == 2 and type(None) in kinds:
        (hint,) = kinds - {type(None)}
        kinds = parts(hint)
    if typing.get_origin(hint) in (Sequence, list):
        (kind,) = typing.get_args(hint)
        values = bent(kind, None)
        usual = list(usual) if isinstance(usual, (list, tuple)) else []
        lists = [[value, *usual[1:]] for value in values] + [[*usual[:-1], value] for value in values]
        return [*lists, [], [usual[0] if usual else 1] * 100_000] if values else []
    return [*(REALS if float in kinds else []), *(WHOLES if kinds & {int, float} else [])]


def cases() -> list[typing.Any]:
    found = []
    for c in named_by_configs():
        names = {k: v for base in reversed(c.__mro__) for k, v in vars(sys.modules[base.__module__]).items()}
        hints = typing.get_type_hints(c.__init__, names)  # fields are inherited from other modules
        for name, parameter in inspect.signature(c).parameters.items():
            given = {} if callable(NEEDED.get(c.__name__)) else NEEDED.get(c.__name__, {})
            values = bent(hints.get(name), given.get(name, parameter.default))
            if values:
                found.append(pytest.param(c, name, values, id=f"{c.__name__}-{name}"))
    return found


def use(made: object) -> None:
    """What costs little of it."""
    image, generator = torch.zeros(1, 2, 32, 32), stream(0, "a", -1, "operator")
    operator = SuperResolution(2).realise(image.shape[1:])
    measurement = Measurement(operator.forward(image), operator, GaussianNoise(0.5))
    if isinstance(made, SigmaSchedule):
        made.sigmas(), made.below(0.5)
    elif isinstance(made, AnnealingSchedule):
        made.levels(measurement, 1e-3, 0.3)
    elif isinstance(made, NoiseSchedule):
        made.timestep(made.sigmas)
    elif isinstance(made, Likelihood):
        made.sample(measurement.y, torch.randn_like(measurement.y))
        made.annealed(0.1, measurement.y).score(measurement.y, measurement.y)
    elif isinstance(made, OperatorFamily):
        made.realise(image.shape[1:], [generator])
    elif isinstance(made, Prior) and not hasattr(made, "network"):
        x = torch.ones(1, *(getattr(made, "IMAGE_SHAPE", None) or (2, 4, 4)))
        made.score(x, 0.5), made.curvature(0.5)
        made.check_images(x.shape[1:])


@pytest.mark.parametrize(("made", "name", "values"), cases())
def test_every_number_of_every_class_works_or_is_refused_in_one_line(made, name, values):
    refusals: list[str] = []
    for value in values:
        given = NEEDED.get(made.__name__, {})
        settings = (given() if callable(given) else given) | {name: value}
        tracemalloc.start()
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                thing = made(**settings)
                if not isinstance(thing, torch.nn.Module) or sum(p.numel() for p in thing.parameters()) < 25_000_000:
                    use(thing) if value not in (
                        10**6,
                        1_000_000.0,
                    ) else None  # a million is allowed, and takes its time
                else:
                    raise AssertionError(f"{name} = {value!r} makes a large network")
        except UserError as error:
            refusals.append(str(error))
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert time.process_time() - start < 5
        assert peak < 100e6
    assert all("\n" not in line and len(line) < 400 for line in refusals)


def test_the_helpers_name_class_setting_range_and_value():
    whole("A", "n", 3, 1, 3)
    with pytest.raises(UserError, match=r"^A: n must be >= 1 and <= 3, got 4$"):
        whole("A", "n", 4, 1, 3)
    with pytest.raises(UserError, match=r"^A: n must be >= 1 and <= 3, got nan$"):
        whole("A", "n", math.nan, 1, 3)
    for value in (SMALLEST, 1, LARGEST):
        real("A", "x", value, above=0)
    for value in REALS[:3] + REALS[5:]:
        with pytest.raises(UserError, match=r"^A: x must be > 0 and <= 1e\+09.*, got "):
            real("A", "x", value, above=0)
    real("A", "x", 0.0, least=0, below=1)
    with pytest.raises(UserError, match=r"^A: x must be >= 0 and < 1, got 1\.0$"):
        real("A", "x", 1.0, least=0, below=1)
    with pytest.raises(UserError, match="not as small, the smallest being 1e-12, got 1e-320"):
        real("A", "x", 1e-320, least=0)
    with pytest.raises(UserError, match=r"^A: x must be >= -1e\+09 and <= 1e\+09, got -inf$"):
        real("A", "x", -math.inf)
    with pytest.raises(UserError, match=r"^A: x must have 1 to 2 entries, got 3$"):
        length("A", "x", [1, 2, 3], 1, 2)


def test_networks_that_no_machine_holds_are_counted_before_they_are_made():
    settings = {"image_size": 64, "attention_resolutions": [], "learn_sigma": False}
    with pytest.raises(UserError, match=r"these settings make [0-9.e+]+ parameters, more than 1e\+10"):
        UNet(**settings, num_channels=4096, num_res_blocks=4, channel_mult=[1, 2, 4, 8])
    with pytest.raises(UserError, match="image_size 64 is not a multiple of 128, which 8 levels"):
        UNet(**settings, num_channels=32, channel_mult=[1] * 8)
    with pytest.raises(UserError, match="no level has the side 48, which must divide 64"):
        UNet(**settings | {"attention_resolutions": [48]}, num_channels=32, channel_mult=[1])
    with pytest.raises(UserError, match="every level's width must be a multiple of 32"):
        UNet(**settings, num_channels=32, channel_mult=[0.01])


def test_absurd_schedules_are_refused_when_they_are_asked_for_their_levels():
    operator = SuperResolution(2).realise((1, 4, 4))
    measurement = Measurement(torch.zeros(1, 1, 2, 2), operator, GaussianNoise(1e-6))
    start = time.process_time()
    with pytest.raises(UserError, match=r"more than 1000000 levels"):  # at once: not after a million bisections
        AdmissibleAnnealing(alpha=1e-3, radius=100.0).levels(measurement, 1e-3)
    assert time.process_time() - start < 1
    measurement = Measurement(torch.zeros(1, 1, 2, 2), operator, GaussianNoise(1.0))
    with pytest.raises(UserError, match=r"admissible schedule: .* steps of 1e-12, which no chain can make"):
        AdmissibleAnnealing(1.0, 2.0, 0.5, 2.0).levels(measurement, 1e-12)
    with pytest.raises(UserError, match=f"num_levels times steps_per_level must be >= 2 and <= {MOST_STEPS}"):
        GeometricAnnealing(10_000, 2.0, steps_per_level=10_000)
    with pytest.raises(UserError, match="must fall strictly"):
        ListedSigmas([math.nan, 1.0, 0.0])
    for respacing in ("9" * 5000, "ddim" + "9" * 5000, ",".join(["9" * 30] * 5000), "-1,-1", "1e9"):
        with pytest.raises(UserError, match="respacing") as found:
            respaced_timesteps(1000, respacing)
        assert len(str(found.value)) < 200


def test_gaussian_priors_of_nan_are_refused():
    parts = [torch.ones(1), torch.zeros(1, 1, 2, 2), torch.eye(4)[None], torch.ones(1, 4), torch.ones(1)]
    for place in range(5):
        for value in (math.nan, math.inf):
            bad = [part.clone() for part in parts]
            bad[place].view(-1)[0] = value
            with pytest.raises(UserError, match="GaussianMixturePrior"):
                GaussianMixturePrior(*bad)
    for name in FIELD:
        values = [*FIELD[name]]
        values[0] = [math.nan, 0.0] if name == "components" else math.nan
        with pytest.raises(UserError, match="GaussianFieldPrior"):
            GaussianFieldPrior(**FIELD | {name: values})
    with pytest.raises(UserError, match=r"amplitude / cutoff\^exponent must be <= 1e\+18"):
        GaussianFieldPrior(**FIELD | {"cutoff": [1e-12, 0.1], "exponent": [1e8, 1.0]})
