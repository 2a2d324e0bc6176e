"""What is shared by data sets whose pictures are drawn: numbers, ids, refusals in the class's own name."""

import pickle

import pytest
import torch

from datamodules import DrawnData, DrawnImages
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution

MEASURED = (SuperResolution(2), GaussianNoise(0.05))


def grey(number, size):
    return torch.full((1, size, size), number / 1000 - 1)


class Greys(DrawnData):
    prefix = "grey_of"

    def draw(self, number):
        return grey(number, self.size)


class GreyImages(DrawnImages):
    def image(self, index):
        return grey(self.start + index, self.size)


def test_a_number_has_its_picture_whatever_the_first_one_is():
    data = Greys(*MEASURED, size=8, start=998, count=4, batch_size=3)
    data.setup("predict")
    assert data.ids == ["grey_of_000998", "grey_of_000999", "grey_of_001000", "grey_of_001001"]
    batches = list(data.predict_dataloader())
    truth = torch.cat([batch.truth for batch in batches])
    assert torch.equal(truth, torch.stack([grey(number, 8) for number in range(998, 1002)]))
    assert torch.equal(GreyImages(8, 998, 4).all(), truth)
    later = Greys(*MEASURED, size=8, start=1001, count=1)
    later.setup("predict")
    (alone,) = later.predict_dataloader()
    assert torch.equal(alone.noise, batches[1].noise)  # noise is the image's, too
    assert torch.equal(pickle.loads(pickle.dumps(later.reader())).read("grey_of_001001"), truth[3])


def test_numbers_of_more_than_six_digits_are_read_back():
    data = Greys(*MEASURED, size=8, start=9_999_999, count=2)
    assert data.list_ids() == ["grey_of_9999999", "grey_of_10000000"]
    assert torch.equal(data.read("grey_of_10000000"), grey(10_000_000, 8))


@pytest.mark.parametrize("numbers", [{"size": 7}, {"start": -1}, {"count": 0}, {"count": 10**8}, {"start": 10**8}])
def test_numbers_out_of_range_are_refused_in_the_name_of_the_class(numbers):
    (name,) = numbers
    good = {"size": 8, "start": 0, "count": 1}
    for made in (lambda **n: Greys(*MEASURED, **n), GreyImages):
        with pytest.raises(UserError, match=rf"^Grey(s|Images): {name} must be >= \d+ and <= \d+, got -?\d+$"):
            made(**good | numbers)
