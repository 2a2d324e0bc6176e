import pytest
import torch

from posterior.metrics import MeanOverImages


def test_batches_and_ranks_add_up():
    values = torch.tensor([1.0, 4.0, 2.0, 8.0, 5.0])
    whole, first, second = MeanOverImages(), MeanOverImages(), MeanOverImages()
    whole.update(values)
    first.update(values[:2]), second.update(values[2:])
    assert whole._reductions["values"].__name__ == "dim_zero_cat"
    first.values += second.values  # what torchmetrics does over ranks with dist_reduce_fx="cat"
    assert first.compute() == whole.compute()
    assert whole.compute() == {
        "mean": 4.0,
        "sem": pytest.approx(float(values.std() / 5**0.5)),
        "count": 5,
    }


def test_a_small_error_of_a_large_mean_survives():
    metric = MeanOverImages()
    for _ in range(1000):
        metric.update(torch.tensor([2098.0]))
    assert metric.compute() == {"mean": 2098.0, "sem": 0.0, "count": 1000}
    metric.update(torch.tensor([2098.5]))
    assert metric.compute()["sem"] == pytest.approx(0.5 / 1001, rel=1e-3)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_image_has_no_mean_and_one_image_no_error():
    metric = MeanOverImages()
    assert metric.compute() == {"mean": None, "sem": None, "count": 0}
    metric.update(torch.tensor([2.0]))
    assert metric.compute() == {"mean": 2.0, "sem": None, "count": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_an_error(value):
    with pytest.raises(ValueError, match="NaN or infinite"):
        MeanOverImages().update(torch.tensor([1.0, value]))


def test_values_stay_in_one_piece():
    mean = MeanOverImages()
    for start in range(0, 40, 4):
        mean.update(torch.arange(start, start + 4.0))
    assert len(mean.values) == 1
    assert mean.compute()["mean"] == 19.5
