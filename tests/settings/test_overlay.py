import pytest

from posterior import UserError
from posterior.settings import Given, read_command_line, read_settings


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def config(tmp_path):
    write(tmp_path / "parts" / "dps.yaml", "{class_path: DPS, init_args: {scale: 1.0, steps: 7}}")
    return write(
        tmp_path / "run.yaml",
        "model: {sampler: {class_path: Langevin, init_args: {step: 0.1, steps: 5}}, prior: parts/dps.yaml}\n"
        "data: {class_path: Folder, init_args: {root: x}}\n",
    )


def settings(config, *options):
    return read_command_line(["--config", str(config), *options])[0]


def test_files_are_read_in_relative_to_the_file_that_names_them(config):
    assert settings(config)["model"]["prior"]["init_args"] == {"scale": 1.0, "steps": 7}


@pytest.mark.parametrize("how", ["--model.sampler=DPS", "--model.sampler.class_path=DPS"])
def test_a_replaced_part_starts_from_its_own_defaults(config, how):
    assert settings(config, how)["model"]["sampler"] == {"class_path": "DPS"}
    changed = settings(config, how, "--model.sampler.scale", "2")["model"]["sampler"]
    assert changed == {"class_path": "DPS", "init_args": {"scale": "2"}}


def test_the_same_class_named_again_keeps_its_settings_and_is_vouched_for(config):
    found = settings(config, "--model.sampler", "Langevin")
    assert found == settings(config)
    assert isinstance(found["model"]["sampler"]["class_path"], Given)


def test_a_replaced_part_in_brackets_or_from_a_file_replaces_all(config, tmp_path):
    path = str(tmp_path / "parts" / "dps.yaml")
    for how in (path, "{class_path: DPS, init_args: {scale: 1.0, steps: 7}}"):
        found = settings(config, "--model.sampler", how)["model"]["sampler"]
        assert found == {"class_path": "DPS", "init_args": {"scale": 1.0, "steps": 7}}


def test_a_later_config_with_another_class_keeps_nothing_of_the_one_before(config, tmp_path):
    other = write(tmp_path / "other.yaml", "model: {sampler: {class_path: DPS, init_args: {scale: 3}}}")
    found = settings(config, "--config", str(other))
    assert found["model"]["sampler"] == {"class_path": "DPS", "init_args": {"scale": 3}}
    assert found["data"]["init_args"] == {"root": "x"}


def test_options_are_laid_over_in_order_and_init_args_may_be_left_out(config):
    for option in ("--model.sampler.init_args.step", "--model.sampler.step"):
        found = settings(config, option, "0.2")["model"]["sampler"]
        assert found == {"class_path": "Langevin", "init_args": {"step": "0.2", "steps": 5}}
        assert isinstance(found["init_args"]["step"], Given)
    assert settings(config, "--model.metrics+", "A", "--model.metrics+=B")["model"]["metrics"] == ["A", "B"]
    assert settings(config, "--model.sampler", "null")["model"]["sampler"] == "null"


def test_from_is_a_file_with_settings_laid_over_it(config, tmp_path):
    path = write(tmp_path / "x.yaml", "{from: parts/dps.yaml, init_args: {scale: 2.0}}")
    assert read_settings(path) == {"class_path": "DPS", "init_args": {"scale": 2.0, "steps": 7}}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["junk"], "'junk' stands where an option is expected"),
        (["--data.limit"], "--data.limit needs a value"),
        (["--data.limit", "--model.x", "1"], "--data.limit needs a value"),
        (["--", "x"], "stands where an option is expected"),
        (["--a..b", "1"], "is no option"),
        (["-x", "1"], "is no option"),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--model.sampler", "[1"], "--model.sampler, line 1"),
        (["--debug=1"], "--debug takes no value"),
    ],
)
def test_options_that_are_none(config, options, told):
    with pytest.raises(UserError) as caught:
        settings(config, *options)
    assert told in str(caught.value)


def test_files_that_name_each_other_in_a_circle(tmp_path):
    write(tmp_path / "a.yaml", "x: b.yaml"), write(tmp_path / "b.yaml", "y: a.yaml")
    with pytest.raises(UserError, match="lead back to itself"):
        read_settings(tmp_path / "a.yaml")


def test_a_file_that_is_no_mapping(tmp_path):
    with pytest.raises(UserError, match="must be a mapping"):
        settings(write(tmp_path / "x.yaml", "[1, 2]"))
