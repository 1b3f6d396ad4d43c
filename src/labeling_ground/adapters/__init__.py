"""Ways in that speak other labeling tools' protocols, over the same service; chosen by ``LABELING_GROUND_ADAPTERS``."""
