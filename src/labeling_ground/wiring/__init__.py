"""The composition roots: from settings to parts, handed over as plain arguments.

Nothing connects, loads or reads the environment at import; it happens here, once.
"""

from labeling_ground.wiring.cache import (
    build_disk,
    build_redis,
    build_session_store,
    build_shared_flights,
    build_store,
    connect_redis,
)
from labeling_ground.wiring.models import build_backend, build_endpoints, build_remote, has_weights
from labeling_ground.wiring.server import (
    build_app,
    build_model_pool,
    build_parts,
    build_predictor,
    check_room,
    embedding_bytes,
)

__all__ = [
    "build_app",
    "build_backend",
    "build_disk",
    "build_endpoints",
    "build_model_pool",
    "build_parts",
    "build_predictor",
    "build_redis",
    "build_remote",
    "build_session_store",
    "build_shared_flights",
    "build_store",
    "check_room",
    "connect_redis",
    "embedding_bytes",
    "has_weights",
]
