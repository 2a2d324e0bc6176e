from dataclasses import replace

import pytest
import torch

from posterior import Batch, Measurement, Streams, UserError, stream
from posterior.errors import Diverged
from posterior.metrics import L2, LPIPS, PSNR, MagnitudePSNR, Residual
from posterior.module import PosteriorSampling
from posterior.noise import GaussianNoise
from posterior.operators import CartesianMRI, RandomInpainting
from posterior.samplers import DPS, ExactGaussian, RespacedSigmas, Sampler, check_finite

SHAPE = (3, 16, 16)


def make_batch(ids, truth_known=True):
    truth = torch.stack([torch.rand(SHAPE, generator=stream(0, i, 0, "truth")) for i in ids])
    operator = RandomInpainting().realise(SHAPE, [stream(0, i, -1, "operator") for i in ids])
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.1), torch.randn_like(truth))
    return Batch(list(ids), 0, measurement, truth if truth_known else None)


def make_module(field, sampler=None, **settings):
    return PosteriorSampling(field, sampler or ExactGaussian(), **{"metrics": [L2(), PSNR(), Residual()]} | settings)


def test_samples_are_those_of_the_sampler(field):
    prediction = make_module(field, num_samples=3).predict_step(make_batch("ab"), 0)
    assert prediction.samples.shape == (3, 2, *SHAPE)
    batch = make_batch("b")
    alone = ExactGaussian()(field, prediction.batch.measurement.rows(torch.tensor([1])), Streams(0, ["b"]))
    torch.testing.assert_close(prediction.samples[0, 1], alone[0], rtol=0, atol=1e-4)
    assert batch.ids == ["b"]


def test_sample_numbers_do_not_depend_on_how_many_are_asked(field):
    batch = make_batch("ab")
    few, many = (make_module(field, num_samples=k).predict_step(batch, 0).samples for k in (2, 5))
    torch.testing.assert_close(few, many[:2], rtol=0, atol=1e-4)


def test_records_hold_each_samples_and_the_means_values(field):
    module, batch = make_module(field, num_samples=2), make_batch("ab")
    prediction = module.predict_step(batch, 0)
    by_key = {(r["id"], r["sample"]): r for r in prediction.records}
    assert list(by_key) == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", "mean"), ("b", "mean")]
    for k in (0, 1):
        psnr = PSNR()(prediction.samples[k], batch.truth, batch.measurement)
        assert [by_key[i, k]["psnr"] for i in "ab"] == pytest.approx(psnr.tolist())
    mean = PSNR()(prediction.samples.mean(dim=0), batch.truth, batch.measurement)
    assert [by_key[i, "mean"]["psnr"] for i in "ab"] == pytest.approx(mean.tolist())
    std = prediction.samples.var(dim=0).mean(dim=(1, 2, 3)).sqrt()
    assert [by_key[i, "mean"]["std"] for i in "ab"] == pytest.approx(std.tolist())
    low, high = prediction.samples.min(dim=0).values, prediction.samples.max(dim=0).values
    between = ((low < batch.truth) & (batch.truth < high)).float().mean(dim=(1, 2, 3))
    assert [by_key[i, "mean"]["coverage"] for i in "ab"] == pytest.approx(between.tolist())
    assert 0.1 < float(between.mean()) < 0.6  # of two samples a third
    assert "seconds" not in by_key["a", "mean"]


def test_the_summary_counts_each_image_once_over_batches(field):
    one, two = make_module(field, num_samples=2), make_module(field, num_samples=2)
    one.predict_step(make_batch("abc"), 0)
    for ids in ("a", "bc"):
        two.predict_step(make_batch(ids), 0)
    for kind, name in [("sample", "psnr"), ("mean", "l2"), ("mean", "std")]:
        whole, parts = one.means.compute()[kind][name], two.means.compute()[kind][name]
        assert whole["count"] == parts["count"] == 3
        assert whole["mean"] == pytest.approx(parts["mean"], rel=0.05)  # noise here is the batch's own


def test_recorded_images_count_like_new_ones(field):
    module, resumed = make_module(field), make_module(field)
    records = module.predict_step(make_batch("ab"), 0).records
    resumed.means.count(records)
    assert resumed.means.compute() == module.means.compute()


def test_costs_are_per_sample(field):
    module = make_module(field, DPS(RespacedSigmas(7)), num_samples=3)
    records = module.predict_step(make_batch("ab"), 0).records
    samples = [r for r in records if r["sample"] != "mean"]
    assert {(r["nfe_forward"], r["nfe_backward"]) for r in samples} == {(7.0, 7.0)}
    assert all(r["seconds"] > 0 for r in samples)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_truth_only_residual_and_cost_are_reported(field):
    module = make_module(field, num_samples=2)
    records = module.predict_step(make_batch("ab", truth_known=False), 0).records
    assert set(records[0]) == {"id", "sample", "residual", "nfe_forward", "nfe_backward", "seconds"}
    summary = module.means.compute()["sample"]
    assert summary["psnr"]["mean"] is None
    assert summary["residual"]["count"] == 2


def test_an_empty_batch_gives_nothing(field):
    assert make_module(field).predict_step(Batch([], 0, None, None), 0) is None


def test_a_sampler_that_returns_nan_is_named(field):
    class Broken(Sampler):
        def __call__(self, prior, measurement, rng, observe=None):
            x = torch.zeros(len(measurement.y), *measurement.image_shape)
            x[1] = float("nan")
            return x

    module = make_module(field, Broken(), num_samples=2)
    prediction = module.predict_step(make_batch("abc"), 0)
    assert list(prediction.failed) == ["b"]
    assert prediction.failed["b"].startswith("image b, sample 0: NaN or infinite values")
    assert prediction.batch.ids == ["a", "c"]
    assert prediction.samples.shape == (2, 2, *SHAPE)
    assert {(r["id"], r["sample"]) for r in prediction.records} == {(i, k) for i in "ac" for k in (0, 1, "mean")}
    assert module.means.compute()["sample"]["psnr"]["count"] == 2


@pytest.mark.parametrize("early", [False, True])
def test_what_becomes_of_an_image_does_not_depend_on_its_batch(field, early):
    """Image b diverges, to infinity, which clipping would hide; its sampler may or may not look before the end."""

    class Broken(Sampler):
        def __call__(self, prior, measurement, rng, observe=None):
            x = rng.randn("x", measurement.image_shape)
            x[[image_id == "b" for image_id, _ in rng.rows], 0, 0, 0] = float("inf")
            return (check_finite(x, rng, "a stage") if early else x).clamp(-1e38, 1e38 if early else float("inf"))

    together = make_module(field, Broken(), num_samples=2).predict_step(make_batch("abc"), 0)
    alone = [make_module(field, Broken(), num_samples=2).predict_step(make_batch(i), 0) for i in "abc"]
    assert list(together.failed) == ["b"] == [i for prediction in alone for i in prediction.failed]
    assert together.batch.ids == ["a", "c"] == [i for prediction in alone for i in prediction.batch.ids]
    for prediction in (together, alone[1]):
        assert prediction.failed["b"].startswith("image b, sample 0: NaN or infinite values in ")
    assert alone[1].records == []
    assert {record["id"] for record in together.records} == {"a", "c"}


def test_when_all_images_diverge_each_is_named(field):
    class Broken(Sampler):
        def __call__(self, prior, measurement, rng, observe=None):
            return check_finite(torch.full((len(measurement.y), *measurement.image_shape), float("nan")), rng, "it")

    prediction = make_module(field, Broken()).predict_step(replace(make_batch("ab"), failed={"x": "bad file"}), 0)
    assert list(prediction.failed) == ["x", "a", "b"]
    assert prediction.failed["b"].startswith("image b, sample 0: NaN or infinite values in it;")
    assert (prediction.batch.ids, prediction.records) == ([], [])
    with pytest.raises(Diverged, match=r"image a, sample 0: NaN .* all 2 images of the batch"):
        Broken()(field, make_batch("ab").measurement, Streams(0, "ab"))


def test_images_that_the_prior_cannot_take_fail_and_the_others_go_on(field):
    field.channels, field.size, field.size_multiple = 3, (32, 32), 16
    module = make_module(field)
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("posterior.module.warn_once", said.append)
        for _ in range(2):
            assert module.predict_step(make_batch("ab"), 0).failed == {}
    assert said == [field.check_images(SHAPE)]  # once for its shape
    field.size_multiple = None
    prediction = make_module(field).predict_step(make_batch("ab"), 0)
    assert list(prediction.failed) == ["a", "b"]
    assert prediction.failed["b"] == (
        "image b: GaussianFieldPrior is for images (3, 32, 32), these are (3, 16, 16): set data.init_args.size 32"
    )
    assert field.cost.forward == 0  # of the exact sampler


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_samples_are_float32(field, dtype):
    class Odd(Sampler):
        def __call__(self, prior, measurement, rng, observe=None):
            return torch.ones(len(rng), *SHAPE).to(dtype).requires_grad_(dtype == torch.float64)

    module = make_module(field, Odd(), metrics=[Residual()])
    if dtype == torch.float64:
        samples = module.predict_step(make_batch("ab"), 0).samples
        assert (samples.dtype, samples.requires_grad) == (torch.float32, False)
    else:
        with pytest.raises(UserError, match=f"Odd must return samples in torch.float32, got {dtype}"):
            module.predict_step(make_batch("ab"), 0)


@pytest.mark.parametrize("returned", [None, torch.zeros(1, *SHAPE)])
def test_a_sampler_that_returns_something_else_is_named(field, returned):
    class Odd(Sampler):
        def __call__(self, prior, measurement, rng, observe=None):
            return returned

    with pytest.raises(UserError, match=r"Odd must return samples of shape \(2, 3, 16, 16\)"):
        make_module(field, Odd()).predict_step(make_batch("ab"), 0)


def test_an_infinite_metric_costs_its_image_alone(field):
    class Perfect(Sampler):
        def __call__(self, prior, measurement, rng, observe=None):
            return torch.stack([batch.truth[0], batch.truth[1] / 2])

    batch = make_batch("ab")
    module = make_module(field, Perfect(), metrics=[PSNR()])
    prediction = module.predict_step(batch, 0)
    assert prediction.failed == {"a": "image a: psnr is inf, which cannot be averaged"}
    assert prediction.batch.ids == ["b"] == [record["id"] for record in prediction.records]
    assert prediction.samples.shape == (1, 1, *SHAPE)
    assert module.means.compute()["sample"]["psnr"]["count"] == 1


def test_pictures_too_small_for_a_metric_go_without_it(field, lpips_weights):
    module = make_module(field, metrics=[LPIPS("alex"), PSNR()])
    assert set(module.predict_step(make_batch("a"), 0).records[0]) >= {"psnr"}
    assert "lpips_alex" not in module.predict_step(make_batch("a"), 0).records[0]
    small = torch.rand(1, 3, 32, 32)
    assert torch.isfinite(LPIPS("alex")(small, small.flip(-1), make_batch("a").measurement)).all()


def test_metrics_of_pictures_leave_complex_images_out(field):
    truth = torch.rand(1, 2, 16, 16)
    operator = CartesianMRI(4, 0.1).realise((2, 16, 16), [stream(0, "a", -1, "operator")])
    measurement = Measurement.simulate(truth, operator, GaussianNoise(0.1), torch.randn_like(truth))
    module = make_module(field, metrics=[L2(), PSNR(), Residual()])
    assert set(module.evaluate(truth + 0.1, Batch(["a"], 0, measurement, truth))) == {"l2", "residual"}
    with pytest.raises(UserError, match=r"model\.metrics: two of them have the same name"):
        make_module(field, metrics=[PSNR(), MagnitudePSNR()])


def test_failures_to_measure_are_passed_on(field):
    prediction = make_module(field).predict_step(Batch([], 0, None, None, {"x": "cannot be read"}), 0)
    assert prediction.failed == {"x": "cannot be read"}
    assert prediction.records == []


def test_there_must_be_a_sample(field):
    with pytest.raises(UserError, match="num_samples must be >= 1"):
        make_module(field, num_samples=0)


def test_the_prior_is_frozen(field):
    field.extra = torch.nn.Linear(2, 2)
    module = make_module(field.train())
    assert [p.requires_grad for p in module.prior.parameters()] == [False, False]
    assert not module.prior.training


def test_the_best_and_the_oracles_choice_are_among_the_samples(field):
    module, batch = make_module(field, num_samples=4, pick_best=True), make_batch("abc")
    prediction = module.predict_step(batch, 0)
    by_key = {(r["id"], r["sample"]): r for r in prediction.records}
    assert {str(label) for _, label in by_key} == module.record_labels(truth_known=True)
    for image_id in "abc":
        samples = [by_key[image_id, k] for k in range(4)]
        for kind, name in (("best", "residual"), ("oracle", "l2")):
            number = min(range(4), key=lambda k, name=name, samples=samples: samples[k][name])
            expected = {name: samples[number][name] for name in ("l2", "psnr", "residual")}
            assert by_key[image_id, kind] == {"id": image_id, "sample": kind, "picked": number} | expected
    summary = module.means.compute()
    assert summary["best"]["residual"]["mean"] < summary["sample"]["residual"]["mean"]
    assert summary["oracle"]["l2"]["mean"] < summary["sample"]["l2"]["mean"]
    assert summary["oracle"]["l2"]["count"] == 3
    with pytest.raises(UserError, match="num_samples must be >= 2"):
        make_module(field, num_samples=1, pick_best=True)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_truth_there_is_no_oracle(field):
    module = make_module(field, num_samples=2, pick_best=True)
    records = module.predict_step(make_batch("a", truth_known=False), 0).records
    assert {str(r["sample"]) for r in records} == module.record_labels(truth_known=False) == {"0", "1", "mean", "best"}
