import numpy as np
import pytest

from benchmarks.machine.pipeline import Findings, pipeline
from benchmarks.matrix.reference_features import reference_features
from posterior import UserError
from posterior.metrics import Inception, VGG16Pixels
from posterior.metrics.features import read_features
from tests.test_cli import write_images


def test_the_pipeline_is_taken_apart(tmp_path, capsys):
    found = pipeline(num_images=24, size=32, batch_size=4, num_workers=0, output=tmp_path)
    assert found.images_per_second > 0
    assert all(seconds > 0 for seconds in found.stages.values())
    assert 24 * sum(found.stages.values()) < found.seconds
    assert [done for done, _ in found.memory] == [4, 8, 12, 16, 20, 24]
    assert (tmp_path / "pipeline.png").is_file()
    assert (tmp_path / "run" / "images" / "00000" / "img00000023" / "sample_000.png").is_file()
    assert "24 images in " in capsys.readouterr().out
    with pytest.raises(UserError, match="exists: delete it first"):
        pipeline(num_images=24, size=32, output=tmp_path)


def test_growth_is_the_slope_of_the_second_half():
    memory = [(n, 100.0 if n <= 50 else 100 + 0.2 * (n - 50)) for n in range(1, 101)]
    assert Findings(1.0, {}, 1.0, memory).growth() == pytest.approx(200)


def test_reference_features_are_those_of_the_images(tmp_path, lpips_weights):
    write_images(tmp_path / "images", ["a", "b", "c"], side=24)
    reference_features(tmp_path / "images", tmp_path / "out.npz", VGG16Pixels(), size=16, limit=2, batch_size=1)
    rows = read_features(tmp_path / "out.npz", "vgg16")
    assert rows.shape == (2, 512)
    assert np.isfinite(rows.numpy()).all()


@pytest.mark.usefixtures("no_lpips_weights")
def test_reference_features_without_weights(tmp_path):
    with pytest.raises(UserError, match="FID and KID need"):
        reference_features(write_images(tmp_path / "images"), tmp_path / "out.npz", Inception())
