"""Callbacks: what a run writes and shows while it goes on, and whether it may be resumed."""

from posterior.callbacks.progress import SamplingProgress
from posterior.callbacks.results import ResultWriter
from posterior.callbacks.training import TrainingWriter

__all__ = ["ResultWriter", "SamplingProgress", "TrainingWriter"]
