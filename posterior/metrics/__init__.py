"""Metrics: a number per image, averaged over batches and ranks."""

from posterior.metrics.base import ImageMetric, MeanOverImages
from posterior.metrics.distances import FeatureDistance, distances
from posterior.metrics.features import Inception, PixelFeatures, VGG16Pixels, encode
from posterior.metrics.functionals import Functional
from posterior.metrics.images import L2, LPIPS, PSNR, SSIM, Residual, standard_metrics, unit_range
from posterior.metrics.mri import NMSE, MagnitudePSNR, MagnitudeSSIM
from posterior.metrics.records import RecordMeans, Summary

__all__ = [
    "L2",
    "LPIPS",
    "NMSE",
    "PSNR",
    "SSIM",
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
    "Summary",
    "VGG16Pixels",
    "distances",
    "encode",
    "standard_metrics",
    "unit_range",
]
