import os

import pytest

from posterior import UserError
from posterior.settings import load_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("{a: 5.0e-7, b: .inf}", {"a": 5.0e-7, "b": float("inf")}),
        ("[010, 1:30, 0x1F, 0o17, -7]", [10, "1:30", 31, 15, -7]),
        ("2024-01-01", "2024-01-01"),
        ("&x {a: 1}", {"a": 1}),
        ("[&x {a: 1}, *x]", [{"a": 1}, {"a": 1}]),
        ("!!python/tuple [1, [2]]", [1, [2]]),
        ("", None),
    ],
)
def test_plain_data_are_read_with_numbers_as_yaml_1_2_writes_them(text, value):
    assert load_yaml(text, "x.yaml") == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: 'a' stands there twice"),
        ("&a [*a]", "*a holds itself"),
        ("[" * 10_000, "more than 50 levels deep"),
        ("{a: " * 10_000, "more than 50 levels deep"),
        ("- " * 10_000 + "x", "more than 50 levels deep"),
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
        ), "more than 100000 entries"),
        ("a: " + "1" * 5_000, "no YAML that can be read"),
        ("!!python/object/apply:os.system [ls]", "only plain data is read"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed"),
        ("a: *nothing", "undefined alias"),
        ("a\tb: [", "line 1"),
        ("a: 1\n---\nb: 2", "another document"),
        ("\0", "special characters are not allowed"),
    ],
)  # fmt: skip
def test_what_is_no_settings_is_one_line(text, told):
    with pytest.raises(UserError) as caught:
        load_yaml(text, "x.yaml")
    assert told in str(caught.value)
    assert str(caught.value).startswith("x.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_named(tmp_path, encoding):
    (tmp_path / "x.yaml").write_bytes("a: grün".encode(encoding))
    with pytest.raises(UserError, match=r"x\.yaml is (UTF-16|not UTF-8) text: save it as UTF-8"):
        read_yaml(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_bytes("a: grün".encode("utf-8-sig"))
    assert read_yaml(tmp_path / "x.yaml") == {"a": "grün"}


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_text("#" * 5_000_000)
    told = {"pipe": "is a pipe", "loop": "lead in a circle", "folder": "is a folder", "none": "does not exist"}
    for name, text in (told | {"large": "more than 4 MiB"}).items():
        with pytest.raises(UserError, match=text):
            read_yaml(tmp_path / f"{name}.yaml")
