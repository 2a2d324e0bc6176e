"""Metrics: a number per image, averaged over batches and ranks."""

from posterior.metrics.base import ImageMetric, MeanOverImages, SampleMetric
from posterior.metrics.classifier import DigitClassifier
from posterior.metrics.closures import ClosureAmplitudeChi2, ClosurePhaseChi2
from posterior.metrics.distances import FeatureDistance, distances
from posterior.metrics.features import Inception, PixelFeatures, VGG16Pixels, encode
from posterior.metrics.functionals import Functional
from posterior.metrics.hfen import HFEN
from posterior.metrics.images import L2, LPIPS, PSNR, SSIM, Residual, standard_metrics, unit_range
from posterior.metrics.mri import NMSE, MagnitudePSNR, MagnitudeSSIM
from posterior.metrics.precision_recall import precision_recall
from posterior.metrics.records import RecordMeans, Summary
from posterior.metrics.samples import AUSE, CRPS, EnergyScore, SpreadOverError

__all__ = [
    "AUSE",
    "CRPS",
    "HFEN",
    "L2",
    "LPIPS",
    "NMSE",
    "PSNR",
    "SSIM",
    "ClosureAmplitudeChi2",
    "ClosurePhaseChi2",
    "DigitClassifier",
    "EnergyScore",
    "FeatureDistance",
    "Functional",
    "ImageMetric",
    "Inception",
    "MagnitudePSNR",
    "MagnitudeSSIM",
    "MeanOverImages",
    "PixelFeatures",
    "RecordMeans",
    "Residual",
    "SampleMetric",
    "SpreadOverError",
    "Summary",
    "VGG16Pixels",
    "distances",
    "encode",
    "precision_recall",
    "standard_metrics",
    "unit_range",
]
