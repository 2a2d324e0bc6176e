import pytest
import torch

from posterior.metrics import MeanOverImages


def test_batches_and_ranks_add_up():
    values = torch.tensor([1.0, 4.0, 2.0, 8.0, 5.0])
    whole, first, second = MeanOverImages(), MeanOverImages(), MeanOverImages()
    whole.update(values)
    first.update(values[:2]), second.update(values[2:])
    for name in ("total", "total_squared", "count"):  # what torchmetrics does over ranks with dist_reduce_fx="sum"
        assert whole._reductions[name].__name__ == "dim_zero_sum"
        setattr(first, name, getattr(first, name) + getattr(second, name))
    assert first.compute() == whole.compute()
    assert whole.compute() == {
        "mean": 4.0,
        "sem": pytest.approx(float(values.std() / 5**0.5)),
        "count": 5,
    }


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
