"""Builds what computes: the model of a server, and what an engine server answers with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from labeling_ground.engine_server.app import ModelEndpoint
from labeling_ground.errors import BadSettings, PullFailed
from labeling_ground.inference.agreement import this_machine
from labeling_ground.inference.auto import BOTH, ENGINES, Choice, Halves, Model, remembered
from labeling_ground.inference.auto import choose as choose_engine
from labeling_ground.inference.backend import Backend
from labeling_ground.inference.choose import BACKENDS, check_module, choose_backend
from labeling_ground.inference.graphs import Precision, version_from
from labeling_ground.inference.graphs import together as together_of
from labeling_ground.inference.remote.addresses import Address, Addresses
from labeling_ground.inference.remote.backend import RemoteBackend
from labeling_ground.inference.remote.backend import connect as connect_engines
from labeling_ground.inference.remote.client import EngineClient, EngineLimits
from labeling_ground.inference.remote.concept_backend import RemoteConceptBackend
from labeling_ground.inference.remote.embedding_store import EmbeddingStore, default_folder
from labeling_ground.inference.remote.handler import InferenceHandler
from labeling_ground.inference.remote.oip import OipClient, declared_version
from labeling_ground.inference.remote.pool import EnginePool, EngineSelection
from labeling_ground.inference.remote.wire import Description, EngineRole
from labeling_ground.inference.sam import SamBackend
from labeling_ground.inference.sam3 import create as create_sam3
from labeling_ground.models.catalogue import Format, Role
from labeling_ground.models.manifests import InstalledModel
from labeling_ground.models.store import ModelStore, judging
from labeling_ground.networks.sam3_files import FILES
from labeling_ground.sam.family import Family
from labeling_ground.service.model_pool import ModelFacts
from labeling_ground.service.queues import FairQueue
from labeling_ground.settings import Settings
from labeling_ground.settings.machine import cores_of_this_machine, has_nvidia_gpu, has_torch
from labeling_ground.supervisor import Supervisor
from labeling_ground.verdict import INT8, Verdict

if TYPE_CHECKING:
    from labeling_ground.inference.sam3.backend import Sam3Backend

TORCH = "torch"
"""The engine that reads the authors' checkpoint."""
REMOTE = "remote"
"""In ``models``: what the engines at ``encoder_url`` and ``decoder_url`` compute."""


def build_backend(settings: Settings, supervisor: Supervisor | None = None) -> tuple[Backend, str]:
    """The model, and a sentence on what computes it and why (empty where there is no choice).

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
        UnknownModel: the weights are not here; the sentence says how to get them.
    """
    if settings.models:  # of several: the default one
        settings = settings_of_model(settings, settings.served_models[0])
    if settings.encoder_url or settings.decoder_url:
        return build_remote(settings, supervisor)
    weights = ModelStore(settings.models_dir)
    name = _named(settings, weights, settings.model)
    if name in BACKENDS or ":" in name:
        return choose_backend(name, encode_threads=settings.encode_workers, decode_threads=settings.decode_workers), ""
    installed = weights.get(name)
    family = weights.known.model(name).family if name in weights.known else installed.family if installed else None
    if family == Family.SAM3:
        return build_sam3(settings, weights, name)
    choice = _choose(settings, weights, model_of(settings, weights, name, settings.encode_workers))
    served = choice.backend.family
    if family is not None and served != family:
        raise BadSettings(
            f"{name} is of the family {family}, but its files have the tensors of {served}. Make files from the "
            f"authors' checkpoint: labeling-ground models export {name}."
        )
    if installed is not None:
        info = choice.backend.info
        note = f"{installed.files[_roles(choice.engine)[0]].rounding_note} {info.note}".strip()
        choice.backend.info = replace(info, note=note)
    return choice.backend, choice.why


def has_weights(settings: Settings) -> bool:
    """Whether the default model has weights, and a process of this server computes it."""
    if settings.encoder_url or settings.decoder_url:
        return False
    name = _named(settings, ModelStore(settings.models_dir), settings.served_models[0])
    return name not in BACKENDS and ":" not in name


def list_models(settings: Settings) -> list[ModelFacts]:
    """What is known of the models that the settings name, the default first. Nothing is loaded.

    Raises:
        BadSettings: there are no engines for the one called ``remote``, or the module of a factory is missing.
        UnknownModel: the weights of one are not here; the sentence says how to get them.
    """
    weights = ModelStore(settings.models_dir)
    remote = _remote_name(settings)
    found: dict[str, ModelFacts] = {}
    for given in settings.served_models:
        if given == remote:
            found[given] = ModelFacts(given, "" if given in (REMOTE, "auto") else given)
            continue
        if given == REMOTE:
            raise BadSettings("The model 'remote' is the one of the engines at encoder_url and decoder_url: set both.")
        name = _named(settings, weights, given)
        found.setdefault(name, _facts_of(settings, weights, name))
    return list(found.values())


def settings_of_model(settings: Settings, name: str) -> Settings:
    """The settings of a server that serves this one of several models alone."""
    if name == _remote_name(settings):
        return settings.model_copy(update={"model": "auto" if name == REMOTE else name, "models": ()})
    return settings.model_copy(update={"model": name, "models": (), "encoder_url": (), "decoder_url": ()})


def _remote_name(settings: Settings) -> str | None:
    """What the settings call the model of the engines in other processes."""
    if not (settings.encoder_url or settings.decoder_url):
        return None
    return REMOTE if REMOTE in settings.served_models else settings.served_models[0]


def _facts_of(settings: Settings, weights: ModelStore, name: str) -> ModelFacts:
    if ":" in name:
        check_module(name)
        return ModelFacts(name)
    if name in BACKENDS:
        return ModelFacts(name, name, capabilities=("points", "box", "mask"))
    installed = weights.get(name)
    known = weights.known.model(name) if name in weights.known else None
    family = known.family if known else installed.family if installed else None
    roles = (
        SAM3_ROLES if family == Family.SAM3 else _roles(TORCH if _by_torch(settings, installed) else settings.engine)
    )
    for role in roles:
        if role is not Role.FAST_DECODER:
            weights.path_of(name, role)
    of_family = Family(family) if family in list(Family) else None
    files = dict(installed.files) if installed else {}
    used = [files[role].bytes for role in (*roles, Role.ENCODER_DATA) if role in files]
    return ModelFacts(
        name,
        name,
        licence=known.licence if known else "",
        capabilities=of_family.capabilities if of_family else (),
        embedding_bytes=of_family.embedding_bytes(2 if settings.precision == "fp16" else 4) if of_family else 0,
        memory_bytes=(installed.memory_bytes if installed else None) or sum(used),
        verdicts=verdicts_of(weights, name),
    )


def build_remote(settings: Settings, supervisor: Supervisor | None = None) -> tuple[RemoteBackend, str]:
    """The model whose halves are computed in other processes. Waits until they are ready.

    Raises:
        BadSettings: an address is missing or wrong, or the engines are not ready in time, or not halves of one model.
    """
    if not settings.encoder_url or not settings.decoder_url:
        raise BadSettings("Set both encoder_url and decoder_url, or neither: the halves of a model belong together.")
    model = "" if settings.model == "auto" else settings.model

    def limits(deadline_s: float) -> EngineLimits:
        most_bytes = int(settings.max_engine_bytes)
        return EngineLimits(
            settings.engine_connect_s, deadline_s, most_bytes, settings.engine_reset_s, settings.engine_probe_s
        )

    numbers = _oip_versions(settings)
    declared = declared_version(settings.oip_model_version, numbers)

    def kind(half: str) -> Callable[[Address, EngineLimits], EngineClient]:
        return partial(OipClient, number=numbers[half], declared=declared) if half in numbers else EngineClient

    encoders = EnginePool(
        Addresses("encoder", settings.encoder_url, settings.encoder_name, settings.encoder_management_url),
        limits(settings.encode_deadline_s),
        # An encode that takes long is not begun anew elsewhere: it would take as long there.
        EngineSelection(by_key=False, tries=settings.engine_tries, patience=1.0),
        workers=settings.encode_workers,
        kind=kind("encoder"),
    )
    decoders = EnginePool(
        Addresses("decoder", settings.decoder_url, settings.decoder_name, settings.decoder_management_url),
        limits(settings.decode_deadline_s),
        EngineSelection(by_key=True, load_bound=settings.engine_load_bound, tries=settings.engine_tries),
        workers=settings.decode_workers,
        ahead=1,
        kind=kind("decoder"),
    )
    serving = connect_engines(encoders, decoders, model=model, wait_s=settings.engine_wait_s)
    backend = (RemoteConceptBackend if serving.family.finds_concepts else RemoteBackend)(
        encoders,
        decoders,
        model=model,
        poll_s=settings.engine_poll_s,
        reset_s=settings.engine_reset_s,
        resolve_s=settings.engine_resolve_s,
        supervisor=supervisor,
    )
    return backend, backend.summary


def _oip_versions(settings: Settings) -> dict[str, str]:
    """Half → the served version to ask for, of the halves that speak the Open Inference Protocol."""
    halves = {
        "encoder": (settings.encoder_protocol, settings.encoder_oip_version),
        "decoder": (settings.decoder_protocol, settings.decoder_oip_version),
    }
    return {half: number for half, (protocol, number) in halves.items() if protocol == "oip"}


def build_endpoints(settings: Settings, halves: Halves) -> tuple[list[ModelEndpoint], str]:
    """What an engine server serves, and a sentence on what computes it.

    The version is that of the whole model, also where only one half's files are here: the manifest has all digests.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
        UnknownModel: the weights are not here; the sentence says how to get them.
    """
    weights = ModelStore(settings.models_dir)
    name = _named(settings, weights, settings.model)
    if name in BACKENDS or ":" in name:
        raise BadSettings(
            f"An engine server serves Segment Anything models, not {name!r}. Get weights with 'labeling-ground models "
            "pull', and name the model with --model."
        )
    noted = weights.noted(name)
    backend: SamBackend
    if noted is not None and noted.family == Family.SAM3:  # each half has the whole model
        backend, why = build_sam3(settings, weights, name)
        return _endpoints(settings, halves, backend, why, [""])
    # Without a decoder beside it, an encoder takes all cores unless it was told otherwise.
    is_told = halves.decoder or "encode_workers" in settings.model_fields_set
    encode_threads = settings.encode_workers if is_told else cores_of_this_machine()
    model = model_of(settings, weights, name, encode_threads, halves)
    files = noted.files if noted is not None else {}
    choice = _choose(settings, weights, model)
    roles = _roles(choice.engine)
    counted = [files[role].sha256 for role in roles if role in files]
    if any(role not in files for role in roles[:2]):
        raise BadSettings(f"The files of {name} are not complete in the manifest: its version cannot be told.")
    backend = choice.backend
    backend.info = replace(
        backend.info, version=version_from(name, counted, choice.precision), precision=choice.precision
    )
    return _endpoints(settings, halves, backend, choice.why, [files[role].rounding_note for role in roles[:2]])


def _endpoints(
    settings: Settings, halves: Halves, backend: SamBackend, why: str, notes: Sequence[str]
) -> tuple[list[ModelEndpoint], str]:
    """The endpoints of a model's halves. ``notes``: what the first and the last of them says of its file."""
    engine, info = backend.engine, backend.info

    def handler(role: EngineRole, note: str, together: int, kept: EmbeddingStore | None) -> InferenceHandler:
        said = f"{note} {info.note}".strip()
        return InferenceHandler(
            engine, Description(info.version, engine.family, info.precision, role, said, together), kept
        )

    encodes, decodes = together_of(engine)
    endpoints = []
    if halves.encoder:
        encoder = handler(EngineRole.ENCODER, notes[0], encodes, None)
        endpoints.append(ModelEndpoint(settings.encoder_name, encoder, workers=1, queue=settings.encode_queue))
    if halves.decoder:
        kept = EmbeddingStore(settings.embedding_store_dir or default_folder(), int(settings.embedding_store_bytes))
        decoder = handler(EngineRole.DECODER, notes[-1], decodes, kept)
        detector = FairQueue("detector", settings.detect_workers, settings.detect_queue)
        endpoints.append(
            ModelEndpoint(
                settings.decoder_name,
                decoder,
                workers=settings.decode_workers,
                queue=settings.decode_queue,
                detector=detector if engine.family.finds_concepts else None,
            )
        )
    return endpoints, why


def model_of(settings: Settings, weights: ModelStore, name: str, encode_threads: int, halves: Halves = BOTH) -> Model:
    """What the engines of a model are made of.

    Raises:
        UnknownModel: a file is not here; the sentence says how to get it.
    """
    installed = weights.get(name)
    files = installed.files if installed is not None else {}
    engines: Mapping[str, str] = ENGINES if settings.engine == "auto" else {settings.engine: ENGINES[settings.engine]}
    options = _options(settings)
    encoder, decoder = Role.ENCODER, Role.DECODER
    if _by_torch(settings, installed):
        engines, encoder, decoder = {TORCH: ENGINES[TORCH]}, Role.CHECKPOINT, Role.CHECKPOINT
    elif settings.engine == "auto":
        # The other half may be where torch is not. And without a GPU, to import torch costs more memory than it is
        # worth: bench/results/engines.md.
        if halves == BOTH and Role.CHECKPOINT in files and has_torch() and has_nvidia_gpu():
            checkpoint = weights.path_of(name, Role.CHECKPOINT)
            device = "cuda" if settings.engine_device == "auto" else settings.engine_device
            options[TORCH] |= {"encoder_path": checkpoint, "decoder_path": checkpoint, "device": device}
        else:
            engines = {engine: target for engine, target in engines.items() if engine != TORCH}
    has_fast = halves.decoder and decoder is Role.DECODER and Role.FAST_DECODER in files
    return Model(
        name,
        encoder_path=weights.path_of(name, encoder) if halves.encoder else None,
        decoder_path=weights.path_of(name, decoder) if halves.decoder else None,
        fast_decoder_path=weights.path_of(name, Role.FAST_DECODER) if has_fast else None,
        encode_threads=encode_threads,
        decode_threads=settings.decode_workers,
        engines=engines,
        options=options,
    )


def verdicts_of(weights: ModelStore, name: str) -> tuple[Verdict, ...]:
    """What was found of a model's engines and precisions on this machine."""
    noted = weights.noted(name)
    return noted.verdicts.get(this_machine(), ()) if noted is not None else ()


def rounds_embeddings(settings: Settings, model: str) -> bool:
    """Whether embeddings of this model may be kept in int8: the operator says so, or ``models check`` has found that
    their masks agree."""
    if settings.int8_embeddings != "checked":
        return settings.int8_embeddings == "always"
    checked = [each for each in verdicts_of(ModelStore(settings.models_dir), model) if each.embedding == INT8]
    return any(verdict.agrees(settings.engine_least_iou) for verdict in checked)


def _of_engines(weights: ModelStore, name: str) -> tuple[Verdict, ...]:
    return tuple(verdict for verdict in verdicts_of(weights, name) if not verdict.embedding)


def _by_torch(settings: Settings, installed: InstalledModel | None) -> bool:
    """Whether torch alone can compute a model: it was chosen, or the checkpoint is all that is here."""
    if settings.engine != "auto":
        return settings.engine == TORCH
    formats = installed.formats if installed is not None else ()
    return Format.ONNX not in formats and Format.PYTORCH in formats and has_torch()


def _roles(engine: str) -> tuple[Role, ...]:
    """The roles of the files that an engine reads, and that a model's version is computed from."""
    return (Role.CHECKPOINT,) if engine == TORCH else (Role.ENCODER, Role.DECODER, Role.FAST_DECODER)


def _choose(settings: Settings, weights: ModelStore, model: Model) -> Choice:
    """The engine, and the precision where that is ``auto``, which is then remembered."""
    name, bound = model.name, settings.engine_least_iou

    def choose(precision: Precision | Literal["auto"]) -> Choice:
        return choose_engine(model, precision, least_iou=bound, kept=_of_engines(weights, name))

    if settings.engine_precision != "auto" or model.halves != BOTH:
        return choose(settings.engine_precision)
    if choice := remembered(model, _of_engines(weights, name), bound):
        return choice
    try:
        with judging(weights.folder, name):  # another process may have found it out meanwhile
            if choice := remembered(model, _of_engines(weights, name), bound):
                return choice
            choice = choose("auto")
            weights.note_verdicts(name, this_machine(), choice.verdicts)
            return choice
    except PullFailed as error:
        # Chosen anew at each start, it could be another one each time, and each has cache keys of its own.
        choice = choose("fp32")
        return replace(choice, why=f"{choice.why} 'auto' means fp32 here, as a choice could not be kept: {error}")


def _options(settings: Settings) -> dict[str, dict[str, Any]]:
    """What single engines are told, by their names."""
    together: dict[str, Any] = {} if settings.engine_batch is None else {"together": settings.engine_batch}
    on_gpu = {"gpu_bytes": int(settings.engine_gpu_bytes), **together}
    torch = {**on_gpu, "device": settings.engine_device, "compiled": settings.engine_compile}
    onnx = {"idle_s": settings.engine_idle_s, **together}
    each = {"onnx": onnx, "onnx-cuda": on_gpu, "openvino": {}, TORCH: torch}
    return {name: {**told, "floats_bytes": int(settings.engine_floats_bytes)} for name, told in each.items()}


def _named(settings: Settings, weights: ModelStore, given: str) -> str:
    """The model that is meant: ``auto`` is the first of the catalogue whose weights are here and can be computed."""
    if given != "auto":
        return given
    here = weights.installed()
    for known in weights.known.models:
        found = here.get(known.name)
        if found is None:
            continue
        if {Format.ONNX, Format.TRANSFORMERS} & set(found.formats) or _by_torch(settings, found):
            return known.name
    return "classical"


SAM3_ROLES = tuple(Role(role) for role in FILES)
"""The files of which a model of this family is made."""


def build_sam3(settings: Settings, weights: ModelStore, name: str) -> "tuple[Sam3Backend, str]":
    """The model, and a sentence on what computes it and why. ``engine`` is not asked: there is one for this family.

    Raises:
        BadSettings: it has no such precision, what it needs is not installed, or its files do not fit.
        UnknownModel: its files are not here; the sentence says how to get them.
    """
    precision = "fp32" if settings.engine_precision == "auto" else settings.engine_precision
    files = {role.value: weights.path_of(name, role) for role in SAM3_ROLES}
    noted = weights.get(name)
    backend = create_sam3(
        settings.encode_workers,
        settings.decode_workers,
        files=files,
        digests=[noted.files[role].sha256 for role in SAM3_ROLES] if noted else (),
        model=name,
        precision=precision,
        features_bytes=int(settings.engine_features_bytes),
    )
    return backend, f"torch in {precision} on {backend.engine.device}: SAM 3 has no other engine."
