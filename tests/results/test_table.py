import pytest

from posterior.results import format_table
from posterior.results.table import fitted


def cell(mean, sem=None, count=3):
    return {"mean": mean, "sem": sem, "count": count}


def test_cells_are_mean_and_error_and_unknown_ones_a_dash():
    summary = {
        "sample": {
            "psnr": cell(25.123, 0.51),
            "lpips_alex": cell(None),
            "ssim": cell(None),
            "nfe_forward": cell(10.0, 0.0),
        },
        "mean": {"psnr": cell(27.0, 0.4), "lpips_alex": cell(None), "std": cell(0.1)},
    }
    head, *rows = [line.split("  ") for line in format_table(summary, 4).splitlines()]
    assert [text.strip() for text in head if text] == ["sample", "mean of 4"]
    found = {row[0]: [text.strip() for text in row[1:] if text.strip()] for row in rows}
    assert found == {  # ssim is nowhere known; lpips shows its dash
        "psnr": ["25.12 +- 0.51", "27 +- 0.4"],
        "lpips_alex": ["-", "-"],
        "std": ["-", "0.1"],
        "NFE fwd": ["10", "-"],
    }
    assert format_table(summary, 1).splitlines()[0].split() == ["sample"]


def test_a_value_known_for_fewer_images_says_so_and_counts_stay_whole():
    summary = {
        "sample": {"psnr": cell(25.0, 0.5), "l2": cell(3.0, 0.1, count=2), "nfe_forward": cell(10999.0)},
        "mean": {},
    }
    _, *rows = format_table(summary, 1).splitlines()
    assert [row.split() for row in rows] == [
        ["psnr", "25", "+-", "0.5"],
        ["l2", "3", "+-", "0.1", "(n=2)"],
        ["NFE", "fwd", "10999"],
    ]


@pytest.mark.parametrize("name", ["psnr", "a_functional_of_mine_with_a_name_of_" + "n" * 300])
def test_a_table_of_everything_fits_eighty_columns(name):
    names = [name, "ssim", "lpips_alex_x2", "residual", "nfe_backward"]
    row = {one: cell(-0.000012345678, 0.000098765, count=2) for one in names}
    summary = dict.fromkeys(("sample", "mean", "best", "oracle"), row)
    summary["sample"] |= {"seconds": cell(1.0)}
    lines = format_table(summary, 10_000).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.count("-1.235e-05 +- 9.9e-05 (n=2)") for line in lines) == 4 * 5
    for head in ("sample", "mean of 10000", "least residual", "oracle's choice"):
        assert any(head in line for line in lines)


def test_columns_that_do_not_fit_go_below_with_the_names_of_their_rows():
    text = fitted([["", "aaaa", "bbbb", "cccc"], ["first", "1", "2", "3"], ["second", "4", "5", "6"]], width=20)
    assert text.split("\n\n") == [
        "        aaaa  bbbb\nfirst      1     2\nsecond     4     5",
        "        cccc\nfirst      3\nsecond     6",
    ]
    assert fitted([["", "one"]], width=20) == "  one"
