"""A path in a file of settings starts from that file, then from the working directory; names stand for what ships."""

import json
from pathlib import Path

import pytest

from posterior import UserError
from posterior.priors import Prior
from posterior.settings import conformed, file_digests, read_command_line, read_settings, with_files_read
from posterior.shipped import CONFIGS


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def takes(checkpoint: Path, root: Path = Path(), name: str = "", images: Path | None = None) -> None:
    """The settings of a part."""


def checked(settings):
    return conformed({"model": settings}, {"model": takes})["model"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, next to a folder with settings and weights."""
    write(tmp_path / "far" / "run.yaml", "{checkpoint: w.pt, root: ../pictures, name: w.pt, images: null}")
    write(tmp_path / "far" / "w.pt", "beside"), write(tmp_path / "pictures" / "a.png")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_what_stands_beside_the_file_is_found_from_anywhere(here, tmp_path):
    found = checked(read_settings(tmp_path / "far" / "run.yaml"))
    assert found["checkpoint"] == str(tmp_path / "far" / "w.pt")
    assert found["root"] == str(tmp_path / "pictures")
    assert found["name"] == "w.pt"  # text is no path
    assert found["images"] is None


def test_what_lies_below_the_working_directory_is_named_from_there(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = checked(read_settings(tmp_path / "far" / "run.yaml"))
    assert (found["checkpoint"], found["root"]) == ("far/w.pt", "pictures")


def test_else_the_working_directory_counts(here, tmp_path):
    write(here / "own.pt")
    path = write(tmp_path / "far" / "b.yaml", "{checkpoint: own.pt, root: nowhere, images: /nowhere}")
    found = checked(read_settings(path))
    assert (found["checkpoint"], found["root"], found["images"]) == ("own.pt", "nowhere", "/nowhere")


def test_the_file_that_is_there_twice_is_the_one_beside_with_a_word(here, tmp_path):
    write(here / "w.pt", "here")
    with pytest.warns(UserWarning, match=r"model\.checkpoint: w\.pt is there twice: .*far/w\.pt is taken"):
        found = checked(read_settings(tmp_path / "far" / "run.yaml"))
    assert found["checkpoint"] == str(tmp_path / "far" / "w.pt")


def test_the_command_line_speaks_of_the_working_directory(here, tmp_path):
    config = str(tmp_path / "far" / "run.yaml")
    settings, _ = read_command_line(["--config", config, "--checkpoint", "w.pt", "--root=../pictures"])
    found = checked(settings)
    assert (found["checkpoint"], found["root"]) == ("w.pt", "../pictures")


def test_output_is_of_the_working_directory_wherever_it_is_said(here, tmp_path):
    (tmp_path / "far" / "results").mkdir()
    path = write(tmp_path / "far" / "o.yaml", "{output: {checkpoint: results}}")
    assert conformed(read_settings(path), {"output": takes})["output"]["checkpoint"] == "results"


def test_fragments_have_paths_of_their_own_and_are_found_everywhere(here, tmp_path):
    write(tmp_path / "far" / "parts" / "one.yaml", "{checkpoint: two.pt}"), write(tmp_path / "far" / "parts" / "two.pt")
    write(here / "of_here.yaml", "{checkpoint: three.pt}"), write(here / "three.pt")
    path = write(
        tmp_path / "far" / "c.yaml",
        "a: parts/one.yaml\nb: of_here.yaml\nc: configs/sampler/dps.yaml\nd: sampler/dps\ne: {from: parts/one.yaml}\n",
    )
    found = read_settings(path)
    assert [checked(found[key])["checkpoint"] for key in "abe"] == [
        str(tmp_path / "far" / "parts" / "two.pt"),
        "three.pt",
        str(tmp_path / "far" / "parts" / "two.pt"),
    ]
    assert found["c"] == found["d"] == read_settings(CONFIGS / "sampler" / "dps.yaml")


def test_a_file_within_a_linked_folder_is_the_one_that_the_system_finds(here, tmp_path):
    write(tmp_path / "real" / "deep" / "x.yaml", "{checkpoint: ../w.pt}"), write(tmp_path / "real" / "w.pt")
    (tmp_path / "far" / "link").symlink_to(tmp_path / "real" / "deep")
    found = checked(read_settings(tmp_path / "far" / "link" / "x.yaml"))
    assert found["checkpoint"] == str(tmp_path / "real" / "w.pt")


@pytest.mark.parametrize(
    "name",
    ["demo/super_resolution_kinetic", "configs/demo/super_resolution_kinetic", "demo/super_resolution_kinetic.yaml"],
)
def test_a_shipped_name_is_a_file_of_settings(here, name):
    found = read_command_line(
        ["--config", name, "--model.sampler", "sampler/dps", "--data.operator=operator/box_inpainting"]
    )[0]
    assert found["model"]["sampler"]["class_path"] == "posterior.samplers.DPS"
    assert found["data"]["init_args"]["operator"]["init_args"]["box"] == 128


def test_a_file_of_the_users_wins_and_so_does_a_folder_where_a_path_is_wanted(here):
    write(here / "demo" / "super_resolution_kinetic.yaml", "{checkpoint: mine}")
    for name in ("demo/super_resolution_kinetic", "demo/super_resolution_kinetic.yaml"):
        assert read_command_line(["--config", name])[0] == {"checkpoint": "mine"}
    (here / "sampler" / "dps").mkdir(parents=True)
    assert checked(read_command_line(["--checkpoint", "sampler/dps"])[0])["checkpoint"] == "sampler/dps"
    written = conformed(
        {"output": read_command_line(["--checkpoint", "sampler/mcg"])[0]}, {"output": takes}
    )  # a folder that will be made
    assert written["output"]["checkpoint"] == "sampler/mcg"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config", "demo/super_resolution_kinetik"], "does not exist: did you mean demo/super_resolution_kinetic"),
        (["--config", "kinetic_toon32"], "does not exist: did you mean sampler/kinetic_toon32?"),
        (["--config", "nothing/like/it"], "file of settings nothing/like/it does not exist"),
        (["--config", "."], "is a folder, not a file"),
    ],
)
def test_a_name_that_does_not_ship_is_one_line(here, arguments, told):
    with pytest.raises(UserError) as caught:
        read_command_line(arguments)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("named", ["sampler/kinetic_tooon32", "configs/sampler/kinetic_tooon32.yaml"])
def test_a_part_whose_name_does_not_ship_is_one_line_too(here, tmp_path, named):
    from lightning_cli import PREDICT_PARTS

    settings = read_command_line(["--config", "demo/super_resolution_dps", "--model.sampler", named])[0]
    with pytest.raises(UserError, match=r"model\.sampler: the file of settings .* did you mean sampler/kinetic_toon32"):
        conformed(settings, PREDICT_PARTS)
    if named.endswith(".yaml"):
        with pytest.raises(UserError, match=r"is not there .* did you mean sampler/kinetic_toon32"):
            read_settings(write(tmp_path / "x.yaml", f"{{sampler: {named}}}"))


def test_what_a_run_has_written_into_its_folder_has_the_paths_of_its_start(here, tmp_path):
    run = tmp_path / "run"
    write(run / "config.yaml", "{checkpoint: w.pt, root: images}"), write(run / "images" / "x.png")
    write(run / "record.json", json.dumps({"started_in": str(tmp_path / "far")}))
    found = checked(read_settings(run / "config.yaml"))
    assert found["checkpoint"] == str(tmp_path / "far" / "w.pt")
    assert found["root"] == "images"  # not the pictures that the run has made
    for record in ("{}", "[]", "{"):  # of a version that did not note it, or damaged
        write(run / "record.json", record)
        assert checked(read_settings(run / "config.yaml"))["root"] == "images"


def test_settings_of_the_dps_code_start_from_the_working_directory(here, tmp_path):
    """Their folder has pictures of the run under the name that those of the data may have."""
    path = write(tmp_path / "run" / "from_dps.yaml", "{checkpoint: w.pt, root: images}")
    write(tmp_path / "run" / "images" / "x.png"), write(here / "w.pt")
    found = checked(read_settings(path))
    assert (found["checkpoint"], found["root"]) == ("w.pt", "images")


def test_content_is_that_of_the_file_that_is_meant(here, tmp_path):
    settings = read_settings(tmp_path / "far" / "run.yaml")
    before = file_digests(settings)
    assert "checkpoint" in before
    write(here / "other.pt"), write(tmp_path / "far" / "w.pt", "edited")
    assert file_digests(settings)["checkpoint"] != before["checkpoint"]


def test_commands_of_functions_take_names_too(here):
    def of_function(prior: Prior, output: Path, text: str = "") -> None: ...

    named = ["--prior", "prior/mixture_toon32", "--output", "sampler/dps", "--text=sampler/dps"]
    found = with_files_read(named, of_function)
    assert found[2:] == named[2:]
    assert json.loads(found[1])["init_args"]["path"] == str(CONFIGS / "prior" / "mixture_toon32.safetensors")
    assert with_files_read([f"--prior={named[1]}"], of_function) == [f"--prior={found[1]}"]
    for wrong in ("sampler/dpss", "nowhere.yaml"):
        with pytest.raises(UserError, match=r"prior: the file of settings .* does not exist"):
            with_files_read(["--prior", wrong], of_function)
    assert with_files_read(["--prior", "{class_path: a/b}"], of_function) == ["--prior", "{class_path: a/b}"]
