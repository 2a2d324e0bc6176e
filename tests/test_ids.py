import pytest

from posterior import UserError
from posterior.ids import checked, fault, natural, of_name

BAD = ["", ".", "..", "../x", "../../x", "/abs", "a/../b", "a//b", "./a", "a/", "a\nb", "a\0b", "a\x1bb", "a\u2028b"]
BAD += ["a\\b", "C:x", "\udcff", " a", "a /b", "x" * 300, "a/" * 600 + "a", 3, None]


@pytest.mark.parametrize("bad", BAD)
def test_names_that_cannot_be_files_below_the_runs_folder(bad):
    assert fault(bad) is not None
    with pytest.raises(UserError, match="ids become names of files") as caught:
        checked([bad], "x.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("good", ["a", "a/b", "00000/img00000001", "Grün ß 漢字", "a.b", ".hidden", "%2E", "a-b_c=1,2"])
def test_ordinary_names_stay_as_they_are(good):
    assert fault(good) is None
    assert checked([good], "x") == [good]
    assert of_name(f"{good}.png") == good


@pytest.mark.parametrize("pair", [("a", "a"), ("é", "e\u0301"), ("a", "a/measurement.png"), ("a", "a.npy/b")])
def test_ids_that_would_overwrite_each_other(pair):
    with pytest.raises(UserError, match=r"same id|overwrite each other"):
        checked(pair, "x.npz")


def test_ids_sort_as_people_expect():
    ids = ["img_10", "img_9", "img_1", "b/2", "b/10", "a"]
    assert checked(ids, "x") == ["a", "b/2", "b/10", "img_1", "img_9", "img_10"]
    assert sorted(["10", "9", "09", "x"], key=natural)[-2:] == ["10", "x"]


@pytest.mark.parametrize("name", ["caf\udce9.png", "a\nb.png", "back\\slash.png", " x .png", "y" * 250 + ".png"])
def test_files_with_odd_names_get_ids_that_can_be_written(name):
    image_id = of_name(name)
    assert fault(image_id) is None
    assert image_id != of_name("x.png")
