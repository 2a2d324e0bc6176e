import subprocess
import sys

import pytest
import torch

from datamodules import ToonFaces
from datamodules.toon import credit, render_toon_face
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution

pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")


def test_a_face_is_the_same_in_another_process():
    code = "from datamodules.toon import render_toon_face as r; print(r(7, 32)[0].double().sum().item())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(other.stdout) == render_toon_face(7, 32)[0].double().sum().item()


@pytest.mark.parametrize("size", [32, 50, 200])
def test_faces_have_any_size_and_range(size):
    face, options = render_toon_face(3, size)
    assert face.shape == (3, size, size)
    assert face.min() >= -1
    assert face.max() <= 1
    assert face.std() > 0.2
    assert {"skinColor", "hairColor", "eyesVariant", "mouthVariant", "backgroundColor"} <= set(options)


def test_faces_differ():
    faces = torch.stack([render_toon_face(index, 16)[0] for index in range(20)])
    distances = torch.cdist(faces.flatten(1), faces.flatten(1))
    assert distances[~torch.eye(20, dtype=torch.bool)].min() > 1


def test_the_artist_is_credited():
    assert "Johan Melin" in credit()
    assert "CC BY 4.0" in credit()


def test_the_datamodule_serves_them_by_number():
    data = ToonFaces(SuperResolution(4), GaussianNoise(0.05), size=16, start=5, count=2, batch_size=2)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.ids == ["toon_000005", "toon_000006"]
    assert torch.equal(batch.truth[1], render_toon_face(6, 16)[0])
    with pytest.raises(UserError, match="count must be >= 1"):
        ToonFaces(SuperResolution(4), GaussianNoise(0.05), count=0)
