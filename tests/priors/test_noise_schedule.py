import numpy as np
import pytest

from posterior import UserError
from posterior.priors import CosineBetas, LinearBetas, respaced_timesteps

CHAINS = {"full": "1000", "r100": "100", "ddim50": "ddim50", "r250": "250", "ddim25": "ddim25", "sec": "10,20,30"}


@pytest.mark.parametrize("chain", CHAINS)
def test_respaced_chains_match_the_reference(golden, chain):
    expected, schedule = golden("schedule"), LinearBetas()
    timesteps = respaced_timesteps(1000, CHAINS[chain])
    assert timesteps == expected[f"{chain}_timesteps"].tolist()
    np.testing.assert_allclose(schedule.alphas_cumprod[timesteps], expected[f"{chain}_alphas_cumprod"], rtol=1e-12)
    previous = np.append(1.0, schedule.alphas_cumprod[timesteps][:-1])
    betas = 1 - schedule.alphas_cumprod[timesteps] / previous
    np.testing.assert_allclose(betas, expected[f"{chain}_betas"], rtol=1e-11)


def test_beta_schedules_match_the_reference(golden):
    expected = golden("schedule")
    np.testing.assert_allclose(LinearBetas().betas, expected["full_betas"], rtol=1e-12)
    np.testing.assert_allclose(LinearBetas(500).betas, expected["linear_betas_T500"], rtol=1e-12)
    np.testing.assert_allclose(CosineBetas().betas, expected["cosine_betas"], rtol=1e-12)


@pytest.mark.parametrize("schedule", [LinearBetas(), CosineBetas(), LinearBetas(50)])
def test_a_level_on_the_grid_is_its_own_timestep(schedule):
    np.testing.assert_allclose(schedule.timestep(schedule.sigmas), np.arange(schedule.num_steps), atol=1e-9)


def test_off_the_grid_time_is_linear_in_log_sigma():
    schedule = LinearBetas()
    between = np.exp((np.log(schedule.sigmas[100]) * 3 + np.log(schedule.sigmas[101])) / 4)
    assert schedule.timestep(between) == pytest.approx(100.25)


@pytest.mark.parametrize("respacing", ["ddim300", "0", "1001", "600,600", "abc", ""])
def test_impossible_respacing_is_named(respacing):
    with pytest.raises(UserError, match="respacing"):
        respaced_timesteps(1000, respacing)


def test_a_schedule_needs_two_steps():
    with pytest.raises(UserError, match="CosineBetas: num_steps must be >= 2"):
        CosineBetas(1)
    with pytest.raises(UserError, match="LinearBetas: num_steps must be >= 21"):
        LinearBetas(20)  # its last beta would be 1
    assert np.isfinite(LinearBetas(21).sigmas).all()
    assert np.isfinite(CosineBetas(2).sigmas).all()
