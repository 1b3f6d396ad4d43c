"""Builds what computes SAM 3, of files in the model store."""

from typing import TYPE_CHECKING

from labeling_ground.inference.sam3 import create
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore
from labeling_ground.networks.sam3_files import FILES
from labeling_ground.settings import Settings

if TYPE_CHECKING:
    from labeling_ground.inference.sam3.backend import Sam3Backend

ROLES = tuple(Role(role) for role in FILES)
"""The files of which a model of this family is made."""


def build_sam3(settings: Settings, weights: ModelStore, name: str) -> "tuple[Sam3Backend, str]":
    """The model, and a sentence on what computes it and why. ``engine`` is not asked: there is one for this family.

    Raises:
        BadSettings: it has no such precision, what it needs is not installed, or its files do not fit.
        UnknownModel: its files are not here; the sentence says how to get them.
    """
    precision = "fp32" if settings.engine_precision == "auto" else settings.engine_precision
    files = {role.value: weights.path_of(name, role) for role in ROLES}
    noted = weights.get(name)
    backend = create(
        settings.encode_workers,
        settings.decode_workers,
        files=files,
        digests=[noted.files[role].sha256 for role in ROLES] if noted else (),
        model=name,
        precision=precision,
        features_bytes=int(settings.engine_features_bytes),
    )
    return backend, f"torch in {precision} on {backend.engine.device}: SAM 3 has no other engine."
