"""Metrics: a number per image, averaged over batches and ranks."""

from posterior.metrics.base import ImageMetric, MeanOverImages
from posterior.metrics.images import L2, LPIPS, PSNR, SSIM, Residual, standard_metrics, unit_range

__all__ = [
    "L2",
    "LPIPS",
    "PSNR",
    "SSIM",
    "ImageMetric",
    "MeanOverImages",
    "Residual",
    "standard_metrics",
    "unit_range",
]
