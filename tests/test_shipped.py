"""The command `configs`, and the names that it lists."""

from __future__ import annotations

import pytest

from posterior import UserError
from posterior.shipped import CONFIGS, configs, listing, shipped, shipped_file


def test_every_file_has_one_line_under_its_folder():
    lines = listing().splitlines()
    assert (
        len([line for line in lines if line.startswith("  ")]) == len(shipped()) == len(list(CONFIGS.rglob("*.yaml")))
    )
    start = lines.index("sampler/")
    assert any(line.split()[0] == "dps" and "ancestral steps" in line for line in lines[start + 1 : start + 12])
    assert max(map(len, lines)) <= 120
    assert all(len(line.split()) > 1 for line in lines if line.startswith("  "))


def test_a_name_may_have_its_folder_and_ending():
    for text in ("prior/toon_faces32", "configs/prior/toon_faces32.yaml", "./configs/prior/toon_faces32"):
        assert shipped_file(text) == CONFIGS / "prior" / "toon_faces32.yaml"
    assert shipped_file("toon_faces32") is None


def test_show_prints_the_file(capsys):
    configs(["show", "sampler/dps"])
    assert capsys.readouterr().out == (CONFIGS / "sampler" / "dps.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "toon_faces32"], "did you mean prior/toon_faces32 or train/toon_faces32?"),
        (["show", "zzz"], "'zzz' ships: posterior-sampling configs lists them"),
        (["show"], "it is `configs`, or `configs show NAME`"),
        (["sampler/dps"], "it is `configs`, or `configs show NAME`"),
    ],
)
def test_what_is_not_there_is_one_line(arguments, told):
    with pytest.raises(UserError) as caught:
        configs(arguments)
    assert told in str(caught.value)
