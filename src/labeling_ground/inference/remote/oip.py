"""Engines of others, by the Open Inference Protocol v2: Triton, OpenVINO Model Server, KServe (decision 0031).

Each ask of our protocol becomes one infer request over HTTP with binary tensors, and its answer becomes one of ours.
Such a server keeps no embeddings: a decode brings its tensors every time.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BackendFailed, BadInput, BadSettings
from labeling_ground.inference.dialects import (
    check_decoder_inputs,
    decoder_inputs,
    decoder_outputs,
    described,
    embedding_outputs,
)
from labeling_ground.inference.graphs import encoder_input
from labeling_ground.inference.remote import envelope, wire
from labeling_ground.inference.remote.addresses import Address
from labeling_ground.inference.remote.client import EngineClient, EngineLimits, Fetched
from labeling_ground.inference.remote.handler import chosen
from labeling_ground.pools import Pool
from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import LOW_RES
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION, version_number
from labeling_ground.types import ModelVersion

PARAMETER = "labeling_ground"
"""In the parameters of a Triton configuration: what ``models.triton`` says there of the model, as JSON."""
HEADER_LENGTH = "Inference-Header-Content-Length"
"""Bytes of JSON at the beginning of a body; the rest is tensors."""
AUTO, NONE = "auto", "none"
"""Instead of a served version: the number of the model version; a server that has no versions."""

_DTYPES: Mapping[str, str] = MappingProxyType({"FP16": "<f2", "FP32": "<f4", "INT32": "<i4", "INT64": "<i8"})
_FLOATS = ("FP16", "FP32")
_ARCHIVE = "Serve what 'labeling-ground models archive --for triton' writes"
_THREADS = 2
"""Threads that write and read tensors, of each half."""


@dataclass(frozen=True, slots=True)
class _Served:
    """One half, as its server describes it.

    Attributes:
        description: what our protocol says of an engine.
        number: the served version; empty where the server has none.
        inputs: name → datatype and number of dimensions.
        outputs: names of what is asked for: the embedding's tensors in the family's order, or logits and scores.
    """

    description: wire.Description
    number: str
    inputs: Mapping[str, tuple[str, int]]
    outputs: Sequence[str]


class OipClient(EngineClient):
    """Asks one half of a model of a server that speaks the Open Inference Protocol.

    Every ask names the served version, and the server refuses one that it does not serve. Where that number is the
    model version's own (``version_number``), a model that was exchanged is never asked under the old one's keys.

    Args:
        address: where the server is, and what the half is called there.
        limits: how long and how much.
        number: the served version to ask for; ``AUTO`` or ``NONE``.
        declared: which model that is; see ``declared_version``.
    """

    def __init__(self, address: Address, limits: EngineLimits, number: str, declared: ModelVersion | None) -> None:
        super().__init__(address, limits)
        self._number, self._declared = number, declared
        self._served: _Served | None = None
        self._pool: Pool | None = None

    async def look(self) -> None:
        """The protocol tells neither workers nor queue."""

    async def aclose(self) -> None:
        """Close connections and threads; the next ask opens them anew."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        await super().aclose()

    async def _exchange(self, body: bytes, seconds: float) -> tuple[int, bytes, str]:
        until = time.monotonic() + seconds
        if envelope.read_head(body).ask == "describe":
            self._served = await self._describe(until)
            return 200, wire.write_description(self._served.description), ""
        served = self._served
        if served is None:
            raise self.failed("it has not said yet what it serves")
        if self._pool is None:
            self._pool = Pool(f"oip-{self.half}", _THREADS)
        read = await self._pool.run(wire.read_ask, body, served.description.family)
        ask = cast("wire.Encode | wire.Decode", read)
        if ask.version != served.description.version:
            return 409, b"", ""
        if isinstance(ask, wire.Decode) and ask.embedding is None:
            return 424, b"", ""
        request, header_bytes = await self._pool.run(_request, ask, served)
        started = time.perf_counter()
        length = {HEADER_LENGTH: str(header_bytes)}
        found = await self._fetch(
            "POST", f"{self._model_url(served.number)}/infer", request, until - time.monotonic(), length
        )
        if found.status != 200:
            return await self._refused(found, served, until)
        taken = time.perf_counter() - started
        with self.reading():
            return 200, await self._pool.run(_answer, found, ask, served, taken), ""

    async def _refused(self, found: Fetched, served: _Served, until: float) -> tuple[int, bytes, str]:
        """The server's words as a problem; 409 where the refusal is because another model is served by now."""
        words = _words(found)
        if await self._describe(until) != served:  # Triton says 503 of a version that it is just unloading
            return 409, b"", ""
        # What a status means between our own servers it does not mean here.
        status = 400 if found.status in (409, 424) else found.status
        problem = wire.write_problem(status, "The server refused the ask", words)
        return status, problem, found.headers.get("Retry-After", "")

    async def _describe(self, until: float) -> _Served:
        await self._get("/v2/health/ready", until)
        metadata = await self._get(f"/v2/models/{self.address.name}", until)
        config = await self._get(f"/v2/models/{self.address.name}/config", until, is_optional=True)
        try:
            told = _read_json(config.body) if config.status == 200 else {}
            return _served(_read_json(metadata.body), told, wire.EngineRole(self.half), self._number, self._declared)
        except (BadInput, BadSettings) as error:
            raise self.failed(f"what it serves cannot be used: {str(error).rstrip('.')}") from error

    async def _get(self, path: str, until: float, *, is_optional: bool = False) -> Fetched:
        url = f"{self.address.url.rstrip('/')}{path}"
        found = await self._fetch("GET", url, None, until - time.monotonic(), {"Accept": "application/json"})
        if found.status != 200 and not is_optional:
            raise self.failed(f"{path} is answered with {_words(found)}")
        return found

    def _model_url(self, number: str) -> str:
        url = f"{self.address.url.rstrip('/')}/v2/models/{self.address.name}"
        return f"{url}/versions/{number}" if number else url


def declared_version(text: str | None, numbers: Mapping[str, str]) -> ModelVersion | None:
    """The model version that the setting ``oip_model_version`` means; ``None`` where the servers have to tell.

    Served versions that others have numbered are part of it, and so is the preprocessing: asked under other numbers, or
    with images that are prepared otherwise, it is another model to the cache.

    Args:
        text: ``model@digest``, or none.
        numbers: half → the served version that is asked for, of the halves that speak this protocol.

    Raises:
        BadSettings: versions are numbered by hand, and no model is named.
    """
    by_hand = {half: number for half, number in sorted(numbers.items()) if number != AUTO}
    if text is None:
        if by_hand:
            named = " and ".join(f"{half}_oip_version" for half in by_hand)
            raise BadSettings(f"With {named}, name the model that is served there: oip_model_version.")
        return None
    declared = wire.read_version({"model_version": text})
    if not by_hand:
        return declared
    digest = hashlib.sha256(json.dumps([PREPROCESSING_VERSION, declared.digest, by_hand]).encode()).hexdigest()
    return ModelVersion(declared.model, digest)


def _served(
    metadata: Mapping[str, Any],
    config: Mapping[str, Any],
    role: wire.EngineRole,
    number: str,
    declared: ModelVersion | None,
) -> _Served:
    """What the server's metadata and configuration say of a half.

    Raises:
        BadInput: they cannot be read.
        BadSettings: it is no half of a model that can be used, or nothing says which model it is.
    """
    try:
        inputs = {str(each["name"]): (str(each["datatype"]), len(each["shape"])) for each in metadata["inputs"]}
        names = [str(each["name"]) for each in metadata["outputs"]]
        versions = [str(each) for each in metadata.get("versions") or ()]
    except (KeyError, TypeError) as error:
        raise BadInput(f"Its metadata has no names, datatypes and shapes of inputs and outputs ({error!r}).") from error
    about = _about(config)
    family = _family(about, [*inputs, *names])
    odd = sorted({kind for kind, _ in inputs.values()} - set(_DTYPES))
    if odd:
        raise BadSettings(f"It takes {', '.join(odd)}: only {', '.join(_DTYPES)} are written.")
    if role is wire.EngineRole.ENCODER:
        if len(inputs) != 1 or next(iter(inputs.values()))[0] not in _FLOATS:
            raise BadSettings(f"An encoder takes one image of floats, and this one takes {', '.join(inputs)}.")
        outputs = embedding_outputs(family, names)
    else:
        check_decoder_inputs(family, list(inputs))
        outputs = [*decoder_outputs(names)]
    version = _version(about if number == AUTO else {}, declared)
    asked = _asked(version, number, versions)
    precision, note = about.get("precision", "fp32"), about.get("note", "")
    return _Served(wire.Description(version, family, precision, role, note), asked, inputs, outputs)


def _family(about: Mapping[str, str], names: Sequence[str]) -> Family:
    """As ``models.triton`` has written it; else by the names of the tensors. Of EfficientTAM they are those of SAM."""
    if about.get("family") in list(Family):
        return Family(about["family"])
    for family in (Family.SAM2, Family.SAM_HQ):
        if set(family.embedding_names) <= set(names):
            return family
    return Family(described({}, names).get("family", Family.SAM))


def _about(config: Mapping[str, Any]) -> dict[str, str]:
    """What ``models.triton`` has written into the configuration; empty where it wrote none.

    Raises:
        BadInput: it cannot be read.
        BadSettings: it was written for another preprocessing.
    """
    try:
        text = config.get("parameters", {}).get(PARAMETER, {}).get("string_value")
        about = {} if text is None else {str(key): str(value) for key, value in json.loads(text).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"The parameter {PARAMETER} of its configuration cannot be read: {error!r}.") from error
    if about and about.get("preprocessing_version") != PREPROCESSING_VERSION:
        raise BadSettings(
            "It was archived for another version of the preprocessing: run 'labeling-ground models archive' again."
        )
    return about


def _version(about: Mapping[str, str], declared: ModelVersion | None) -> ModelVersion:
    """Which model it is: what the server tells, or else what the settings say.

    Raises:
        BadInput: what the server tells is no model version.
        BadSettings: neither does, or they differ.
    """
    told = wire.read_version({"model_version": f"{about.get('model')}@{about.get('digest')}"}) if about else None
    version = told or declared
    if version is None:
        raise BadSettings(f"It does not tell which model it is. {_ARCHIVE}, or set oip_model_version")
    if declared not in (None, version):
        raise BadSettings(f"It says that it is {told}, and the setting oip_model_version says {declared}.")
    return version


def _asked(version: ModelVersion, number: str, served: Sequence[str]) -> str:
    """The served version to ask for; empty where the server has none.

    Raises:
        BadSettings: it is not served.
    """
    if number == NONE:
        return ""
    asked = str(version_number(version)) if number == AUTO else number
    if asked not in served:
        raise BadSettings(
            f"It serves {' and '.join(served)[:200] or 'no version'}, and {version} would be {asked} there. "
            f"{_ARCHIVE}, or set encoder_oip_version and decoder_oip_version"
        )
    return asked


def _request(ask: wire.Encode | wire.Decode, served: _Served) -> tuple[bytes, int]:
    """An ask as the body of an infer request, and how many of its bytes are JSON.

    Raises:
        BackendFailed: a number is too large for the server's datatype.
    """
    names = list(served.inputs)
    if isinstance(ask, wire.Encode):
        given: dict[str, NDArray[Any]] = {
            names[0]: encoder_input(ask.pixels, served.description.family, served.inputs[names[0]][1])
        }
    else:
        given = decoder_inputs(ask.embedding or {}, ask.prompt, names)
    inputs, parts = [], []
    for name, (datatype, _) in served.inputs.items():
        with np.errstate(over="ignore"):
            tensor = np.ascontiguousarray(given[name], _DTYPES[datatype])
        if datatype in _FLOATS and not np.isfinite(tensor).all():
            raise BackendFailed(f"{name} has numbers that are too large for {datatype}, which the server takes.")
        size = {"binary_data_size": tensor.nbytes}
        inputs.append({"name": name, "shape": given[name].shape, "datatype": datatype, "parameters": size})
        parts.append(tensor.data)
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in served.outputs]
    header = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    return b"".join([header, *parts]), len(header)


def _answer(found: Fetched, ask: wire.Encode | wire.Decode, served: _Served, seconds: float) -> bytes:
    """An infer answer as one of our protocol.

    Raises:
        BadInput: it is none, or of another model.
    """
    tensors = read_tensors(found.body, found.headers.get(HEADER_LENGTH), served.number)
    absent = sorted(set(served.outputs) - set(tensors))
    if absent:
        raise BadInput(f"There is no tensor {', '.join(absent)}.")
    if isinstance(ask, wire.Encode):
        names = served.description.family.embedding_names
        made = {ours: tensors[theirs] for ours, theirs in zip(names, served.outputs, strict=True)}
        return wire.write_encoded(ask.version, wire.Encoded(made, seconds))
    logits, scores = (tensors[name].astype(np.float32, copy=False) for name in served.outputs)
    scores = scores.reshape(-1)
    if logits.shape[-2:] != (LOW_RES, LOW_RES) or logits.size != scores.size * LOW_RES * LOW_RES:
        raise BadInput(f"Logits of the shape {list(logits.shape)} do not go with {scores.size} scores.")
    logits = logits.reshape(-1, LOW_RES, LOW_RES)
    if len(scores) == wire.MOST_CANDIDATES:
        indices = chosen(ask, scores)
        logits, scores = logits[indices], scores[indices]
    return wire.write_decoded(ask.version, wire.Decoded(logits, scores, seconds, kept=False))


def read_tensors(body: bytes, header_length: str | None, number: str) -> dict[str, NDArray[np.floating[Any]]]:
    """The tensors of an infer answer, by name.

    Args:
        body: of the answer.
        header_length: what its ``Inference-Header-Content-Length`` says.
        number: the version that was asked for; empty: none.

    Raises:
        BadInput: it is no answer with binary floats alone, it is cut off or too long, or of another version.
    """
    if header_length is None:
        raise BadInput("It holds no binary tensors: the server lacks the protocol's binary tensor extension.")
    if not header_length.isascii() or not header_length.isdigit() or int(header_length) > len(body):
        raise BadInput(f"Its {HEADER_LENGTH} is {header_length[:40]!r}, and it has {len(body)} bytes.")
    at = int(header_length)
    header = _read_json(body[:at])
    answered = header.get("model_version")
    if number and answered not in (None, number):
        raise BadInput(f"It is of version {str(answered)[:40]}, and {number} was asked.")
    tensors: dict[str, NDArray[np.floating[Any]]] = {}
    try:
        for output in header["outputs"]:
            name, datatype, shape = output["name"], output["datatype"], output["shape"]
            size = output.get("parameters", {}).get("binary_data_size")
            if datatype not in _FLOATS:
                raise BadInput(f"{name} is {datatype}: only {' and '.join(_FLOATS)} are read.")
            dtype = np.dtype(_DTYPES[datatype])
            if not all(type(side) is int and side >= 0 for side in shape) or size != math.prod(shape) * dtype.itemsize:
                raise BadInput(f"{name} of {datatype} {shape} has {size} bytes.")
            if name in tensors or at + size > len(body):
                raise BadInput(f"{name} is there twice, or cut off.")
            tensors[name] = np.frombuffer(body, dtype, math.prod(shape), at).reshape(shape)
            at += size
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"Its outputs cannot be read: {error!r}.") from error
    if at != len(body):
        raise BadInput(f"It has {len(body) - at} bytes more than its tensors.")
    return tensors


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        read = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadInput("It is no JSON.") from error
    if not isinstance(read, dict):
        raise BadInput("It is no JSON object.")
    return read


def _words(found: Fetched) -> str:
    """The server's own words for an error, else its status."""
    try:
        said = _read_json(found.body).get("error")
    except BadInput:
        said = None
    return said.strip()[:300] if isinstance(said, str) and said.strip() else f"status {found.status}"
