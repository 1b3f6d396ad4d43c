"""The files of SAM 3, as ``transformers`` has them, into its models. Nothing is loaded that does not fit exactly."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer, Sam3Config, Sam3Model, Sam3TrackerConfig, Sam3TrackerModel, Sam3VideoConfig
from transformers.utils.logging import disable_progress_bar

from labeling_ground.errors import BadSettings
from labeling_ground.networks.roi_align import roi_align
from labeling_ground.networks.sam3_files import FILES

_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_TRUNK = "vision_encoder.backbone."
_OF_VIDEOS = (
    "memory_",
    "mask_downsample.",
    "object_pointer_proj.",
    "temporal_positional_encoding_projection_layer.",
    "no_memory_positional_encoding",
    "no_object_pointer",
    "occlusion_spatial_embedding_parameter",
)
"""What the tracker has for videos only."""


@dataclass(frozen=True, slots=True)
class Networks:
    """SAM 3, loaded.

    Attributes:
        detector: finds what a phrase or exemplars name; has the trunk.
        tracker: answers clicks, from a neck of its own on the detector's trunk.
        tokenizer: phrase → tokens.
    """

    detector: Any
    tracker: Any
    tokenizer: Any


def load(files: Mapping[str, Path], *, dtype: torch.dtype = torch.float32) -> Networks:
    """Load the model, on the processor.

    Args:
        files: the four of ``FILES``, by what they are for.
        dtype: of trunk, necks and text encoder, which are 96 % of the weights. The heads stay in fp32: in half
            precision a box could not be placed to the pixel.

    Raises:
        BadSettings: a file is missing, is not what it should be, or its weights are not exactly those of the model;
            the sentence names them.
    """
    missing = [name for role, name in FILES.items() if role not in files]
    if missing:
        raise BadSettings(
            f"SAM 3 needs {', '.join(missing)} too: all four files come with the weights ({', '.join(FILES.values())})."
        )
    config = _config(files["config"])
    detector_config, tracker_config = halves_of(config)
    tokenizer = _tokenizer(files["vocabulary"], files["merges"], detector_config.text_config.vocab_size)
    of_detector, of_tracker = _split(_read(files["weights"]))
    _check(
        {
            "detector": (Sam3Model, detector_config, of_detector),
            "tracker": (Sam3TrackerModel, tracker_config, of_tracker),
        }
    )
    detector = _filled(Sam3Model, detector_config, of_detector)
    return joined(detector, _filled(Sam3TrackerModel, tracker_config, of_tracker), tokenizer, dtype)


def joined(detector: Any, tracker: Any, tokenizer: Any, dtype: torch.dtype) -> Networks:
    """A ``Sam3Model`` and a ``Sam3TrackerModel`` on one trunk; ``dtype`` as in ``load``."""
    modeling_sam3: Any = sys.modules[Sam3Model.__module__]
    if not hasattr(modeling_sam3, "torchvision"):
        modeling_sam3.torchvision = SimpleNamespace(ops=SimpleNamespace(roi_align=roi_align))
    tracker.vision_encoder.backbone = detector.vision_encoder.backbone
    heavy = (detector.vision_encoder, detector.text_encoder, detector.text_projection, tracker.vision_encoder.neck)
    for weight in (weight for part in heavy for weight in part.parameters()):
        weight.data = weight.data.to(dtype)  # and no buffer: rotary positions need their digits
    return Networks(detector, tracker, tokenizer)


def _config(path: Path) -> Any:
    try:
        raw = json.loads(path.read_bytes())
        kind = raw.get("model_type")
        if kind != "sam3_video":
            raise BadSettings(f"{path.name} describes a model {kind!r}, not 'sam3_video', as that of SAM 3 does.")
        return Sam3VideoConfig.from_dict(raw)
    except OSError as error:
        raise BadSettings(f"The model file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise BadSettings(f"{path.name} is no configuration of SAM 3: {error}") from error


def halves_of(config: Any) -> tuple[Any, Any]:
    """What the detector's and the image tracker's classes are made of; both stand on the detector's trunk."""
    detector, tracker = config.detector_config, config.tracker_config
    parts = {
        name: {key: value for key, value in getattr(tracker, name).to_dict().items() if key != "model_type"}
        for name in ("prompt_encoder_config", "mask_decoder_config")
    }
    vision = {
        **detector.vision_config.to_dict(),
        "backbone_feature_sizes": tracker.vision_config.backbone_feature_sizes,
    }
    return Sam3Config.from_dict(detector.to_dict()), Sam3TrackerConfig(vision_config=vision, **parts)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise BadSettings(f"The model file {path} cannot be read: {error}.") from error
    except SafetensorError as error:
        raise BadSettings(
            f"{path.name} is no safetensors file ({error}). SAM 3 is served from model.safetensors, as transformers "
            "reads it; checkpoints in its authors' layout (sam3.pt, sam3.1_multiplex.pt) are not read."
        ) from error


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The detector's and the tracker's tensors, by the names that their classes have for them."""
    renamed = sorted(name for name in tensors if "interactive_" in name)
    if renamed:
        raise BadSettings(
            f"These are weights of SAM 3.1, which calls tensors otherwise ({_few(renamed)}): loaded as SAM 3 its heads "
            "would be left random. Serve SAM 3; of images, 3.1 makes nothing else."
        )
    detector: dict[str, Tensor] = {}
    tracker: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        half, _, rest = name.partition(".")
        if half == "detector_model":
            detector[rest] = tensor
            if rest.startswith(_TRUNK):
                tracker[rest] = tensor
        elif half == "tracker_neck":
            tracker[f"vision_encoder.neck.{rest}"] = tensor
        elif half != "tracker_model":
            detector[name] = tensor  # not known there, and named so
        elif not rest.startswith(_OF_VIDEOS):
            tracker[rest] = tensor
    return detector, tracker


def _check(halves: Mapping[str, tuple[Any, Any, Mapping[str, Tensor]]]) -> None:
    """See that every tensor that the classes have is there, in its shape, and no other."""
    wrong = []
    for half, (kind, config, given) in halves.items():
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in kind(config).state_dict().items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
        differ = [name for name in wanted.keys() & shapes.keys() if wanted[name] != shapes[name]]
        for names, what in (
            (wanted.keys() - shapes.keys(), "are missing"),
            (shapes.keys() - wanted.keys(), "are not known"),
            (differ, "have another shape than config.json says"),
        ):
            if names:
                wrong.append(f"of the {half} {_few(sorted(names))} {what}")
    if wrong:
        raise BadSettings(f"These are not the weights of SAM 3: {'; '.join(wrong)}.")


def _filled(kind: Any, config: Any, tensors: dict[str, Tensor]) -> Any:
    disable_progress_bar()
    return kind.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32).eval()


def _tokenizer(vocabulary: Path, merges: Path, size: int) -> Any:
    """CLIP's byte-pair encoding, into numbers below ``size``."""
    try:
        numbers = json.loads(vocabulary.read_bytes())
        lines = merges.read_text(encoding="utf-8").splitlines()
        absent = [word for word in _SPECIAL if word not in numbers]
        if absent:
            raise ValueError(f"there is no token {' and no '.join(absent)}")
        if max(numbers.values()) >= size:
            raise ValueError(f"it has more than the {size} tokens of the model")
        pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
        return CLIPTokenizer(vocab=numbers, merges=pairs)
    except OSError as error:
        raise BadSettings(f"The model file {error.filename} cannot be read: {error.strerror}.") from error
    except Exception as error:  # tokenizers raises nothing narrower
        raise BadSettings(
            f"{vocabulary.name} and {merges.name} are no vocabulary of SAM 3's tokenizer: {error}."
        ) from error


def _few(names: Iterable[str]) -> str:
    """Some names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{', '.join(listed[:3])}{more}"
