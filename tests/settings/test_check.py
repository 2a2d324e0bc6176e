import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import datamodules
import posterior.metrics
import posterior.noise
import posterior.operators
import posterior.priors
import posterior.samplers
from lightning_cli import FIT_PARTS, PREDICT_PARTS, TRAINER_PARTS
from posterior import UserError
from posterior.samplers import Sampler
from posterior.settings import Given, conformed, named_classes
from posterior.settings.check import Conformer, hints_of

PRIOR = {"class_path": "posterior.priors.GaussianFieldPrior.from_folder", "init_args": {"root": "x"}}
SAMPLER = {"class_path": "posterior.samplers.ExactGaussian"}
DATA = {
    "class_path": "datamodules.ImageFolder",
    "init_args": {
        "root": "x",
        "operator": {"class_path": "posterior.operators.SuperResolution"},
        "likelihood": {"class_path": "posterior.noise.GaussianNoise"},
    },
}


def run(**changes):
    settings = {"model": {"prior": PRIOR, "sampler": SAMPLER}, "data": DATA, "output": {"dir": "y"}}
    for key, value in changes.items():
        place, *path = settings, *key.split("__")
        for part in path[:-1]:
            place[part] = dict(place[part])
            place = place[part]
        place[path[-1]] = value
    return conformed(settings, PREDICT_PARTS | TRAINER_PARTS)


def complaint(**changes):
    with pytest.raises(UserError) as caught:
        run(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_settings_pass_in_plain_values():
    found = run(
        model__num_samples=Given("4"), model__sampler=Given("ExactGaussian"), output__save_samples=Given("true")
    )
    assert found["model"]["num_samples"] == 4
    assert found["model"]["sampler"] == {"class_path": "posterior.samplers.ExactGaussian"}
    assert found["output"] == {"dir": "y", "save_samples": True}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model__num_samples": "many"}, "model.num_samples: expected a whole number, got the text 'many'"),
        ({"model__num_samples": 1.5}, "model.num_samples: expected a whole number, got 1.5"),
        ({"model__num_samples": True}, "expected a whole number, got true"),
        ({"model__num_samples": 10**5000}, "a whole number of at most 64 bits, got a number of about 5000 digits"),
        ({"model__num_samples": None}, "expected a whole number, got null"),
        ({"model__sampel": 1}, "model.sampel: PosteriorSampling has no such setting: did you mean sampler?"),
        ({"output__dir": ""}, "output.dir: expected a path, got an empty text"),
        ({"output__dir": ["a"]}, "output.dir: expected a path, got a list of 1"),
        ({"output__save_samples": "maybe"}, "expected true or false, got the text 'maybe'"),
        ({"model__metrics": "posterior.metrics.PSNR"}, "expected a list"),
        ({"model__prior": None}, "model.prior: expected a Prior (class_path and init_args), got null"),
        ({"model__prior": {}}, "model.prior: class_path is missing: which a Prior"),
        (
            {"model__sampler": {"class_path": "posterior.samplers.DPSS"}},
            "no DPSS: did you mean posterior.samplers.DPS?",
        ),
        ({"model__sampler": {"class_path": "posterior.priors.UNet"}}, "posterior.priors.UNet is no Sampler; there are"),
        ({"model__sampler": {"class_path": "os.system"}}, "os.system is of Python itself"),
        ({"model__sampler": {"class_path": "antigravity.x"}}, "of Python itself"),
        ({"model__sampler": {"class_path": "nowhere.X"}}, "there is no module nowhere"),
        ({"model__sampler": {"class_path": "a..b"}}, "there is no class 'a..b'"),
        ({"model__sampler": {"class_path": 3}}, "class_path: expected the path of a class, got 3"),
        ({"model__sampler": SAMPLER | {"scale": 3}}, "'scale' stands beside class_path"),
        ({"model__sampler": {"class_path": "posterior.samplers.Sampler"}}, "is a base class, name one of its kind"),
        ({"model__sampler": "nowhere.yaml"}, "the file of settings nowhere.yaml does not exist"),
        ({"model__sampler": {"class_path": "DPS", "init_args": {"scael": 1}}}, "no such setting: did you mean scale?"),
        ({"model__sampler": {"class_path": "AnnealedLangevin"}}, "step_size is missing: AnnealedLangevin needs it"),
        ({"trainer": {"devicse": 1}}, "trainer.devicse: Trainer has no such setting: did you mean devices?"),
        ({"modell": 3}, "modell: there is no such setting: did you mean model?"),
    ],
)  # fmt: skip
def test_complaints_are_in_the_users_words(changes, told):
    line = complaint(**changes)
    assert told in line
    assert "Union" not in line
    assert "NoneType" not in line


@pytest.mark.parametrize(
    ("reverse", "told"),
    [
        ([], "expected a ReverseDiffusion (class_path and init_args), got a list of 0"),
        ("", "got an empty text"),
        ({"class_path": "ReverseDiffusion", "init_args": {"stepp": {}}}, "stepp: ReverseDiffusion has no such setting"),
        ({"class_path": "ReverseDiffusion", "init_args": {"schedule": {}}}, "schedule: class_path is missing"),
    ],
)
def test_settings_that_a_class_inherits_from_another_module_are_checked_too(reverse, told):
    sampler = {"class_path": "AnnealedLangevin", "init_args": {"step_size": 0.1, "reverse": reverse}}
    assert told in complaint(model__sampler=sampler)


def test_all_types_of_our_own_classes_are_known():
    for room in (
        posterior.samplers,
        posterior.priors,
        posterior.operators,
        posterior.noise,
        posterior.metrics,
        datamodules,
    ):
        for cls in filter(inspect.isclass, vars(room).values()):
            if cls.__module__.startswith(("posterior", "datamodules")):
                hints = hints_of(cls.__init__, cls)
                for name in list(inspect.signature(cls.__init__).parameters)[1:]:
                    if name not in ("args", "kwargs"):
                        assert hints.get(name, Any) is not Any, f"{cls}.{name}"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("CSVLogger", {"class_path": "pytorch_lightning.loggers.CSVLogger"}),
    ],
)
def test_a_word_is_no_class_where_it_can_be_something_else(given, found):
    logger = {"class_path": Given(given), "init_args": {"save_dir": "x"}} if given == "CSVLogger" else Given(given)
    value = run(trainer={"logger": logger})["trainer"]["logger"]
    assert value == (found if not isinstance(found, dict) else found | {"init_args": {"save_dir": "x"}})


def test_what_is_missing_altogether():
    with pytest.raises(UserError, match=r"data is missing: a MeasuredData .* there are .*datamodules.ImageFolder"):
        conformed({"model": {"prior": PRIOR, "sampler": SAMPLER}, "output": {"dir": "y"}}, PREDICT_PARTS)
    with pytest.raises(UserError, match=r"model\.prior is missing: DenoisingTraining needs it"):
        conformed({}, FIT_PARTS)


@dataclass(frozen=True)
class Odd(Sampler):
    """A user's sampler with settings of many kinds."""

    kind: Literal["fast", "slow"] = "fast"
    sizes: tuple[int, int] = (1, 2)
    table: dict[str, float] | None = None
    file: Path | None = None
    step: int | str = 1
    inner: Sampler | None = None
    function: Callable[[int], Any] | None = None

    def __call__(self, prior, measurement, rng, observe=lambda *state: None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("kind", Given("slow"), "slow"),
        ("sizes", Given("[3, 4]"), [3, 4]),
        ("table", {"a": 1}, {"a": 1.0}),
        ("file", Given("null"), None),
        ("file", Given("2024"), "2024"),
        ("step", Given("ddim20"), "ddim20"),
        ("step", Given("20"), 20),
        ("function", Given("torch.sqrt"), "torch.sqrt"),
        ("function", "torch.squirt", "function: torch has no squirt: did you mean torch.sqrt?"),
        ("function", "nowhere.f", "function: there is no module nowhere for nowhere.f"),
        ("function", "torch.pi", "function: torch.pi is no function"),
        ("kind", "fats", "expected one of fast, slow: did you mean fast?, got the text 'fats'"),
        ("sizes", [1, 2, 3], "expected a list of 2 values, got a list of 3"),
        ("table", {"a": "x"}, "table.a: expected a number, got the text 'x'"),
        ("inner", 3, "expected a Sampler (class_path and init_args), got 3"),
    ],
)
def test_types_of_many_kinds(name, value, found):
    spec = {"class_path": f"{__name__}.Odd", "init_args": {name: value}}
    if isinstance(found, str) and found.startswith(("expected", "table.", "function:")):
        with pytest.raises(UserError) as caught:
            Conformer(allow_local=True).parameters({name: value}, Odd.__init__, "sampler")
        assert found in str(caught.value)
    else:
        assert Conformer().parameters(spec["init_args"], Odd.__init__, "sampler") == {name: found}


def test_local_code_is_not_imported_unless_allowed(tmp_path, monkeypatch):
    (tmp_path / "strange_module.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom posterior.samplers import DPS\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"class_path": "strange_module.DPS", "init_args": {"schedule": Given("RespacedSigmas")}}
    settings = {"model": {"prior": PRIOR, "sampler": spec}, "data": DATA, "output": {"dir": "y"}}
    with pytest.raises(UserError, match=r"strange_module\.py\)\. If you trust it, say --allow-local"):
        conformed(settings, PREDICT_PARTS)
    assert not (tmp_path / "ran").exists()
    named = {"model": {"prior": PRIOR, "sampler": spec | {"class_path": Given("strange_module.DPS")}}}
    conformed(settings | named, PREDICT_PARTS)
    assert (tmp_path / "ran").exists()
    conformed(settings, PREDICT_PARTS, allow_local=True)


@pytest.mark.parametrize("hook", ["strange_hook.run", "os.system"])
def test_functions_that_a_third_partys_class_takes_are_looked_at_too(tmp_path, monkeypatch, hook):
    (tmp_path / "strange_hook.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n\ndef run(*args): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    callback = {"class_path": "pytorch_lightning.callbacks.LambdaCallback", "init_args": {"on_predict_start": hook}}
    settings = {"model": {"prior": PRIOR, "sampler": SAMPLER}, "data": DATA, "output": {"dir": "y"}}
    with pytest.raises(UserError, match=r"say --allow-local|of Python itself"):
        conformed(settings | {"trainer": {"callbacks": [callback]}}, PREDICT_PARTS | TRAINER_PARTS)
    assert not (tmp_path / "ran").exists()
    assert any(path == hook for _, path in named_classes({"callbacks": [callback]}))


def test_classes_named_by_plain_text_are_listed(tmp_path, monkeypatch):
    (tmp_path / "strange_text.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = dict(named_classes({"model": {"sampler": "strange_text.X"}, "data": {"root": "faces.png"}}))
    assert found == {"model.sampler": "strange_text.X"}
