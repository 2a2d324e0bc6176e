"""The classifier of digits: right as often as it says, on digits that it has not seen; features of sets of digits."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch

from benchmarks.digits.classifier import batches, distorted, initialised, labelled, temperature_of
from benchmarks.digits.density import HELD_OUT
from posterior import UserError
from posterior.metrics.classifier import SHIPPED, DigitClassifier, calibration_error, shipped_classifier
from posterior.metrics.precision_recall import precision_recall
from tests.conftest import SHARED

MNIST = [SHARED / "mnist" / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1")]
CASES = [(HELD_OUT, HELD_OUT.with_name("digits_held_out_labels.idx.gz"))]
CASES += [tuple(MNIST)] if all(path.is_file() for path in MNIST) else []  # a clone has 500 of the 10,000


@pytest.mark.parametrize(("images", "labels"), CASES, ids=lambda path: path.name)
def test_held_out_digits_are_right_as_often_as_it_says(images, labels):
    digits, classes = labelled(images, labels)
    found = torch.cat([shipped_classifier()(part) for part in digits.split(500)])
    right = (found.argmax(dim=1) == classes).double().mean()
    assert right >= 0.99
    error = (float(right) * (1 - float(right)) / len(classes)) ** 0.5
    assert float(found.max(dim=1).values.mean()) == pytest.approx(float(right), abs=0.005 + 3 * error)
    assert calibration_error(found, classes) < 0.005 + 3 * error  # of few digits it is above 0 by chance
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(classes)))


def test_it_is_below_a_megabyte_and_a_row_alone_is_the_row_in_a_batch():
    assert SHIPPED.stat().st_size < 1_000_000
    assert {value.dtype for value in safetensors.torch.load_file(SHIPPED).values()} == {torch.float16, torch.int64}
    digits, _ = labelled(*CASES[0])
    together = shipped_classifier().logits(digits[:9])
    torch.testing.assert_close(shipped_classifier().logits(digits[4:5]), together[4:5], rtol=1e-4, atol=1e-4)


def test_what_is_no_classifier_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"images must be \(1, 32, 32\), these are \(1, 28, 28\)"):
        shipped_classifier()(torch.zeros(1, 1, 28, 28))
    with pytest.raises(UserError, match="does not exist"):
        DigitClassifier.from_file(tmp_path / "nowhere.safetensors")
    safetensors.torch.save_file({"head.weight": torch.zeros(10, 128)}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match="another architecture than DigitClassifier"):
        DigitClassifier.from_file(tmp_path / "part.safetensors")


def test_calibration_error_is_the_gap_between_accuracy_and_confidence():
    sure = torch.tensor([[0.8, 0.2]]).expand(100, 2)
    labels = (torch.arange(100) >= 60).long()  # 60 of 100 right
    assert calibration_error(sure, labels) == pytest.approx(0.2)
    assert calibration_error(torch.tensor([[0.6, 0.4]]).expand(100, 2), labels) == pytest.approx(0, abs=1e-7)
    both = torch.cat([sure, torch.tensor([[0.55, 0.45]]).expand(100, 2)])
    assert calibration_error(both, torch.cat([labels, labels])) == pytest.approx((0.2 + 0.05) / 2)
    with pytest.raises(ValueError, match="100 predictions for 3 labels"):
        calibration_error(sure, labels[:3])


def test_a_planted_temperature_is_found():
    draws = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 4, generator=draws, dtype=torch.float64)
    labels = torch.multinomial((logits / 2.5).softmax(dim=1), 1, generator=draws)[:, 0]
    assert temperature_of(logits, labels) == pytest.approx(2.5, rel=0.03)


def test_learning_sees_every_image_once_an_epoch_and_distorts_it_little():
    images = torch.full((300, 1, 32, 32), -1.0)
    images[:, :, 12:20, 12:20] = torch.linspace(0, 1, 300).view(-1, 1, 1, 1)
    seen = [labels for _, labels in batches(images, torch.arange(300), 0, 0)]
    assert [len(one) for one in seen] == [128, 128]
    assert len(torch.cat(seen).unique()) == 256
    moved = distorted(images, torch.Generator().manual_seed(0))
    levels = moved[:, :, :4].std(dim=(1, 2, 3))
    assert 0.09 < float(levels.max()) < 0.11
    torch.testing.assert_close(moved[:, :, :4].mean(), torch.tensor(-1.0), rtol=0, atol=1e-3)  # black comes in
    ink = (moved + 1).sum(dim=(1, 2, 3)) / (images + 1).sum(dim=(1, 2, 3))
    assert 0.6 < float(ink.min()) < float(ink.max()) < 1.7
    again = [initialised(3).state_dict() for _ in range(2)]
    assert all(torch.equal(again[0][name], again[1][name]) for name in again[0])


def test_labels_that_are_no_digits_are_refused(tmp_path):
    (tmp_path / "labels").write_bytes(bytes([0, 0, 8, 1, 0, 0, 1, 244]) + bytes([10] * 500))
    with pytest.raises(UserError, match="a digit is at most 9, one is 10"):
        labelled(HELD_OUT, tmp_path / "labels")


def test_precision_and_recall_tell_what_is_wrong():
    draws = torch.Generator().manual_seed(0)
    real, other = torch.randn(2, 400, 2, generator=draws)
    real[200:] += 20
    other[200:] += 20
    floor = precision_recall(other, real)
    assert min(floor) > 0.9
    precision, recall = precision_recall(torch.randn(400, 2, generator=draws), real)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.1)  # one of two clusters is missing
    half = torch.cat([other[:200], 100 * torch.randn(200, 2, generator=draws)])
    assert precision_recall(half, real)[0] == pytest.approx(0.5, abs=0.1)
    near = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # balls of radius 1, 1, 2, 4 about each for k = 1
    assert precision_recall(torch.tensor([[-0.9], [-1.1], [11.0], [11.1]]), near, 1)[0] == 0.5
    assert math.isclose(precision_recall(near, near)[1], 1.0)


@pytest.mark.parametrize(
    ("samples", "neighbours", "message"),
    [
        (torch.zeros(3, 2), 3, "neighbours must be >= 1 and <= 2"),
        (torch.zeros(9, 3), 3, r"features \(3,\) and \(2,\)"),
        (torch.full((9, 2), math.nan), 3, "a feature is NaN"),
    ],
)
def test_features_that_do_not_fit_are_refused(samples, neighbours, message):
    with pytest.raises(UserError, match=message):
        precision_recall(samples, torch.zeros(9, 2), neighbours)
