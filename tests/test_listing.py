import os
import zipfile

import pytest

from posterior import UserError
from posterior.listing import list_files


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(root, extensions=(".png",)):
    return list_files(root, set(extensions), "image")


def test_what_is_no_input_is_left_out_and_counted(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "._a.png", tmp_path / ".ipynb_checkpoints" / "a.png", tmp_path / "notes.txt")
    touch(tmp_path / ".thumbnails" / "x.png", tmp_path / "b" / "c.PNG", tmp_path / "README")
    found = listed(tmp_path)
    assert list(found.files) == ["a", "b/c"]
    assert found.left_out == {"hidden": 3, ".txt": 1, "without extension": 1}
    assert found.told() == "2 files taken; left out: 3 hidden, 1 .txt, 1 without extension"


@pytest.mark.parametrize("left", ["record.json", "journal/rank0.jsonl", "journal/sessions.jsonl"])
def test_a_run_never_takes_its_own_results(tmp_path, left):
    touch(tmp_path / "a.png", tmp_path / "results" / "run" / left, tmp_path / "results" / "run" / "images" / "a.png")
    found = listed(tmp_path)
    assert list(found.files) == ["a"]
    assert found.left_out["folder of a run"] == 1
    with pytest.raises(UserError, match="is the folder of a run: name the folder of its inputs"):
        listed(tmp_path / "results" / "run")


def test_links_lead_nowhere_twice(tmp_path):
    root, far = tmp_path / "in" / "root", tmp_path / "far"
    touch(root / "a.png", root / "sub" / "b.png", far / "c.png")
    (root / "up").symlink_to(tmp_path / "in")
    (root / "here").symlink_to(root)
    (root / "sub" / "again").symlink_to(root / "sub")
    (root / "0far").symlink_to(far), (root / "zfar").symlink_to(far)
    (root / "copy.png").symlink_to(root / "a.png")
    (root / "one.png").symlink_to(far / "c.png")
    (root / "nothing.png").symlink_to(tmp_path / "nothing")
    (root / "loop").symlink_to(root / "loop")
    found = listed(root)
    assert list(found.files) == ["0far/c", "a", "nothing", "sub/b"]  # a link to nothing is an input that fails
    assert found.left_out == {
        "folder that counts already": 4,
        "link to a file that counts already": 2,
        "without extension": 1,
    }


def test_a_linked_folder_and_a_folder_of_links_are_read(tmp_path):
    touch(tmp_path / "far" / "x.png", tmp_path / "far" / "y.png"), (tmp_path / "root").mkdir()
    for name in "xy":
        (tmp_path / "root" / f"{name}.png").symlink_to(tmp_path / "far" / f"{name}.png")
    assert list(listed(tmp_path / "root").files) == ["x", "y"]
    (tmp_path / "link").symlink_to(tmp_path / "far")
    assert list(listed(tmp_path / "link").files) == ["x", "y"]


def test_a_single_file_will_do(tmp_path):
    touch(tmp_path / "a.png")
    assert listed(tmp_path / "a.png").files == {"a": tmp_path / "a.png"}
    with pytest.raises(UserError, match=r"a\.png holds no image file \(\.npy\)"):
        listed(tmp_path / "a.png", [".npy"])


def test_folders_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    touch(tmp_path / "a.png", tmp_path / "closed" / "b.png")
    scan = os.scandir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"closed cannot be read \(Permission denied\): make it readable"):
        listed(tmp_path)


def test_what_is_no_folder_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "loop", "nowhere", "x.zip", "a" * 300, "nul\0"):
        with pytest.raises(UserError):
            listed(tmp_path / name)


def test_hidden_members_of_a_zip_are_left_out_as_hidden_files_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in (
            "b/a.png",
            ".hidden/a.png",
            "b/._a.png",
            "__MACOSX/b/a.png",
            "labels.json",
            "img_10.png",
            "img_9.png",
        ):
            archive.writestr(name, b"x")
    found = listed(tmp_path / "x.zip")
    assert list(found.files) == ["b/a", "img_9", "img_10"]
    assert found.left_out == {"hidden": 3, ".json": 1}


def test_names_of_any_kind_have_ids(tmp_path):
    for name in (b"caf\xe9.png", b"line\nbreak.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    assert list(listed(tmp_path).files) == ["caf%E9", "line%0Abreak"]
