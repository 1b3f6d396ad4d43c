"""``make docs``: writes the reference of all settings to stdout."""

import sys

from labeling_ground.settings.reference import as_markdown

sys.stdout.write(as_markdown())
