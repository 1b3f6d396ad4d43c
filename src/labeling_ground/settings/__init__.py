"""All settings, in one frozen value that is read once, at start."""

from labeling_ground.settings.fields import ENV_PREFIX
from labeling_ground.settings.read import read_settings
from labeling_ground.settings.settings import Settings

__all__ = ["ENV_PREFIX", "Settings", "read_settings"]
