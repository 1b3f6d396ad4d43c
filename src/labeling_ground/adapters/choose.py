"""The adapters by name."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from labeling_ground.adapters import cvat, label_studio, qupath, roboflow, x_anylabeling
from labeling_ground.api.adapter import Adapter
from labeling_ground.api.state import AppState

ADAPTERS: Mapping[str, Callable[[AppState], Adapter]] = MappingProxyType(
    {
        "label-studio": label_studio.create,
        "x-anylabeling": x_anylabeling.create,
        "roboflow": roboflow.create,
        "cvat": cvat.create,
        "qupath": qupath.create,
    }
)
"""What makes each of them, under the names of the setting ``adapters``."""


def choose_adapters(app_state: AppState) -> Sequence[Adapter]:
    """The adapters that the operator chose."""
    chosen = app_state.settings.adapters
    names = ADAPTERS if chosen == ("all",) else () if chosen == ("none",) else dict.fromkeys(chosen)
    return [ADAPTERS[name](app_state) for name in names]
