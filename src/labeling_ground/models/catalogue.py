"""The models that can be had by name: data from ``catalogue.toml``, checked, as frozen values."""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import unquote, urlsplit

from labeling_ground.errors import BadSettings, UnknownModel
from labeling_ground.networks.sam3_files import FILES
from labeling_ground.sam.family import Family

_BYTES_PER_FLOAT = {"fp16": 2, "fp32": 4}
_FAMILIES = frozenset(Family)
_PRECISIONS = frozenset({"fp32", "fp16", "int8"})


class Role(StrEnum):
    """What a file is for."""

    CHECKPOINT = "checkpoint"
    ENCODER = "encoder"
    DECODER = "decoder"
    FAST_DECODER = "decoder-fast"
    """The same decoder for prompts of few points; only ``models export`` makes one."""
    ENCODER_DATA = "encoder-data"
    """The encoder's weights, where they are more than one ONNX file can hold (2 GiB); ``models export`` makes it."""
    WEIGHTS = "weights"
    """All weights, as ``transformers`` names them; with them go the next three."""
    CONFIG = "config"
    VOCABULARY = "vocabulary"
    MERGES = "merges"

    @property
    def written_as(self) -> "Format":
        """The format that files of this role have: a checkpoint is PyTorch's, the two halves are ONNX."""
        if self in FILES:
            return Format.TRANSFORMERS
        return Format.PYTORCH if self is Role.CHECKPOINT else Format.ONNX


class Format(StrEnum):
    """How weights are written down."""

    ONNX = "onnx"
    PYTORCH = "pytorch"
    TRANSFORMERS = "transformers"
    """Safetensors, a configuration and a vocabulary, as the library of that name reads them."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of an embedding: its name and its shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a model.

    Attributes:
        role: what it is for.
        format: how it is written.
        made_by: who made this file (an ONNX file is seldom from the model's authors).
        url: where it is.
        sha256: what it must be; this alone decides.
        bytes: its size, where somebody has seen it.
        about_bytes: its size, or an estimate; for the disk check and the progress bar.
        precision: of the weights: ``fp32`` or ``int8``.
        io: name of the convention for an ONNX file's tensors; ``None`` for a checkpoint.
    """

    role: Role
    format: Format
    made_by: str
    url: str
    sha256: str
    bytes: int | None
    about_bytes: int
    precision: str
    io: str | None

    @property
    def file(self) -> str:
        """The file's name, as its host and mirrors have it."""
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One model, with all that is known before it is there.

    Attributes:
        name: the model id, such as ``mobile-sam``.
        title: its name for people.
        family: a value of ``Family``: which numbers and prompts it follows.
        licence: SPDX identifier of the weights' licence, or its name where it has none.
        source: page of its authors.
        input_size: side of the encoder's square input, in pixels.
        parameters: how many, rounded.
        embedding: the tensors that the cache keeps for one image.
        artifacts: its files.
        bring: what to know where there are none, as the licence lets nobody hand them on: the operator brings them.
    """

    name: str
    title: str
    family: str
    licence: str
    source: str
    input_size: int
    parameters: int
    embedding: tuple[Tensor, ...]
    artifacts: tuple[Artifact, ...]
    bring: str = ""

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that can be downloaded; the first is the default."""
        return tuple(wanted for wanted in Format if any(a.format is wanted for a in self.artifacts))

    def files(self, wanted: Format | None = None) -> tuple[Artifact, ...]:
        """The files of one format, by default ready-made ONNX.

        Raises:
            UnknownModel: the model is not there in that format.
        """
        if self.bring:
            raise UnknownModel(
                f"{self.name} cannot be pulled: {self.bring} Get {', '.join(FILES.values())} from {self.source}, then: "
                f"labeling-ground models add FOLDER --as {self.name}."
            )
        chosen = wanted or self.formats[0]
        found = tuple(artifact for artifact in self.artifacts if artifact.format is chosen)
        if not found:
            there_is = " and ".join(self.formats)
            raise UnknownModel(f"{self.name} is not in the catalogue as {chosen}, only as {there_is}.")
        return found

    def embedding_bytes(self, precision: str) -> int:
        """Bytes that one image's embedding takes in the cache, as ``fp16`` or ``fp32``."""
        return sum(math.prod(tensor.shape) for tensor in self.embedding) * _BYTES_PER_FLOAT[precision]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models, and what the names of the ONNX conventions mean.

    Attributes:
        models: in the order in which they are listed.
        conventions: by name and role, the convention in words.
    """

    models: tuple[CatalogueModel, ...]
    conventions: Mapping[str, Mapping[Role, str]]

    def __contains__(self, name: object) -> bool:
        return any(model.name == name for model in self.models)

    def model(self, name: str) -> CatalogueModel:
        """The model of that name.

        Raises:
            UnknownModel: there is none; the sentence names what it could have meant.
        """
        for model in self.models:
            if model.name == name:
                return model
        names = [model.name for model in self.models]
        near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UnknownModel(f"There is no model {name!r} in the catalogue.{meant} It has: {', '.join(names)}.")

    def identify(self, sha256: str) -> tuple[CatalogueModel, Artifact] | None:
        """The model and artifact whose file has this digest, or ``None``."""
        for model in self.models:
            for artifact in model.artifacts:
                if artifact.sha256 == sha256:
                    return model, artifact
        return None


@cache
def catalogue() -> Catalogue:
    """The catalogue that came with this package; read once."""
    return load(resources.files("labeling_ground.models").joinpath("catalogue.toml").read_text(encoding="utf-8"))


def load(text: str) -> Catalogue:
    """Read a catalogue and check it.

    Raises:
        BadSettings: it is not complete, or contradicts itself; the sentence says where.
    """
    try:
        raw = tomllib.loads(text)
        conventions = {
            name: {Role(role): str(words) for role, words in by_role.items()} for name, by_role in raw["io"].items()
        }
        models = tuple(_model(entry, conventions) for entry in raw["models"])
        _unique("model", (model.name for model in models))
        every = [artifact for model in models for artifact in model.artifacts]
        for what in ("url", "sha256", "file"):
            _unique(what, (getattr(artifact, what) for artifact in every))
    except KeyError as error:
        raise BadSettings(f"The model catalogue is not complete: {error} is missing.") from None
    except (TypeError, ValueError) as error:
        raise BadSettings(f"The model catalogue cannot be used: {error}.") from None
    return Catalogue(models, conventions)


def _model(raw: dict[str, Any], conventions: Mapping[str, Mapping[Role, str]]) -> CatalogueModel:
    name = raw.pop("name")
    try:
        _must(is_model_name(name), "the name may hold a-z, 0-9, dots and hyphens only")
        _must(raw["family"] in _FAMILIES, f"family {raw['family']!r} is not known")
        _must(raw["source"].startswith("https://"), "its source is no https address")
        _must(raw["input_size"] > 0 and raw["parameters"] > 0, "input_size and parameters are counts")
        artifacts = tuple(_artifact(entry, conventions) for entry in raw.pop("artifacts", ()))
        _unique("role", (artifact.role for artifact in artifacts))
        roles = {artifact.role for artifact in artifacts}
        _must(bool(roles) is not bool(raw.get("bring")), "it has files, or says how they are brought")
        _must((Role.ENCODER in roles) == (Role.DECODER in roles), "an encoder and a decoder come together")
        embedding = tuple(_tensor(entry) for entry in raw.pop("embedding"))
        _must(bool(embedding), "its embedding has no tensors")
        return CatalogueModel(name=name, artifacts=artifacts, embedding=embedding, **raw)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


def _artifact(raw: dict[str, Any], conventions: Mapping[str, Mapping[Role, str]]) -> Artifact:
    seen, estimate = raw.pop("bytes", None), raw.pop("about_bytes", None)
    _must((seen is None) != (estimate is None), "an artifact has either bytes or about_bytes")
    role, written = Role(raw.pop("role")), Format(raw.pop("format"))
    artifact = Artifact(
        role=role, format=written, bytes=seen, about_bytes=seen or estimate, io=raw.pop("io", None), **raw
    )
    _must(role.written_as is written, f"a {role} is not {written}")
    _must(is_sha256(artifact.sha256), f"{artifact.sha256!r} is no SHA-256 in lower-case hex")
    _must(artifact.url.startswith("https://"), f"{artifact.url} is not https")
    _must(re.fullmatch(r"[\w.+-]+", artifact.file) is not None, f"{artifact.url} ends in no plain file name")
    _must(artifact.about_bytes > 0, "a size is a count of bytes")
    _must(artifact.precision in _PRECISIONS, f"precision {artifact.precision!r} is not known")
    if written is Format.ONNX:
        _must(role in conventions.get(artifact.io or "", {}), f"io {artifact.io!r} does not describe this {role}")
    else:
        _must(artifact.io is None, "a checkpoint has no io")
    return artifact


def _tensor(raw: dict[str, Any]) -> Tensor:
    shape = tuple(raw["shape"])
    _must(bool(shape) and all(isinstance(side, int) and side > 0 for side in shape), f"{shape} is no shape")
    return Tensor(raw["name"], shape)


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 digest in lower-case hex."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def is_model_name(text: str) -> bool:
    """Whether a text can be a model id; it is part of cache keys and of file names."""
    return re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", text) is not None


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _unique(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        _must(value not in seen, f"{what} {value} stands there twice")
        seen.add(value)
