import pytest

from benchmarks.machine.randomness import randomness
from posterior.random import Streams


def p_values(folder) -> dict[str, float]:
    rows = [line.strip("| ").split(" | ") for line in (folder / "randomness.md").read_text().splitlines()[4:] if line]
    return {row[0]: float(row[2]) for row in rows}


def test_the_numbers_are_standard_normal_and_independent(tmp_path, capsys):
    randomness(1_000_000, 1, tmp_path)
    found = p_values(tmp_path)
    assert len(found) > 25
    assert found["least of all, by Bonferroni"] > 1e-3
    assert "| moment 8 | 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoilt", "test"),
    [
        (lambda x: 1.01 * x, "moment 2"),
        (lambda x: x.clamp(-3, 3), "moment 8"),
        (lambda x: x + 0.05 * x.roll(1, dims=-1), "correlation at lag 1"),
    ],
)
def test_numbers_that_are_not_are_found_out(tmp_path, monkeypatch, spoilt, test):
    randn = Streams.randn
    monkeypatch.setattr(Streams, "randn", lambda self, purpose, shape: spoilt(randn(self, purpose, shape)))
    randomness(1_000_000, 1, tmp_path)
    assert p_values(tmp_path)[test] < 1e-6
