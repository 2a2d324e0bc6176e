"""Images and measurements, by id."""

from datamodules.array import ImageArray
from datamodules.base import ImageData, MeasuredData
from datamodules.folder import ImageFolder
from datamodules.idx import IdxImages, IdxImageSet
from datamodules.mri import MRISlices, PhantomImages, Phantoms
from datamodules.photos import PhotoCrops, Photographs
from datamodules.recorded import RecordedMeasurements
from datamodules.toon import ToonFaces
from datamodules.training import FolderImages, ImageSet, ToonFaceImages, TrainingImages

__all__ = [
    "FolderImages",
    "IdxImageSet",
    "IdxImages",
    "ImageArray",
    "ImageData",
    "ImageFolder",
    "ImageSet",
    "MRISlices",
    "MeasuredData",
    "PhantomImages",
    "Phantoms",
    "PhotoCrops",
    "Photographs",
    "RecordedMeasurements",
    "ToonFaceImages",
    "ToonFaces",
    "TrainingImages",
]
