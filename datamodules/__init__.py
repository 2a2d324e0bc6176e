"""Images and measurements, by id."""

from datamodules.array import ImageArray
from datamodules.base import ImageData, MeasuredData
from datamodules.ct import CTPhantomImages, CTPhantoms, CTSlices
from datamodules.drawn import DrawnData
from datamodules.folder import ImageFolder
from datamodules.idx import IdxImages, IdxImageSet
from datamodules.mri import MRISlices, PhantomImages, Phantoms
from datamodules.photos import PhotoCrops, Photographs
from datamodules.recorded import RecordedMeasurements
from datamodules.recorded_kspace import RecordedKSpace
from datamodules.scenes import BlackHole, Cells, Layers, Scene, SceneImages, Scenes, Vortices
from datamodules.squares import SquareImages
from datamodules.toon import ToonFaces
from datamodules.training import DrawnImages, FolderImages, ImageSet, ToonFaceImages, TrainingImages

__all__ = [
    "BlackHole",
    "CTPhantomImages",
    "CTPhantoms",
    "CTSlices",
    "Cells",
    "DrawnData",
    "DrawnImages",
    "FolderImages",
    "IdxImageSet",
    "IdxImages",
    "ImageArray",
    "ImageData",
    "ImageFolder",
    "ImageSet",
    "Layers",
    "MRISlices",
    "MeasuredData",
    "PhantomImages",
    "Phantoms",
    "PhotoCrops",
    "Photographs",
    "RecordedKSpace",
    "RecordedMeasurements",
    "Scene",
    "SceneImages",
    "Scenes",
    "SquareImages",
    "ToonFaceImages",
    "ToonFaces",
    "TrainingImages",
    "Vortices",
]
