import numpy as np
import pytest
import torch

from posterior import UserError
from posterior.random import WORD, Streams, key_of, normals, philox, philox_numpy, stream, uniforms, words

GOLDEN_KEY = 0xAB39FEE6A69BDAE5
GOLDEN_WORDS = [4203127781, 3944333573, 4289039523, 1099625874]
GOLDEN_NORMALS = [
    0.1811593919992447,
    -0.10203549265861511,
    -0.001989661483094096,
    0.05251934751868248,
    -0.5666283369064331,
    -0.3733796775341034,
]


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


@pytest.mark.parametrize(
    ("counter", "key", "found"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([WORD] * 4, [WORD] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_its_authors_known_answers(counter, key, found):
    """Random123's kat_vectors, philox4x32 10."""
    c, k = torch.tensor(counter)[:, None], torch.tensor(key)[:, None]
    assert [int(word) for word in philox(list(c), list(k))] == found
    c, k = np.array(counter, dtype=np.uint64)[:, None], np.array(key, dtype=np.uint64)[:, None]
    assert [int(word[0]) for word in philox_numpy(list(c), list(k))] == found


@pytest.mark.parametrize(("draw", "count"), [(0, 1), (5, 1001), (2**32 + 7, 64)])
def test_both_forms_give_the_same_words(draw, count):
    keys = torch.tensor([[1, 2], [WORD, 3], [0, WORD]])
    number = torch.arange(-(-count // 4))[None]
    halves = [torch.full((1, 1), half) for half in (draw & WORD, draw >> 32)]
    found = torch.stack(
        torch.broadcast_tensors(*philox([number, 0 * number, *halves], [keys[:, :1], keys[:, 1:]])), dim=-1
    )
    assert torch.equal(words(keys, draw, count), found.flatten(1)[:, :count])


def test_the_layout_is_the_one_that_is_written_down():
    """A golden vector: numbers of version 2."""
    assert key_of(7, "a/b", 3, "langevin") == GOLDEN_KEY
    rng = Streams(7, ["a/b"], samples=[3])
    rng.randn("langevin", (1,))  # draw 0
    found = rng.randn("langevin", (2, 3))  # draw 1
    torch.testing.assert_close(found.flatten(), torch.tensor(GOLDEN_NORMALS), rtol=2e-7, atol=0)
    assert rng.position == {"langevin": 2}
    key = torch.tensor([[GOLDEN_KEY & WORD, GOLDEN_KEY >> 32]])
    assert words(key, 1, 4).tolist() == [GOLDEN_WORDS]
    assert uniforms(words(key, 1, 4)).tolist() == [[((word >> 8) + 1) / 2**24 for word in GOLDEN_WORDS]]


def test_a_chain_can_go_on_from_its_middle():
    whole, later = Streams(0, ["x", "y"]), Streams(0, ["x", "y"])
    drawn = [whole.randn("p", (3,)) for _ in range(4)]
    later.position["p"] = 3
    assert torch.equal(later.randn("p", (3,)), drawn[3])


def test_a_wider_draw_is_the_same_numbers():
    assert torch.equal(Streams(0, ["x"]).randn("p", (9,), torch.float64).float(), Streams(0, ["x"]).randn("p", (9,)))


def test_normals_are_rounded_once_and_without_float64_nearly_so():
    ends = [0, 1, 2, 3, 2**29, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 3 * 2**30, WORD - 1, WORD]
    pairs = torch.tensor([[first, second] for first in ends for second in ends])
    bits = torch.cat([pairs.flatten()[None], words(torch.tensor([[1, 2]]), 0, 400_000)], dim=1)
    u = (bits.double() + 1) / 2**32
    radius, angle = (-2 * u[:, 0::2].log()).sqrt(), 2 * torch.pi * u[:, 1::2]
    exact = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)
    ulp = torch.from_numpy(np.spacing(exact.abs().float().numpy())).double()
    away = exact.abs() > 1e-6  # at multiples of a quarter turn float64 itself has no digits left
    for wide, most in ((True, 0.51), (False, 4.0)):
        found = normals(bits, wide)
        assert torch.isfinite(found).all()
        assert float(((found.double() - exact).abs() / ulp)[away].max()) <= most


def test_uniform_numbers_are_above_0_and_at_most_1():
    bits = torch.tensor([[0, 255, 256, WORD]])
    assert uniforms(bits).tolist() == [[2**-24, 2**-24, 2**-23, 1.0]]


@pytest.mark.parametrize(("seed", "samples"), [(2**64, [0]), (-(2**63) - 1, [0]), (0, [-2])])
def test_seeds_beyond_64_bits_and_negative_samples(seed, samples):
    with pytest.raises(UserError, match=r"Streams: (seed|sample) must be"):
        Streams(seed, ["x"], samples=samples)


def test_successive_draws_differ_and_are_standard_normal():
    rng = Streams(0, ["x"])
    first, second = rng.randn("p", (100_000,)), rng.randn("p", (100_000,))
    assert abs(float((first * second).mean())) < 5 / 100_000**0.5
    assert abs(float(first.std()) - 1) < 5 / 200_000**0.5
