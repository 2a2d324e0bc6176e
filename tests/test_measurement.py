import torch

from posterior import Measurement, Streams, stream
from posterior.noise import GaussianNoise
from posterior.operators import GaussianBlur, RandomInpainting


def inpainted(ids, sigma_y=0.1):
    truth = torch.stack([torch.rand(3, 16, 16, generator=stream(0, i, 0, "truth")) for i in ids])
    operator = RandomInpainting().realise(truth.shape[1:], [stream(0, i, -1, "operator") for i in ids])
    noise = Streams(0, ids, samples=[-1]).randn("measurement", truth.shape[1:])
    return truth, Measurement.simulate(truth, operator, GaussianNoise(sigma_y), noise)


def test_masked_pixels_hold_neither_signal_nor_noise():
    _, measurement = inpainted(["a", "b"])
    assert (measurement.y[measurement.operator.mask.expand_as(measurement.y) == 0] == 0).all()


def test_the_truth_has_a_residual_of_one():
    truth, measurement = inpainted([f"i{n}" for n in range(20)])
    residual = measurement.relative_residual(truth)
    assert abs(float(residual.mean()) - 1) < 0.02


def test_likelihood_gradient_matches_autograd():
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    operator = GaussianBlur(5, 1.0).realise((3, 16, 16)).to(torch.float64)
    measurement = Measurement(torch.randn_like(x), operator, GaussianNoise(0.2))
    log_prob = torch.distributions.Normal(operator.forward(x), 0.2).log_prob(measurement.y).sum()
    torch.testing.assert_close(measurement.log_likelihood_grad(x.detach()), torch.autograd.grad(log_prob, x)[0])


def test_repeated_rows_match_the_order_of_streams():
    _, measurement = inpainted(["a", "b"])
    repeated, rows = measurement.repeat(3), Streams(0, ["a", "b"], 3).rows
    for row, (image_id, _) in enumerate(rows):
        source = ["a", "b"].index(image_id)
        assert torch.equal(repeated.y[row], measurement.y[source])
        assert torch.equal(repeated.operator.mask[row], measurement.operator.mask[source])
