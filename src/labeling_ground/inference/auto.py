"""The fastest engine of those that are installed, and the precision, found by trying them on this machine."""

import contextlib
import pkgutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np

from labeling_ground.codec.int8 import from_int8, to_int8
from labeling_ground.errors import BadSettings, LabelingGroundError
from labeling_ground.inference.agreement import Masks, Pixels, masks_of, overlaps, prompts, sample
from labeling_ground.inference.graphs import Engine, FloatArray, Precision
from labeling_ground.inference.memory import give_back_garbage
from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.prompts import tensors
from labeling_ground.verdict import INT8, Verdict

ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "torch": "labeling_ground.inference.torch_engine:create",
        "onnx-cuda": "labeling_ground.inference.onnx_cuda:create",
        "openvino": "labeling_ground.inference.openvino:create",
        "onnx": "labeling_ground.inference.onnx:create",
    }
)
"""Engine → ``module:attribute`` of its factory, in the order in which they are tried."""
PRECISIONS: Mapping[str, tuple[Precision, ...]] = MappingProxyType(
    {
        "torch": ("fp32", "bf16", "fp16"),
        "onnx-cuda": ("fp32", "fp16"),
        "openvino": ("fp32", "bf16"),
        "onnx": ("fp32",),
    }
)
"""Engine → the precisions that it can be asked for."""
ON_GPU = frozenset({"torch", "onnx-cuda"})
"""Where one of these works, the engines for processors are not tried: they would take minutes to come second. (On a
processor torch is not tried beside others; see ``wiring.models``.)"""


LEAST_IOU = 0.95
"""How well each mask of a lower precision must overlap with that of fp32, where nobody said otherwise."""
MARGIN = 1.25
"""So many times as fast as fp32 a lower precision must be: less is no reason to change masks, and might be chance."""
_PATIENCE_S = 2.0
"""An encoder that takes longer is timed once and not twice."""
_CLICKS = 5


@dataclass(frozen=True, slots=True)
class Halves:
    """Which halves of a model are to be served."""

    encoder: bool = True
    decoder: bool = True


BOTH = Halves()


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        backend: ready to serve.
        engine: its name.
        precision: in which it computes.
        why: a sentence for the log and for ``/v1/models``.
        verdicts: what was found of each engine and precision that was in question.
    """

    backend: SamBackend
    engine: str
    precision: Precision
    why: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """One engine in one precision, after its trial.

    Attributes:
        verdict: what was found.
        backend: it, ready to serve; ``None`` where it failed.
        overlaps: for each picture, kind of prompt → the overlap of each mask with that of fp32.
    """

    verdict: Verdict
    backend: SamBackend | None = None
    overlaps: tuple[Mapping[str, Sequence[float]], ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """What engines are made of.

    Attributes:
        name: the model's id.
        encoder_path: its file; ``None`` for a decoder alone.
        decoder_path: its file; ``None`` for an encoder alone.
        fast_decoder_path: of the re-associated decoder, where there is one.
        encode_threads: threads of one encode.
        decode_threads: threads of a decode that is alone.
        engines: engine → its factory, in the order in which they are tried.
        options: engine → what it alone is told, such as files that only it reads.
    """

    name: str
    encoder_path: Path | None
    decoder_path: Path | None
    fast_decoder_path: Path | None = None
    encode_threads: int = 1
    decode_threads: int = 1
    engines: Mapping[str, str] = field(default_factory=lambda: ENGINES)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def halves(self) -> Halves:
        """Which of its halves are here."""
        return Halves(self.encoder_path is not None, self.decoder_path is not None)

    @property
    def ways(self) -> list[tuple[str, Precision]]:
        """All engines and precisions that can be asked for, fp32 first."""
        pairs = [(name, precision) for name in self.engines for precision in PRECISIONS.get(name, ("fp32",))]
        return sorted(pairs, key=lambda pair: pair[1] != "fp32")

    def build(self, engine: str, precision: Precision) -> SamBackend:
        """The backend of one engine.

        Raises:
            ImportError: its library cannot be imported, for whatever reason: it is not installed.
            LabelingGroundError: it cannot serve this model.
        """
        try:
            create = pkgutil.resolve_name(self.engines[engine])
        except ImportError:
            raise
        except Exception as error:  # whatever a library does when it is imported: without it, it is not there
            raise ImportError(f"its library cannot be imported: {error!r}") from error
        given = {
            "encoder_path": self.encoder_path,
            "decoder_path": self.decoder_path,
            "fast_decoder_path": self.fast_decoder_path,
            **self.options.get(engine, {}),
        }
        if precision != "fp32":
            given["precision"] = precision
        backend: SamBackend = create(self.encode_threads, self.decode_threads, model=self.name, **given)
        return backend


def choose(
    model: Model,
    precision: Precision | Literal["auto"] = "fp32",
    *,
    least_iou: float = LEAST_IOU,
    kept: Sequence[Verdict] = (),
) -> Choice:
    """Try every engine that is installed and can compute in the precision; keep the fastest.

    Takes a few encodes of time. In lower precision than fp32 the masks are compared with those of fp32, and the
    agreement is part of the backend's note. Where an engine on a GPU works, those on the processor are not tried. Of
    one half alone only the backend's engine is of use.

    Args:
        model: of what the engines are made.
        precision: ``auto``: the fastest engine and precision whose masks agree with those of fp32. Of one half alone
            it is fp32.
        least_iou: how well they must agree, each of them.
        kept: what was found of this model on this machine before. Of that, ``auto`` takes what ``models check`` found.

    Raises:
        BadSettings: no engine is installed that could.
    """
    if precision != "auto":
        return _fastest(model, precision, kept)
    if model.halves != BOTH:
        choice = _fastest(model, "fp32", ())
        why = f"{choice.why} One half alone computes in fp32 under 'auto': the other one must be of the same precision."
        return replace(choice, why=why)
    checked = {(verdict.engine, verdict.precision): verdict for verdict in kept if verdict.source == "check"}
    best: tuple[SamBackend, Verdict] | None = None
    verdicts: list[Verdict] = []
    for tried in judge(model, model.ways, (sample(0), sample(1))):
        verdict = tried.verdict
        if not verdict.failed:
            verdict = checked.get((verdict.engine, verdict.precision), verdict)
        verdicts.append(verdict)
        if tried.backend is not None and (best is None or best_of(verdicts, least_iou) is verdict):
            best = (tried.backend, verdict)
        del tried  # the backend that lost
    if best is None:
        raise _nobody(model, "fp32", verdicts)
    give_back_garbage()  # what the engines that lost have held
    return _chosen(*best, verdicts, least_iou, "tried now")


def remembered(model: Model, kept: Sequence[Verdict], least_iou: float = LEAST_IOU) -> Choice | None:
    """What ``auto`` chooses by what was found before, nothing tried; ``None`` where that is not enough.

    It is not, where an engine was never tried, one that failed can be had now, or the one chosen cannot any more.
    """
    ways = set(model.ways)
    found = [verdict for verdict in kept if (verdict.engine, verdict.precision) in ways]
    if len(found) < len(ways) or not any(not each.failed and each.precision == "fp32" for each in found):
        return None
    won = best_of(found, least_iou)
    try:
        backend = model.build(won.engine, _precision(won))
    except (ImportError, LabelingGroundError):
        return None
    for verdict in found:
        if verdict.failed and (verdict.engine in ON_GPU or won.engine not in ON_GPU):
            with contextlib.suppress(ImportError, LabelingGroundError):
                model.build(verdict.engine, _precision(verdict))
                return None
    return _chosen(backend, won, found, least_iou, "found before")


def best_of(verdicts: Iterable[Verdict], least_iou: float) -> Verdict:
    """The fastest whose masks agree with those of fp32; one of fp32 where no other is faster by ``MARGIN``.

    Depends on nothing else: from the same verdicts always the same is chosen.
    """
    found = [verdict for verdict in verdicts if not verdict.failed]
    full = min((each for each in found if each.precision == "fp32"), key=lambda each: each.total_s)
    lower = [each for each in found if each.precision != "fp32" and not _against(each, full, least_iou)]
    return min([full, *lower], key=lambda each: each.total_s)


def judge(
    model: Model,
    ways: Iterable[tuple[str, Precision]],
    pictures: Sequence[Pixels],
    *,
    compare: bool = True,
    source: Literal["load", "check"] = "load",
) -> Iterator[Tried]:
    """Try engines and precisions one after the other.

    The first one that works in fp32 is what the masks of all others are compared with.

    Args:
        model: of what they are made.
        ways: which, those of fp32 first.
        pictures: to be encoded. Under ``load`` only the first one where the first engine is slow.
        compare: whether masks are made and compared.
        source: what the verdicts shall say.
    """
    reference: list[Masks] = []
    has_gpu = False
    for name, precision in ways:
        if has_gpu and name not in ON_GPU:
            yield Tried(Verdict(name, precision, failed="an engine on the GPU works", source=source))
            continue
        if compare and precision != "fp32" and not reference:
            yield Tried(Verdict(name, precision, failed="nothing computes it in fp32, to compare with", source=source))
            continue
        try:
            backend = model.build(name, precision)
            seen = pictures[: len(reference)] or pictures
            encode_s, embeddings = _encoded(backend.engine, seen if model.halves.encoder else (), source)
            decode_s = _decode_s(backend.engine) if model.halves.decoder else 0.0
            masks = [masks_of(backend.engine, *each) for each in zip(seen, embeddings, strict=False)] if compare else []
        except (ImportError, LabelingGroundError) as error:
            yield Tried(Verdict(name, precision, failed=str(error), source=source))
            continue
        has_gpu = has_gpu or name in ON_GPU
        if not reference and precision == "fp32":
            reference = masks
        found = tuple(overlaps(*pair) for pair in zip(masks, reference, strict=False))
        yield Tried(_verdict(name, precision, encode_s, decode_s, found, source), backend, found)
        del backend


def judge_int8(engine: Engine, verdict: Verdict, pictures: Sequence[Pixels]) -> Tried:
    """The masks of embeddings in int8 against those of the same in fp16, by an engine of which this was found."""
    found = []
    for pixels in pictures:
        full = {name: np.asarray(tensor).astype(np.float16) for name, tensor in engine.encode(pixels).items()}
        wide = {name: tensor.astype(np.float32) for name, tensor in full.items()}
        rounded = cast("dict[str, FloatArray]", from_int8(to_int8(full)))
        found.append(overlaps(masks_of(engine, pixels, rounded), masks_of(engine, pixels, wide)))
    made = _verdict(verdict.engine, _precision(verdict), verdict.encode_s, verdict.decode_s, found, verdict.source)
    return Tried(replace(made, embedding=INT8), None, tuple(found))


def _verdict(
    engine: str,
    precision: Precision,
    encode_s: float,
    decode_s: float,
    found: Iterable[Mapping[str, Sequence[float]]],
    source: str,
) -> Verdict:
    ious = list(chain.from_iterable(chain.from_iterable(each.values()) for each in found))
    least, mean = (min(ious), sum(ious) / len(ious)) if ious else (0.0, 0.0)
    return Verdict(engine, precision, encode_s, decode_s, len(ious), least, mean, source=source)


def _encoded(engine: Engine, pictures: Sequence[Pixels], source: str) -> tuple[float, list[Mapping[str, FloatArray]]]:
    """The shortest time of an encode, in seconds, and the embeddings. To load, a slow encoder is asked once only."""
    taken: list[float] = []
    made: list[Mapping[str, FloatArray]] = []
    for pixels in pictures:
        started = time.perf_counter()
        made.append(engine.encode(pixels))
        taken.append(time.perf_counter() - started)
        if source == "load" and taken[-1] > _PATIENCE_S:
            break
    return min(taken, default=0.0), made


def _decode_s(engine: Engine) -> float:
    """The shortest time of a click, in seconds. How long it takes does not depend on what is in the embedding."""
    embedding = _flat_embedding(engine)
    click = tensors(prompts(768, 1024)["click"][0], engine.family.frame(768, 1024), engine.family)
    taken = []
    for _ in range(1 + _CLICKS):  # the first one warms up
        started = time.perf_counter()
        engine.decode(embedding, click, alone=True)
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def _flat_embedding(engine: Engine) -> dict[str, FloatArray]:
    """Of no image."""
    return {name: np.full(shape, 0.1, np.float32) for name, shape in engine.family.embedding_shapes.items()}


def _fastest(model: Model, precision: Precision, kept: Sequence[Verdict]) -> Choice:
    """The fastest engine in one precision."""
    best: Tried | None = None
    ways = [(name, precision) for name in model.engines if precision in PRECISIONS.get(name, (precision,))]
    verdicts = [
        Verdict(name, precision, failed=f"has no {precision}")
        for name in model.engines
        if (name, precision) not in ways
    ]
    for tried in judge(model, ways, (sample(0), sample(1)), compare=False):
        verdicts.append(tried.verdict)
        if tried.backend is not None and (best is None or tried.verdict.total_s < best.verdict.total_s):
            best = tried
        del tried  # the backend that lost
    if best is None or best.backend is None:
        raise _nobody(model, precision, verdicts)
    verdict, backend = best.verdict, best.backend
    if precision != "fp32":
        difference = _difference(model, backend, verdict, kept)
        backend.info = replace(backend.info, note=f"{backend.info.note} {difference}")
    give_back_garbage()  # what the engines that lost have held
    return Choice(backend, verdict.engine, precision, _why(verdict, verdicts, {}), tuple(verdicts))


def _chosen(backend: SamBackend, verdict: Verdict, verdicts: Sequence[Verdict], least_iou: float, when: str) -> Choice:
    """What ``auto`` has chosen."""
    full = min((each for each in verdicts if each.precision == "fp32" and not each.failed), key=lambda v: v.total_s)
    lower = [each for each in verdicts if each.precision != "fp32" and not each.failed and each is not verdict]
    against = {(each.engine, each.precision): _against(each, full, least_iou) for each in lower}
    why = f"{_why(verdict, verdicts, against)} The precision is 'auto', {when}."
    if verdict.precision != "fp32":
        backend.info = replace(backend.info, note=f"{backend.info.note} {verdict.agreement}")
        why = f"{why} {verdict.agreement}"
    return Choice(backend, verdict.engine, _precision(verdict), why, tuple(verdicts))


def _against(verdict: Verdict, full: Verdict, least_iou: float) -> str:
    """What speaks against a lower precision; empty if nothing does."""
    if not verdict.masks:
        return "its masks were all empty, or all of the image, so that nothing can be told of them"
    if verdict.least_iou < least_iou:
        return f"one of its masks overlaps with that of fp32 by {verdict.least_iou:.1%} only"
    if verdict.total_s * MARGIN > full.total_s:
        return f"it is not {MARGIN:g} times as fast as fp32"
    return ""


def _precision(verdict: Verdict) -> Precision:
    return cast("Precision", verdict.precision)


def _difference(model: Model, backend: SamBackend, verdict: Verdict, kept: Sequence[Verdict]) -> str:
    """How far a lower precision is off, as a sentence."""
    for known in kept:
        if (known.engine, known.precision) == (verdict.engine, verdict.precision) and not known.failed:
            return known.agreement
    full = model.build(verdict.engine, "fp32")
    pixels = sample()
    if model.halves == BOTH:
        ours, reference = (masks_of(each.engine, pixels, each.engine.encode(pixels)) for each in (backend, full))
        return _verdict(verdict.engine, "fp32", 0.0, 0.0, [overlaps(ours, reference)], "load").agreement

    def result(engine: Engine) -> FloatArray:
        if model.halves.encoder:
            return engine.encode(pixels)["image_embeddings"]
        click = tensors(prompts(768, 1024)["click"][0], engine.family.frame(768, 1024), engine.family)
        return engine.decode(_flat_embedding(engine), click, alone=True)[0]

    lower, exact = result(backend.engine), result(full.engine)
    rms = float(np.sqrt(np.mean((lower - exact) ** 2)) / max(float(exact.std()), 1e-12))
    return f"Measured at start: {'embeddings' if model.halves.encoder else 'logits'} differ by {rms:.1%} rms."


def _nobody(model: Model, precision: Precision, verdicts: Sequence[Verdict]) -> BadSettings:
    reasons = "; ".join(f"{each.engine}: {each.failed}" for each in verdicts if each.precision == precision)
    return BadSettings(f"No engine can serve {model.name} in {precision}: {reasons}")


def _why(won: Verdict, verdicts: Sequence[Verdict], against: Mapping[tuple[str, str], str]) -> str:
    took = f"an image took {won.encode_s:.2f} s and a click {won.decode_s * 1e3:.0f} ms here"
    parts = [f"{won.engine} in {won.precision}: {took}"]
    for each in verdicts:
        if (each.engine, each.precision) == (won.engine, won.precision):
            continue
        name = each.engine if each.precision == won.precision else f"{each.engine} in {each.precision}"
        if each.failed:
            parts.append(f"not tried, {name}: {each.failed.rstrip('.')}")
            continue
        reason = against.get((each.engine, each.precision), "")
        took = f"{name} took {each.encode_s:.2f} s and {each.decode_s * 1e3:.0f} ms"
        parts.append(f"{took}, but {reason}" if reason else took)
    return f"{'; '.join(parts)}." if len(parts) > 1 else f"{parts[0]}; no other engine was tried."
