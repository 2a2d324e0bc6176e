import os
import sys

from posterior.settings import Folders, code_digests, file_digests, module_digests


def test_files_are_known_by_content_and_not_by_time(tmp_path):
    path, folder = tmp_path / "a.npy", tmp_path / "b"
    path.write_bytes(b"one"), folder.mkdir(), (folder / "x.png").write_bytes(b"two")
    settings = {"m": {"mask": str(path), "list": [str(folder)], "none": None, "text": "ellipses", "n": 3}}
    before = file_digests(settings)
    assert before.keys() == {"m.mask", "m.list[0]"}
    os.utime(path, (1, 1))
    assert file_digests(settings) == before
    path.write_bytes(b"ONE")
    after = file_digests(settings)
    assert after["m.mask"] != before["m.mask"]
    assert after["m.list[0]"] == before["m.list[0]"]
    assert file_digests(settings, folders=Folders.NONE).keys() == {"m.mask"}


def test_a_folder_is_known_by_its_inputs_and_not_by_results_in_it(tmp_path):
    (tmp_path / "x.png").write_bytes(b"two")
    before = {counts: file_digests(str(tmp_path), "r", counts) for counts in Folders}
    (tmp_path / "run" / "images").mkdir(parents=True)
    (tmp_path / "run" / "record.json").write_text("{}"), (tmp_path / "run" / "images" / "y.png").write_bytes(b"y")
    (tmp_path / ".hidden.png").write_bytes(b"z"), (tmp_path / "table.csv").write_text("1")
    for counts in (Folders.NAMES, Folders.CONTENT):
        assert file_digests(str(tmp_path), "r", counts) == before[counts]
    (tmp_path / "weights.bin").write_bytes(b"w")
    assert file_digests(str(tmp_path), "r", Folders.ALL) != before[Folders.ALL]
    (tmp_path / "x.png").write_bytes(b"TWO")
    assert file_digests(str(tmp_path), "r", Folders.CONTENT) != before[Folders.CONTENT]
    assert file_digests(str(tmp_path), "r", Folders.NAMES) == before[Folders.NAMES]
    (tmp_path / "y.png").write_bytes(b"two")
    assert file_digests(str(tmp_path), "r", Folders.NAMES) != before[Folders.NAMES]


def test_code_of_others_is_known_with_the_helpers_that_it_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "code_helper.py").write_text("scale = 1\n")
    (tmp_path / "code_named.py").write_text("import code_helper\n")
    __import__("code_named")
    before = code_digests({"sampler": {"class_path": "code_named.X"}})
    assert {"code_named", "code_helper"} <= before.keys()
    assert not any(name.split(".")[0] in ("posterior", "torch") for name in before)
    (tmp_path / "code_helper.py").write_text("scale = 2  # edited\n")
    after = code_digests({"sampler": {"class_path": "code_named.X"}})
    assert after["code_helper"] != before["code_helper"]
    assert after["code_named"] == before["code_named"]
    for name in ("code_named", "code_helper"):
        sys.modules.pop(name)


def test_a_linked_folder_counts_as_it_is_taken(tmp_path):
    (tmp_path / "far").mkdir(), (tmp_path / "root").mkdir()
    (tmp_path / "far" / "x.png").write_bytes(b"one")
    (tmp_path / "root" / "sub").symlink_to(tmp_path / "far")
    before = file_digests(str(tmp_path / "root"), "r")
    (tmp_path / "far" / "x.png").write_bytes(b"two")
    assert file_digests(str(tmp_path / "root"), "r") != before


def test_the_code_around_a_class_is_known_without_importing_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unseen.py").write_text("raise SystemExit('imported')")
    before = module_digests({"class_path": "unseen.X"})
    assert module_digests({"class_path": "posterior.samplers.DPS"}) == {}
    (tmp_path / "helper_of_unseen.py").write_text("")
    assert module_digests({"class_path": "unseen.X"}) != before
    assert code_digests({"class_path": "posterior.samplers.DPS"}) == {}
