import numpy as np
import pytest

from benchmarks.machine.memory import kept
from benchmarks.matrix.differences import differences
from posterior import UserError
from posterior.priors import UNet


def test_runs_are_compared_image_by_image(tmp_path, capsys):
    for name, shift in (("one", 0.0), ("other", 0.5)):
        for image_id, share in (("a", 0.1), ("b/c", 1.0)):
            path = tmp_path / name / "samples" / f"{image_id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.full((2, 3, 4, 4), share * shift, dtype=np.float32))
    found = differences(tmp_path / "one", tmp_path / "other")
    assert found == pytest.approx(
        {"median": 0.275, "largest": 0.5, "rms": ((0.05**2 + 0.5**2) / 2) ** 0.5, "images": 2}
    )
    assert "2 images: largest difference" in capsys.readouterr().out
    with pytest.raises(UserError, match="hold no samples of the same image"):
        differences(tmp_path / "one", tmp_path / "nothing")
    np.save(tmp_path / "one" / "samples" / "a.npy", np.zeros((1, 3, 4, 4)))
    with pytest.raises(UserError, match=r"a\.npy: samples of \(1, 3, 4, 4\) and \(2, 3, 4, 4\)"):
        differences(tmp_path / "one", tmp_path / "other")


def test_what_is_kept_grows_with_the_picture_and_falls_by_checkpointing():
    network = UNet(32, num_channels=32, channel_mult=(1, 2), attention_resolutions=(), num_head_channels=32)
    network.requires_grad_(False).eval()
    small, large = kept(network, 16, False), kept(network, 32, False)
    assert large == pytest.approx(4 * small, rel=0.1)
    assert kept(network, 32, True) < 0.4 * large
