import torch

from posterior.random import Streams, stream


def draw(*key):
    return torch.randn(4, generator=stream(*key))


def test_a_stream_is_fixed_by_seed_image_sample_and_purpose():
    base = draw(0, "a/b", 1, "noise")
    assert torch.equal(base, draw(0, "a/b", 1, "noise"))
    for other in [(1, "a/b", 1, "noise"), (0, "a/c", 1, "noise"), (0, "a/b", 2, "noise"), (0, "a/b", 1, "mask")]:
        assert not torch.equal(base, draw(*other))


def test_a_row_draws_the_same_alone_and_in_a_batch():
    together, alone = Streams(3, ["x", "y", "z"], num_samples=2), Streams(3, ["y"], num_samples=5)
    for _ in range(3):
        batch, single = together.randn("p", (2, 3)), alone.randn("p", (2, 3))
        assert torch.equal(batch[1], single[0])  # sample 0 of y
        assert torch.equal(batch[4], single[1])  # sample 1 of y


def test_purposes_do_not_disturb_each_other():
    one, two = Streams(0, ["x"]), Streams(0, ["x"])
    two.randn("other", (100,))
    assert torch.equal(one.randn("p", (5,)), two.randn("p", (5,)))


def test_successive_draws_differ_and_are_standard_normal():
    rng = Streams(0, ["x"])
    first, second = rng.randn("p", (100_000,)), rng.randn("p", (100_000,))
    assert abs(float((first * second).mean())) < 5 / 100_000**0.5
    assert abs(float(first.std()) - 1) < 5 / 200_000**0.5
