"""ONNX Runtime Web, with which the labeling page decodes by itself: which files of which version, and where they are.

It is not part of this package: ``labeling-ground browser-decoder`` puts it into a folder, once. What lies there is
served only if it is what is pinned here, byte by byte: the page runs it.
"""

import base64
import hashlib
import io
import logging
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from labeling_ground.errors import PullFailed

log = logging.getLogger(__name__)

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's archive, as ``package-lock.json`` would have it."""
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""The script, and what it runs: for processors, with SIMD, with threads where the page may have them."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of the package.

    Attributes:
        sha256: of its bytes, hex.
        media_type: as what it is sent; a browser takes no other.
    """

    sha256: str
    media_type: str


FILES: Mapping[str, File] = MappingProxyType(
    {
        MODULE: File(
            "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90", "text/javascript; charset=utf-8"
        ),
        WASM: File("3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2", "application/wasm"),
    }
)
"""Name → what it must be. Of 70 MB in the package these 14 are needed."""


def find(folder: Path) -> Path | None:
    """The folder with the files of this version, if all of them are there and are what they should be."""
    home = folder / VERSION
    for name, file in FILES.items():
        try:
            found = hashlib.sha256((home / name).read_bytes()).hexdigest()
        except OSError:
            return None
        if found != file.sha256:
            log.warning("%s is not what %s %s has, and is not served", home / name, PACKAGE, VERSION)
            return None
    return home


def unpack(archive: bytes, folder: Path, *, integrity: str = INTEGRITY) -> Path:
    """Take the files out of the package's archive. Returns the folder that they are in then.

    Args:
        archive: what ``npm pack`` gives, a compressed tar file.
        folder: under which a folder of the version is made.
        integrity: what the archive must be.

    Raises:
        PullFailed: the archive is another one, or the folder cannot be written.
    """
    algorithm, _, digest = integrity.partition("-")
    if hashlib.new(algorithm, archive).digest() != base64.b64decode(digest):
        raise PullFailed(f"The archive is not that of {PACKAGE} {VERSION}. Nothing was kept.")
    home = folder / VERSION
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            for name in FILES:
                member = packed.extractfile(f"package/dist/{name}")
                if member is None:
                    raise PullFailed(f"{PACKAGE} {VERSION} has no {name}.")
                part = home / f"{name}.part"
                part.write_bytes(member.read())
                part.replace(home / name)
    except OSError as error:
        raise PullFailed(f"The files cannot be written to {home}: {error.strerror}.") from error
    return home
