"""Everything runs on an accelerator, with no wait that has no name: tried on one that is not there (fake tensors)."""

import inspect

import lpips
import pytest
import torch

import posterior.metrics
import posterior.noise
import posterior.operators
import posterior.samplers
from posterior import Measurement, Streams, stream, waits
from posterior.measurement import Measurement as Measured
from posterior.metrics import (
    HFEN,
    L2,
    LPIPS,
    NMSE,
    PSNR,
    SSIM,
    ClosureAmplitudeChi2,
    ClosurePhaseChi2,
    ImageMetric,
    MagnitudePSNR,
    MagnitudeSSIM,
    MeanOverImages,
    PixelFeatures,
    Residual,
)
from posterior.noise import GaussianNoise, Likelihood, PoissonNoise, VaryingNoise
from posterior.one_bit import BlurredBits, OneBit
from posterior.operators import (
    AcousticWaves,
    CartesianMRI,
    Decoded,
    EHTGains,
    EHTVisibilities,
    FunctionOperator,
    GaussianSensing,
    InverseScattering,
    KernelWizard,
    LinearFunctionOperator,
    LinearOperator,
    MotionBlur,
    NavierStokes,
    NonCartesianMRI,
    Operator,
    ParallelBeam,
    PhaseRetrieval,
    Radial,
    RandomInpainting,
    Saturation,
    SubsampledTransform,
    SuperResolution,
)
from posterior.operators.nonlinear_blur import EncodedBlur
from posterior.priors import (
    AzulaPrior,
    ChannelwisePrior,
    Decoder,
    DiffusersPrior,
    DiffusionPrior,
    EDMPrior,
    EmpiricalPrior,
    FlowPrior,
    GaussianFieldPrior,
    GaussianMixturePrior,
    LatentPrior,
    RescaledPrior,
    ScoreNetworkPrior,
    SongUNet,
    UNet,
)
from posterior.priors.to_diffusers import write_diffusers
from posterior.samplers import (
    DAPS,
    DDRM,
    DPS,
    FPSSMC,
    JFPS,
    LGD,
    MCG,
    MMPS,
    TDS,
    AnnealedLangevin,
    ConditionalDescent,
    DDNMPlus,
    DiffPIR,
    DPSPlus,
    ExactEmpirical,
    ExactGaussian,
    ExactMixture,
    FilteredBackProjection,
    GeometricAnnealing,
    GeometricSigmas,
    InLatents,
    KarrasSigmas,
    KineticLangevin,
    LangevinSteps,
    Lasso,
    ListedSigmas,
    MCGDiff,
    MetropolisSteps,
    PiGDM,
    PnPDM,
    Projection,
    ProximalDenoising,
    PublishedAnnealing,
    RandomisedMaximumLikelihood,
    REDDiff,
    RespacedSigmas,
    ReverseDiffusion,
    Sampler,
    TotalVariation,
)
from posterior.samplers.lasso import wavelet_matrix
from tests.fake_device import FakeDevice, HiddenWait

IDS, SIDE = ["a", "b"], 8


@pytest.fixture
def device(monkeypatch) -> FakeDevice:
    return FakeDevice(monkeypatch)


def streams(purpose="operator"):
    return [stream(0, image_id, -1, purpose) for image_id in IDS]


def network(device: FakeDevice, channels=3):
    unet = UNet(SIDE, num_channels=32, channel_mult=(1, 1), attention_resolutions=(4,), in_channels=channels)
    return device.module(DiffusionPrior(unet))


def few_layers(device: FakeDevice):
    """For what is about the sampler: the first two run all of `network`, forward and backward."""
    unet = UNet(SIDE, num_channels=32, num_res_blocks=1, channel_mult=(1,), attention_resolutions=())
    return device.module(DiffusionPrior(unet))


class Negative(Decoder):
    """x = -z, latents as large as the images."""

    channels, latent_channels, factor = 3, 3, 1

    def forward(self, z):
        return -z


def in_latents(device: FakeDevice):
    return device.module(LatentPrior(few_layers(device), Negative()))


def gaussian_prior(device, field):
    return device.module(field)


def mixture(device):
    size = 3 * SIDE * SIDE
    directions, _ = torch.linalg.qr(torch.randn(2, size, 4))
    means = torch.zeros(2, 3, SIDE, SIDE)
    return device.module(
        GaussianMixturePrior(torch.full((2,), 0.5), means, directions, torch.ones(2, 4), torch.ones(2))
    )


def given(width: float):
    return lambda device: device.module(EmpiricalPrior(torch.zeros(5, 3, SIDE, SIDE), width))


def measurement(device: FakeDevice, operator: Operator, likelihood: Likelihood | None = None) -> Measured:
    y = torch.zeros(len(IDS), *operator.measurement_shape)
    return Measurement(device.empty(y), device.operator(operator), likelihood or GaussianNoise(0.1))


BLUR = SuperResolution(2, "average")
ENDING = ReverseDiffusion(ListedSigmas([0.0]))
WARM = {"warm_start": ProximalDenoising(GeometricSigmas(3, 3.0, 0.3)), "anchor_sigma": 0.3}

SAMPLERS = {
    # sampler of n steps, prior, operator family, likelihood -> waits by name, of a call
    "ReverseDiffusion": (
        lambda n: ReverseDiffusion(RespacedSigmas(n)),
        network,
        BLUR,
        {"finite?": 1, "random keys": 2},
    ),
    "DPS": (lambda n: DPS(RespacedSigmas(n)), network, BLUR, {"finite?": 1, "random keys": 2}),
    "DPS, photons": (
        lambda n: DPS(RespacedSigmas(n)),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 2},
        PoissonNoise(),
    ),
    "DPSPlus": (lambda n: DPSPlus(RespacedSigmas(n)), few_layers, BLUR, {"finite?": 1, "random keys": 3}),
    "Projection": (
        lambda n: Projection(RespacedSigmas(n)),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 3, "operator norm": 2},
    ),
    "MCG": (
        lambda n: MCG(RespacedSigmas(n)),
        few_layers,
        RandomInpainting(),
        {"finite?": 1, "random keys": 3, "operator norm": 2},
    ),
    "ProximalDenoising": (
        lambda n: ProximalDenoising(RespacedSigmas(n), covariance="jacobian"),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 2, "operator basis": 1},
    ),
    "ProximalDenoising, no basis": (
        lambda n: ProximalDenoising(RespacedSigmas(n)),
        few_layers,
        MotionBlur(5),
        {"finite?": 1, "random keys": 2},
    ),
    "ConditionalDescent": (
        lambda n: ConditionalDescent(GeometricSigmas(n, 3.0, 0.5), GeometricSigmas(n, 1.0, 0.003)),
        few_layers,
        BLUR,
        {"finite?": 2, "random keys": 4, "operator basis": 1},
    ),
    "PiGDM": (
        lambda n: PiGDM(RespacedSigmas(n)),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 2, "operator basis": 1},
    ),
    "DiffPIR": (
        lambda n: DiffPIR(RespacedSigmas(n)),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 2, "operator basis": 1},
    ),
    "DAPS": (
        lambda n: DAPS(KarrasSigmas(n, 100.0, 0.1)),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 3, "operator norm": 1},
    ),
    "DAPS, Metropolis": (
        lambda n: DAPS(KarrasSigmas(n, 100.0, 0.1), likelihood_step=MetropolisSteps(n)),
        few_layers,
        MotionBlur(5),
        {"finite?": 1, "random keys": 4},
    ),
    "PnPDM": (
        lambda n: PnPDM(2, 0.3, 0.3, 1.0, schedule=KarrasSigmas(n, 100.0, 0.1)),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 4, "operator basis": 1},
    ),
    "PnPDM, Langevin": (
        lambda n: PnPDM(n, 0.3, 0.3, 1.0, schedule=KarrasSigmas(n, 100.0, 0.1), likelihood_step=LangevinSteps(n)),
        few_layers,
        MotionBlur(5),
        {"finite?": 1, "random keys": 3},
    ),
    "REDDiff": (lambda n: REDDiff(RespacedSigmas(n)), few_layers, BLUR, {"finite?": 1, "random keys": 1}),
    "DDRM": (
        lambda n: DDRM(RespacedSigmas(n)),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 2, "operator basis": 1},
    ),
    "MMPS": (lambda n: MMPS(RespacedSigmas(n), num_steps=2), few_layers, BLUR, {"finite?": 1, "random keys": 2}),
    "TDS": (
        lambda n: TDS(RespacedSigmas(n), 3),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 4, "operator basis": 1},
    ),
    "DDNMPlus": (
        lambda n: DDNMPlus(RespacedSigmas(n), travel_repeat=2),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 3, "operator basis": 1},
    ),
    "JFPS": (
        lambda n: JFPS(RespacedSigmas(n)),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 2, "operator basis": 1},
    ),
    "InLatents": (
        lambda n: InLatents(DPS(RespacedSigmas(n), clip_denoised=False)),
        in_latents,
        BLUR,
        {"finite?": 1, "random keys": 2},
    ),
    "LGD": (lambda n: LGD(RespacedSigmas(n)), few_layers, BLUR, {"finite?": 1, "random keys": 3}),
    "MCGDiff": (
        lambda n: MCGDiff(RespacedSigmas(n), num_particles=2),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 4, "operator basis": 1},
    ),
    "FPSSMC": (
        lambda n: FPSSMC(RespacedSigmas(n), num_particles=2),
        few_layers,
        BLUR,
        {"finite?": 1, "random keys": 5, "operator basis": 1},
    ),
    "AnnealedLangevin": (
        lambda n: AnnealedLangevin(
            1e-3,
            averaged_noise=True,
            reverse=ReverseDiffusion(RespacedSigmas(n)),
            schedule=PublishedAnnealing(num_levels=n),
            ending=ENDING,
            score_sigma=0.1,
            **WARM,
        ),
        few_layers,
        BLUR,
        {"finite?": 4, "random keys": 6, "operator basis": 1},
    ),
    "AnnealedLangevin, photons": (
        lambda n: AnnealedLangevin(
            1e-5, reverse=ReverseDiffusion(RespacedSigmas(n)), schedule=PublishedAnnealing(num_levels=n)
        ),
        few_layers,
        BLUR,
        {"finite?": 2, "random keys": 4},
        PoissonNoise(),
    ),
    "KineticLangevin": (
        lambda n: KineticLangevin(
            reverse=None, schedule=GeometricAnnealing(n), score_sigma=0.1, score_sigma_top=0.3, ending=ENDING, **WARM
        ),
        few_layers,
        BLUR,
        {"finite?": 3, "random keys": 6, "operator norm": 1, "operator basis": 1},
    ),
    "KineticLangevin, told y": (
        lambda n: KineticLangevin(
            reverse=None,
            schedule=GeometricAnnealing(n),
            score_sigma=0.3,
            conditional_score=True,
            ending=ConditionalDescent(),
            **WARM,
        ),
        few_layers,
        BLUR,
        {"finite?": 3, "random keys": 7, "operator norm": 1, "operator basis": 1},
    ),
    "KineticLangevin, photons": (
        lambda n: KineticLangevin(
            reverse=ReverseDiffusion(RespacedSigmas(n)), schedule=PublishedAnnealing(num_levels=n), score_sigma=0.1
        ),
        few_layers,
        BLUR,
        {"finite?": 2, "random keys": 5, "operator norm": 1},
        PoissonNoise(),
    ),
    "Lasso": (lambda n: Lasso(num_steps=n), few_layers, BLUR, {"finite?": 1, "operator norm": 1, "wavelets": 2}),
    "TotalVariation": (lambda n: TotalVariation(num_steps=n), few_layers, BLUR, {"finite?": 1, "operator norm": 1}),
    "FilteredBackProjection": (
        lambda n: FilteredBackProjection(),
        few_layers,
        ParallelBeam(5),
        {"finite?": 1, "ramp filter": 2},
    ),
    "ExactGaussian": (
        lambda n: ExactGaussian(),
        "field",
        BLUR,
        {"finite?": 1, "random keys": 2, "spectrum": 2, "probe image": 2, "converged?": 1},
    ),
    "RandomisedMaximumLikelihood": (
        lambda n: RandomisedMaximumLikelihood(n, 2),
        "field",
        PhaseRetrieval(),
        {"finite?": 1, "random keys": 2, "spectrum": 2},
    ),
    "ExactMixture": (
        lambda n: ExactMixture(),
        mixture,
        BLUR,
        {
            "random keys": 3,
            "rows of an image": 2,
            "measured entries": 4,
            "blocks": 4,
            "factorisation": 4,
            "mixture components": 4,
        },
    ),
    "ExactEmpirical": (
        lambda n: ExactEmpirical(),
        given(0.0),
        PhaseRetrieval(),
        {"random keys": 2, "rows of an image": 2, "finite?": 1},
    ),
    "ExactEmpirical, blurred": (
        lambda n: ExactEmpirical(),
        given(0.3),
        BLUR,
        {"random keys": 2, "rows of an image": 2, "factorisation": 2, "finite?": 1},
    ),
    "ExactEmpirical, drawn": (
        lambda n: ExactEmpirical(least_draws=1.0),
        given(0.3),
        PhaseRetrieval(),
        {"random keys": 2, "rows of an image": 2, "importance draws": 8, "finite?": 3},
    ),
}


def run(device: FakeDevice, name: str, num_steps: int, field: GaussianFieldPrior) -> dict[str, int]:
    make, prior_of, family, _, *likelihood = SAMPLERS[name]
    sampler = make(num_steps)
    prior = gaussian_prior(device, field) if prior_of == "field" else prior_of(device)
    measured = measurement(device, family.realise((3, SIDE, SIDE), streams()), *likelihood)
    device.rows = 1  # of an image
    for side in (SIDE, SIDE // 2):
        wavelet_matrix("db4", side)  # a table of the host, kept
    device.watch.counts.clear()
    seen = []
    with device.running():
        rng = Streams(0, IDS, device="cuda")
        with torch.no_grad():
            samples = sampler(prior, measured, rng, lambda stage, step, total, x: seen.append(x.device.type))
    assert samples.device.type == "cuda"
    assert samples.shape == (2, 3, SIDE, SIDE)
    assert set(seen) == {"cuda"}
    return device.counts


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_waits_only_where_it_says_so(device, field, name):
    expected = SAMPLERS[name][3]
    assert run(device, name, 4, field) == expected
    field._cached.clear()
    assert name.startswith("Exact") or run(device, name, 9, field) == expected  # no wait in a step


def concrete(module, base):
    found = {value.__name__ for value in vars(module).values() if inspect.isclass(value) and issubclass(value, base)}
    return {name for name in found if not inspect.isabstract(getattr(module, name, base))}


def test_no_sampler_is_left_out():
    assert {name.split(",")[0] for name in SAMPLERS} == concrete(posterior.samplers, Sampler)


@pytest.mark.parametrize("name", ["ReverseDiffusion", "DPS", "AnnealedLangevin", "KineticLangevin"])
def test_a_planted_wait_is_found(device, field, monkeypatch, name):
    score = torch.Tensor.clamp if name == "DPS" else DiffusionPrior._predict

    def planted(self, *arguments, **settings):
        found = score(self, *arguments, **settings)
        float((found if isinstance(found, torch.Tensor) else found[0]).sum())
        return found

    monkeypatch.setattr(*((torch.Tensor, "clamp") if name == "DPS" else (DiffusionPrior, "_predict")), planted)
    with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
        run(device, name, 4, field)


@pytest.mark.parametrize("plant", [lambda x: x.cpu(), lambda x: x + torch.zeros(SIDE, SIDE).to(x)])
def test_a_planted_copy_is_found(device, field, monkeypatch, plant):
    predict = DiffusionPrior._predict

    def planted(self, x, sigma):
        plant(x)
        return predict(self, x, sigma)

    monkeypatch.setattr(DiffusionPrior, "_predict", planted)
    with pytest.raises(HiddenWait, match="_to_copy"):
        run(device, "ReverseDiffusion", 4, field)


def test_a_tensor_left_on_the_host_is_found(device, field, monkeypatch):
    predict = DiffusionPrior._predict
    monkeypatch.setattr(DiffusionPrior, "_predict", lambda self, x, sigma: predict(self, x + torch.zeros(SIDE), sigma))
    with pytest.raises(RuntimeError, match=r"device|cpu"):
        run(device, "ReverseDiffusion", 4, field)


def operators() -> dict[str, Operator]:
    colour, complex_ = (3, SIDE, SIDE), (2, 32, 32)
    found = [
        RandomInpainting().realise(colour, streams()),
        SuperResolution(2).realise(colour),
        MotionBlur(5).realise(colour, streams()),
        CartesianMRI(2.0, 0.1).realise(complex_, streams()),
        CartesianMRI(2.0, 0.1, num_coils=2).realise(complex_, streams()),
        NonCartesianMRI(Radial(4, 16)).realise(complex_),
        GaussianSensing(7).realise(colour),
        SubsampledTransform(0.5).realise(colour, streams()),
        PhaseRetrieval().realise(colour),
        Decoded(PhaseRetrieval().realise(colour), torch.neg, colour),
        FunctionOperator(torch.square, colour, 3 * SIDE * SIDE),
        LinearFunctionOperator(torch.neg, colour, torch.zeros(1, *colour)),
        ParallelBeam(5).realise(colour),
        Saturation(scale=2).realise(colour),
        InverseScattering(2.0, 1.0, 2, 3).realise((1, SIDE, SIDE)),
        EHTVisibilities(scans=2).realise((1, SIDE, SIDE)),
        EHTGains(scans=2).realise((1, SIDE, SIDE), streams()),
        NavierStokes(time=0.05, steps=2).realise((1, SIDE, SIDE)),
        AcousticWaves(steps=2, every=1, shots=2).realise((1, SIDE, SIDE)),
        EncodedBlur(torch.zeros(2, 512, 1, 1), (3, 128, 128), "none"),
    ]
    return {type(operator).__name__: operator for operator in found}


WAITS_OF_OPERATORS = {
    "Separable": {"operator norm": 1, "operator basis": 1},
    "Dense": {"operator norm": 1, "operator basis": 1},
    "RayTransform": {"operator basis": 1},
    "NonuniformFourier": {"operator norm": 1},
    "RingFields": {"operator norm": 1, "operator basis": 1},
    "Visibilities": {"operator norm": 1, "operator basis": 1},
}


@pytest.mark.parametrize("name", operators())
def test_an_operator_stays_on_the_device(device, monkeypatch, name):
    wizard = device.module(KernelWizard()) if name == "EncodedBlur" else None
    monkeypatch.setattr("posterior.operators.nonlinear_blur.kernel_wizard", lambda *arguments: wizard)
    operator = device.operator(operators()[name])
    with device.running():
        x = torch.empty(len(IDS), *operator.image_shape, device="cuda")
        y = operator.forward(x)
        found = [y, operator.vjp(x, y), operator.restrict(y), operator.view(y), operator.parameters_view()]
        found.append(
            operator.rows(torch.zeros(3, dtype=torch.int64, device="cuda")).forward(x[:1].expand(3, -1, -1, -1))
        )
        if isinstance(operator, LinearOperator):
            found += [operator.adjoint(y), operator.solve(x, 0.1), operator.solve(x, 0.2)]
            operator.norm_bound()
        measured = Measurement(y, operator, GaussianNoise())
        found += [measured.distance(x), measured.relative_residual(x), measured.log_likelihood_grad(x)]
    assert {part.device.type for part in found if part is not None} == {"cuda"}
    assert device.counts == WAITS_OF_OPERATORS.get(name, {})


def test_no_operator_is_left_out():
    exported = concrete(posterior.operators, Operator)
    assert exported == set(operators())


@pytest.mark.parametrize(
    "likelihood",
    [GaussianNoise(), PoissonNoise(), VaryingNoise(torch.ones(2, 3, 4, 4)), OneBit(), BlurredBits(0.1, 0.1)],
)
def test_a_likelihood_stays_on_the_device(device, likelihood):
    if isinstance(likelihood, VaryingNoise):
        likelihood = VaryingNoise(device.empty(likelihood.variances))
    with device.running():
        y, clean = (torch.empty(2, 3, 4, 4, device="cuda") for _ in range(2))
        found = [
            likelihood.score(y, clean),
            likelihood.distance(y, clean),
            likelihood.annealed(0.1, y).distance(y, clean),
            likelihood.log_prob(y, clean),
        ]
        found.append(likelihood.rows(torch.zeros(2, dtype=torch.int64, device="cuda")).score(y, clean))
        assert device.counts == {}
        found.append(likelihood.sample(clean, y))  # photons are counted on the host
        likelihood.check(clean, "it")
    assert {part.device.type for part in found} == {"cuda"}
    assert device.counts == ({"photon counts": 2, "range of the measurement": 1} if likelihood.most else {})


def test_no_likelihood_is_left_out():
    assert concrete(posterior.noise, Likelihood) == {"GaussianNoise", "PoissonNoise", "VaryingNoise"}


def closures() -> list[ImageMetric]:
    return [ClosurePhaseChi2(), ClosureAmplitudeChi2()]


def metrics() -> list[ImageMetric]:
    perceptual = LPIPS("alex")
    perceptual.unavailable = None
    perceptual.network = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    return [L2(), PSNR(), SSIM(), perceptual, Residual(), NMSE(), MagnitudePSNR(), MagnitudeSSIM(), HFEN(), *closures()]


WAITS_OF_METRICS = {"MagnitudeSSIM": {"metric on the host": 2}, "PSNR": {"torchmetrics": 1}}


@pytest.mark.usefixtures("no_lpips_weights")
def test_metrics_stay_on_the_device(device):
    assert {type(metric).__name__ for metric in metrics()} == concrete(posterior.metrics, ImageMetric)
    for metric in metrics():
        device.watch.counts.clear()
        operator: Operator = RandomInpainting().realise((2 if metric.channels == (1, 2) else 3, 64, 64), streams())
        if type(metric) in map(type, closures()):
            operator = EHTGains(scans=2).realise((1, SIDE, SIDE), streams())
        measured = measurement(device, operator)
        device.module(metric)
        with device.running():
            x = torch.empty(2, *operator.image_shape, device="cuda")
            assert metric(x, x, measured).device.type == "cuda"
        assert device.counts == WAITS_OF_METRICS.get(type(metric).__name__, {})


def test_means_and_features_of_pictures(device):
    class Colour(PixelFeatures):
        name = "colour"

        def of_resized(self, pixels):
            return pixels.mean(dim=(2, 3))

    mean = MeanOverImages(local=True)
    with device.running():
        features = Colour()(torch.empty(2, 3, SIDE, SIDE, device="cuda"))
        assert features.device.type == "cuda"
        mean._device = torch.device("cuda")
        mean.update(torch.empty(2, device="cuda"))
        assert mean.values[0].device.type == "cuda"
    assert device.counts == {"pixels": 2, "finite?": 1}


class TakesOneTime(torch.nn.Module):
    """A network of any number that goes with the images."""

    def forward(self, x, t):
        return x * t.view(-1, 1, 1, 1)


def asked_priors():
    unet = UNet(SIDE, num_channels=32, channel_mult=(1, 1), attention_resolutions=(), learn_sigma=False)
    classes = UNet(SIDE, num_channels=32, channel_mult=(1,), attention_resolutions=(), num_classes=3, label=1)
    edm = SongUNet(SIDE, model_channels=8, channel_mult=(1, 2), num_blocks=1, label_dim=3)
    score = ScoreNetworkPrior(TakesOneTime(), 0.1, 10.0)
    return {
        "diffusion": DiffusionPrior(unet),
        "classes": DiffusionPrior(classes),
        "score": score,
        "EDM": EDMPrior(edm, num_classes=3, label=2),
        "flow": FlowPrior(TakesOneTime(), "noise"),
        "rescaled": RescaledPrior(score),
        "channelwise": ChannelwisePrior(score),
    }


@pytest.mark.parametrize("kind", asked_priors())
def test_a_prior_waits_by_name_and_for_a_number_never(device, kind):
    prior = device.module(asked_priors()[kind])
    with device.running():
        x = torch.empty(2, 3, SIDE, SIDE, device="cuda")
        assert prior.denoise(x, 0.5).device.type == "cuda"
        assert device.counts == {}
        assert prior.denoise(x, torch.empty(2, device="cuda")).device.type == "cuda"
    timesteps = {"timesteps": 2} if kind in ("diffusion", "classes") else {}
    assert device.counts == {"range of sigma": 1} | timesteps


def test_a_network_of_diffusers_stays_on_the_device(device, tmp_path):
    pytest.importorskip("diffusers")
    write_diffusers(asked_priors()["classes"], tmp_path)
    prior = device.module(DiffusersPrior(tmp_path, label=1))
    with device.running():
        x = torch.empty(2, 3, SIDE, SIDE, device="cuda")
        assert prior.denoise(x, 0.5).device.type == "cuda"
        assert device.counts == {}
        assert prior.denoise(x, torch.empty(2, device="cuda")).device.type == "cuda"
    assert device.counts == {"range of sigma": 1, "timesteps": 2}


def test_a_denoiser_of_azulas_stays_on_the_device(device):
    pytest.importorskip("azula")
    from azula.denoise import KarrasDenoiser
    from azula.noise import VPSchedule

    class Backbone(TakesOneTime):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

    prior = device.module(AzulaPrior(KarrasDenoiser(Backbone(), VPSchedule())))
    with device.running():
        x = torch.empty(2, 3, SIDE, SIDE, device="cuda")
        assert prior.denoise(x, torch.empty(2, device="cuda")).device.type == "cuda"
    assert device.counts == {"range of sigma": 1}


def test_on_a_cpu_the_doors_change_nothing():
    x = torch.tensor([1.0, 2.0])
    assert waits.fetch("it", x) == [1.0, 2.0]
    assert waits.on_host("it", lambda y: y is x, x)
    assert waits.to_device("it", x, x) is x
    assert waits.to_device("it", torch.ones(1, dtype=torch.int64), x).dtype == torch.int64
