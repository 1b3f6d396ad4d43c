"""From a model's name to the backend that serves it, once, at start.

A table of strings, so that an engine that is not chosen is never imported, and so that users may pass their own.
"""

import importlib.util
import pkgutil
import re
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from labeling_ground.errors import BadSettings, LabelingGroundError
from labeling_ground.inference.backend import Backend
from labeling_ground.types import MODEL_VERSION

BACKENDS: Mapping[str, str] = MappingProxyType({"classical": "labeling_ground.inference.classical:create"})
"""Model id → ``module:attribute`` of a factory: ``encode_threads`` and ``decode_threads`` in, a ``Backend`` out."""


def check_module(name: str) -> None:
    """See that the module of a factory, ``module:attribute``, is there. Only the packages above it are imported.

    Raises:
        BadSettings: it is not.
    """
    module = name.partition(":")[0]
    try:
        is_there = module in sys.modules or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package above it is missing, or the name is none
        is_there = False
    except (Exception, SystemExit):  # noqa: BLE001 -- a package above it fails, and says how when the model is loaded
        is_there = True
    if not is_there:
        raise BadSettings(f"The model {name!r} cannot be served: there is no module {module!r} on Python's path.")


def choose_backend(name: str, *, encode_threads: int, decode_threads: int) -> Backend:
    """The backend that a model id, or a ``module:attribute`` of the user's own, stands for.

    Raises:
        BadSettings: no such name, or what it needs is not installed.
    """
    target = BACKENDS.get(name, name)
    if not all(target.partition(":")):
        raise BadSettings(
            f"There is no model {name!r}. Choose one of {', '.join(sorted(BACKENDS))}, or name a factory of your own "
            "as package.module:attribute."
        )
    try:
        backend = pkgutil.resolve_name(target)(encode_threads=encode_threads, decode_threads=decode_threads)
    except LabelingGroundError:
        raise
    except (Exception, SystemExit) as error:  # code of others: whatever it raises, a sentence says what
        raise BadSettings(f"The model {name!r} cannot be served: {type(error).__name__}: {error}.") from error
    if not all(hasattr(backend, member) for member in ("info", "encode", "decode", "aclose")):
        raise BadSettings(f"The factory of {name!r} made no backend: it needs info, encode, decode, aclose.")
    version = backend.info.version
    if re.fullmatch(MODEL_VERSION, f"{version.model}@{version.digest}") is None:
        raise BadSettings(
            f"The factory of {name!r} made the model {version.model[:80]!r} with the digest {version.digest[:80]!r}. A "
            "model id has letters a to z, digits, dots and hyphens; and a digest is 16 hex digits or more, of SHA-256 "
            "over all that results depend on: else what another model has predicted would be taken for this one's."
        )
    return cast("Backend", backend)
