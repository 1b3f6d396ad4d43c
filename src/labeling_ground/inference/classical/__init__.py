"""The weight-free engine: promptable segmentation by classical image processing."""

from labeling_ground.inference.classical.engine import ClassicalBackend, create

__all__ = ["ClassicalBackend", "create"]
