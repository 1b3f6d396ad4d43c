"""Label Studio's protocol of machine learning backends. ``docs/tools/label-studio.md`` says how to connect the tool."""

from labeling_ground.adapters.label_studio.backend import create

__all__ = ["create"]
