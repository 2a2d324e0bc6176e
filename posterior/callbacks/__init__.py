"""Callbacks: what a run writes and shows."""

from posterior.callbacks.journal import Journal
from posterior.callbacks.progress import SamplingProgress
from posterior.callbacks.results import ResultWriter
from posterior.callbacks.table import format_table
from posterior.callbacks.training import TrainingWriter

__all__ = ["Journal", "ResultWriter", "SamplingProgress", "TrainingWriter", "format_table"]
