import pytest
import torch
from torch import nn

from posterior import UserError
from posterior.priors import ScoreNetworkPrior


class GaussianScore(nn.Module):
    """The score of N(0, variance I) smoothed to sigma, of two-channel images."""

    def __init__(self, output: str, variance: float = 0.5):
        super().__init__()
        self.output = output
        self.variance = nn.Parameter(torch.tensor(variance))

    def forward(self, x, sigma):
        sigma = sigma.view(-1, 1, 1, 1)
        score = -x / (self.variance + sigma**2)
        return {"score": score, "noise": -sigma * score, "denoised": x + sigma**2 * score}[self.output]


@pytest.mark.parametrize("output", ["score", "noise", "denoised"])
def test_all_outputs_are_the_same_prior(output):
    prior = ScoreNetworkPrior(GaussianScore(output), 0.01, 50.0, output)
    x, sigma = torch.randn(3, 2, 4, 4), torch.tensor([0.1, 1.0, 20.0])
    expected = x * (0.5 / (0.5 + sigma**2)).view(-1, 1, 1, 1)
    torch.testing.assert_close(prior.denoise(x, sigma), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior.score(x, 0.3), -x / 0.59, rtol=1e-4, atol=1e-4)
    assert (prior.cost.forward, prior.cost.backward) == (6, 0)
    assert not any(parameter.requires_grad for parameter in prior.parameters())


def test_levels_and_checkpoints_are_checked(tmp_path):
    with pytest.raises(UserError, match=r"outside \[0\.01, 50\]"):
        ScoreNetworkPrior(GaussianScore("score"), 0.01, 50.0).denoise(torch.zeros(1, 2, 4, 4), 60.0)
    with pytest.raises(UserError, match="sigma_max must be > 1"):
        ScoreNetworkPrior(GaussianScore("score"), 1.0, 0.5)
    torch.save(GaussianScore("score", 2.0).state_dict(), tmp_path / "weights.pt")
    prior = ScoreNetworkPrior(GaussianScore("score"), 0.01, 50.0, checkpoint=tmp_path / "weights.pt")
    assert float(prior.network.variance) == 2.0
    other = ScoreNetworkPrior(GaussianScore("score"), 0.01, 50.0)
    assert prior.fingerprint() != other.fingerprint()
