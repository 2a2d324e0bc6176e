from posterior.results import format_table


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
    head, sample, mean = format_table(summary, 4).splitlines()
    assert head.split() == ["psnr", "lpips_alex", "std", "NFE", "fwd"]  # ssim is nowhere known; lpips shows its dash
    assert sample.split() == ["sample", "25.12", "+-", "0.51", "-", "-", "10"]
    assert mean.split() == ["mean", "of", "4", "27", "+-", "0.4", "-", "0.1", "-"]
    assert len(format_table(summary, 1).splitlines()) == 2


def test_a_value_known_for_fewer_images_says_so_and_counts_stay_whole():
    summary = {
        "sample": {"psnr": cell(25.0, 0.5), "l2": cell(3.0, 0.1, count=2), "nfe_forward": cell(10999.0)},
        "mean": {},
    }
    _, sample = format_table(summary, 1).splitlines()
    assert sample.split() == ["sample", "25", "+-", "0.5", "3", "+-", "0.1", "(n=2)", "10999"]
