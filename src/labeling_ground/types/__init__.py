"""The values that travel between the parts. They import nothing of ours but the errors."""

from labeling_ground.types.concept import Concept, Detections, Exemplar, Instance
from labeling_ground.types.embedding import Embedding
from labeling_ground.types.entry import COMPUTED, Entry, Kind, StoreStats, Weight
from labeling_ground.types.everything import EverythingOptions
from labeling_ground.types.image import Image, ImageFacts, Stretch
from labeling_ground.types.model import ModelVersion
from labeling_ground.types.outcome import Outcome
from labeling_ground.types.prediction import Mask, Prediction
from labeling_ground.types.priority import Priority
from labeling_ground.types.prompt import Box, Point, Prompt

__all__ = [
    "COMPUTED",
    "Box",
    "Concept",
    "Detections",
    "Embedding",
    "Entry",
    "EverythingOptions",
    "Exemplar",
    "Image",
    "ImageFacts",
    "Instance",
    "Kind",
    "Mask",
    "ModelVersion",
    "Outcome",
    "Point",
    "Prediction",
    "Priority",
    "Prompt",
    "StoreStats",
    "Stretch",
    "Weight",
]
