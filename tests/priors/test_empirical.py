"""The empirical prior against sums written out, and what its files may hold."""

import gzip
import math

import numpy as np
import pytest
import torch

import posterior.priors.empirical as module
from posterior import UserError
from posterior.priors import EmpiricalPrior
from tests.protocol import PRIOR_CHECKS, PriorEntry

SHAPE = (1, 3, 4)


def images(count=11, dtype=torch.float64):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def pixels(count=11):
    return torch.randint(256, (count, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def values(prior):
    """x_i as numbers in float64."""
    wide = prior.images.double()
    return wide / 127.5 - 1 if prior.images.dtype == torch.uint8 else wide


def by_sums(prior, x, sigma):
    """E[x0 | x0 + sigma n = x], term by term: every image's own mean under its own Gaussian."""
    width, found = prior.width, []
    for row, level in zip(x.double(), torch.as_tensor(sigma, dtype=torch.float64).expand(len(x)), strict=True):
        total = width**2 + level**2
        terms = [
            (
                float(weight) * torch.exp(-((row - one).square().sum()) / (2 * total)),
                (width**2 * row + level**2 * one) / total,
            )
            for weight, one in zip(prior.weights, values(prior), strict=True)
        ]
        found.append(sum(a * mean for a, mean in terms) / sum(a for a, _ in terms))
    return torch.stack(found)


def weighted(prior):
    return prior.reweighted(torch.linspace(0, 1, len(prior), dtype=torch.float64))


PRIORS = {
    "points": lambda: EmpiricalPrior(images()),
    "blurred": lambda: EmpiricalPrior(images(), 0.3),
    "weighted": lambda: weighted(EmpiricalPrior(images(), 0.2)),
    "pixels": lambda: weighted(EmpiricalPrior(pixels())),
}


@pytest.mark.parametrize("sigma", [0.2, 1.0, torch.tensor([0.15, 0.5, 3.0])])
@pytest.mark.parametrize("name", PRIORS)
def test_the_denoiser_is_the_conditional_mean_written_out(name, sigma):
    prior = PRIORS[name]()
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = by_sums(prior, x, sigma)
    rtol = 1e-6 if isinstance(sigma, torch.Tensor) else 1e-10  # levels of a tensor are float32
    torch.testing.assert_close(prior.denoise(x, sigma), expected, rtol=rtol, atol=1e-7)
    levels = torch.as_tensor(sigma).expand(3).view(3, 1, 1, 1).double()
    torch.testing.assert_close(prior.score(x, sigma), (expected - x) / levels**2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PRIORS)
def test_blocks_and_groups_of_rows_change_nothing(name, monkeypatch):
    prior = PRIORS[name]()
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, near = prior.denoise(x, torch.linspace(0.1, 2, 5)), prior.nearest(x)
    monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(module, "ROWS", 2)
    torch.testing.assert_close(prior.denoise(x, torch.linspace(0.1, 2, 5)), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(prior.nearest(x), near)
    distances = torch.cdist(x.flatten(1), values(prior).flatten(1))
    assert torch.equal(near, distances.argmin(dim=1))


def test_nothing_cancels_where_images_are_close_and_the_level_is_low():
    """1024 numbers of size 1, two images 0.004 apart, at the lowest level; by squared differences."""
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(1, 1, 32, 32, generator=generator) * 2 - 1
    step = torch.zeros_like(one)
    step[..., :16] = 0.004 / 512**0.5
    pair, sigma = torch.cat([one, one + step]), 1e-3
    prior = EmpiricalPrior(pair)
    x = (pair[:1] + 0.45 * (pair[1:] - pair[:1])).float()
    gap = [(x.double() - side.double()).square().sum() for side in pair]
    share = torch.sigmoid((gap[0] - gap[1]) / (2 * sigma**2))
    assert 0.1 < float(share) < 0.9
    assert float(prior.responsibilities(x, sigma)[0, 1]) == pytest.approx(float(share), rel=1e-5)


@pytest.mark.parametrize("name", PRIORS)
def test_the_jacobian_is_that_of_the_sums(name):
    """Products with it: of the sums by autograd, of the denoiser by difference quotients; and what flows back."""
    prior, generator = PRIORS[name](), torch.Generator().manual_seed(2)
    x, v = (torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    for sigma in (0.25, 0.8):
        product = prior.times_jacobian(x, v, sigma)
        wanted = x.clone().requires_grad_()
        (automatic,) = torch.autograd.grad(by_sums(prior, wanted, sigma), wanted, v)
        torch.testing.assert_close(product, automatic, rtol=1e-8, atol=1e-9)
        h = 1e-5
        quotient = (prior.denoise(x + h * v, sigma) - prior.denoise(x - h * v, sigma)) / (2 * h)
        torch.testing.assert_close(product, quotient, rtol=1e-5, atol=1e-7)
        (back,) = torch.autograd.grad(prior.denoise(wanted, sigma), wanted, v)
        torch.testing.assert_close(back, product, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_density_is_that_of_a_mixture_and_the_score_its_gradient(sigma):
    prior = weighted(EmpiricalPrior(images(), 0.3))
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(prior.weights),
        torch.distributions.Independent(torch.distributions.Normal(images().flatten(1), math.hypot(0.3, sigma)), 1),
    )
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    expected = law.log_prob(x.flatten(1))
    torch.testing.assert_close(prior.log_prob(x.detach(), sigma), expected)
    (grad,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(prior.score(x.detach(), sigma), grad)


@pytest.mark.parametrize("check", PRIOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("width", [0.0, 0.2])
def test_it_is_a_prior_like_any_other(check, width):
    prior = EmpiricalPrior(images(dtype=torch.float32), width)
    check(PriorEntry(prior, prior.sample(4000, torch.Generator().manual_seed(3))))


def test_samples_are_images_in_their_shares():
    prior = weighted(EmpiricalPrior(pixels(5), 0.0))
    samples = prior.sample(20_000, torch.Generator().manual_seed(0))
    index = prior.nearest(samples)
    torch.testing.assert_close(samples, values(prior)[index].float())
    shares = index.bincount(minlength=5).double() / 20_000
    assert ((shares - prior.weights).abs() < 4 * (prior.weights / 20_000).sqrt()).all()
    blurred = EmpiricalPrior(pixels(1), 0.5).sample(5_000, torch.Generator().manual_seed(0))
    assert float(blurred.std(dim=0).mean()) == pytest.approx(0.5, rel=0.02)


def test_points_have_no_density_of_their_own():
    prior = EmpiricalPrior(images())
    for ask in (prior.log_prob, prior.score, prior.denoise):
        with pytest.raises(UserError, match=r"noise level 0 outside \[0.001"):
            ask(images(2), 0.0)
    assert EmpiricalPrior(images(), 0.1).sigma_min == 0
    assert prior.curvature(0.5) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.zeros(2, 3)}, r"images must be \(N, C, H, W\), these are \(2, 3\)"),
        ({"images": torch.zeros(0, *SHAPE)}, "images must be"),
        ({"images": torch.full((2, *SHAPE), math.nan)}, "NaN or infinite"),
        ({"images": torch.zeros(2, *SHAPE), "width": -0.1}, "width must be >= 0"),
        ({"images": torch.zeros(2, *SHAPE), "labels": torch.zeros(3, dtype=torch.int64)}, "labels must be 2 whole"),
    ],
)
def test_what_it_cannot_take_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        EmpiricalPrior(**arguments)
    assert "\n" not in str(caught.value)


def write_idx(path, array, packed=False):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.fixture
def files(tmp_path):
    numbers = pixels(6)[:, 0].numpy()
    return (
        write_idx(tmp_path / "images", numbers),
        write_idx(tmp_path / "labels", np.array([0, 1, 2, 0, 1, 2])),
        numbers,
    )


def test_files_are_padded_turned_and_counted(files, tmp_path):
    path, labels, numbers = files
    prior = EmpiricalPrior.from_file(path, labels, 0.1, count=4, size=6, half_turns=True)
    assert prior.images.shape == (8, 1, 6, 6)
    assert prior.labels.tolist() == [0, 1, 2, 0, 3, 4, 5, 3]
    assert torch.equal(prior.images[:4, 0, 1:4, 1:5], torch.from_numpy(numbers[:4]))
    assert int(prior.images[:, 0, 0].sum()) == int(prior.images[:, 0, :, 0].sum()) == 0
    assert torch.equal(prior.images[4:], prior.images[:4].rot90(2, (-2, -1)))
    np.savez(tmp_path / "x.npz", images=numbers[:, None], labels=np.arange(6))
    same = EmpiricalPrior.from_file(tmp_path / "x.npz")
    assert torch.equal(same.images[:, 0], torch.from_numpy(numbers))
    assert same.labels.tolist() == list(range(6))
    with pytest.raises(UserError, match="there are 6, fewer than count 7"):
        EmpiricalPrior.from_file(path, count=7)
    np.savez(tmp_path / "y.npz", images=numbers)
    with pytest.raises(UserError, match=r"y\.npz must hold images \(N, C, H, W\) uint8"):
        EmpiricalPrior.from_file(tmp_path / "y.npz")


def test_images_beyond_the_memory_stay_on_the_disk_and_it_is_said_first(files, tmp_path, monkeypatch, capsys):
    path, labels, numbers = files
    usual = EmpiricalPrior.from_file(path, labels)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "memory", lambda: 2 * numbers.size - 1)
    prior = EmpiricalPrior.from_file(path, labels)
    told = capsys.readouterr().err
    assert "6 of 12 numbers, 7.2e-08 GB, more than 50% of the memory: they stay on the disk" in told
    assert told.count("\n") == 1
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior.denoise(x, 0.3), usual.denoise(x, 0.3))
    packed = write_idx(tmp_path / "images.gz", numbers, packed=True)
    for arguments in ({"path": packed}, {"path": path, "half_turns": True}, {"path": path, "size": 8}):
        with pytest.raises(
            UserError, match=r"would take .* GB, of .* GB in all: give a file of fewer images"
        ) as caught:
            EmpiricalPrior.from_file(**arguments)
        assert "\n" not in str(caught.value)


def test_the_fingerprint_tells_priors_apart():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(5, 1, 4, 4, generator=generator), torch.arange(5)
    others = [
        EmpiricalPrior(images, 0.3, labels),
        EmpiricalPrior(images, 0.0, labels.flip(0)),
        EmpiricalPrior(images, 0.0),
        EmpiricalPrior(images.flip(-1), 0.0, labels),
        EmpiricalPrior(images[[1, 0, 2, 3, 4]], 0.0, labels),
    ]
    found = [prior.fingerprint() for prior in (EmpiricalPrior(images, 0.0, labels), *others)]
    assert len(set(found)) == 6
    assert EmpiricalPrior(images.clone(), 0.0, labels.clone()).fingerprint() == found[0]
