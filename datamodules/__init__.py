"""Images and measurements, by id."""

from datamodules.base import ImageData, MeasuredData
from datamodules.folder import ImageFolder
from datamodules.recorded import RecordedMeasurements
from datamodules.toon import ToonFaces

__all__ = ["ImageData", "ImageFolder", "MeasuredData", "RecordedMeasurements", "ToonFaces"]
