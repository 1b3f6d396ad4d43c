"""SAM 3 in torch, cut where results are worth keeping: trunk, click features, phrase, exemplars, instances, click.

The parts are those of ``transformers``' ``Sam3Model`` and ``Sam3TrackerModel``; here stands only what joins them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from labeling_ground.errors import BadPrompt, ForeignTensors
from labeling_ground.inference.concepts import Detected
from labeling_ground.inference.graphs import FAST_TOKENS, FloatArray
from labeling_ground.inference.lru import Lru
from labeling_ground.networks.decoders import FastDecoder, PlainDecoder
from labeling_ground.networks.sam3 import Networks
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import stretch_sam3
from labeling_ground.sam.prompts import PromptTensors
from labeling_ground.types import Box, Embedding, Exemplar

VISUAL = "visual"
"""The phrase that stands beside exemplars where nobody gave one; ``Sam3Processor`` says so."""
_LEVELS = 3
"""Maps of the detector's neck that are used; its fourth, of 36 × 36 places, is not."""


class Sam3Engine:
    """Blocking calls, which may come from several threads. It is a ``ConceptEngine``.

    What the detector's neck makes of a trunk is too large to be stored (111 MB of an image in fp32) and cheap against
    the trunk, so it is computed where it is needed, and kept at hand for the next phrase on the same image.

    Args:
        networks: the model; moved to the device.
        device: as torch names it.
        features_bytes: what the neck's results of the last images may take on the device.
    """

    family = Family.SAM3

    def __init__(self, networks: Networks, *, device: str, features_bytes: int) -> None:
        decoders = FastDecoder(networks.tracker), PlainDecoder(networks.tracker)
        self._short, self._long = (decoder.eval().to(device) for decoder in decoders)
        for network in (networks.detector, networks.tracker):
            network.to(device)
        self._detector, self._tracker, self._tokenizer = networks.detector, networks.tracker, networks.tokenizer
        config = self._detector.config
        self._side = int(config.vision_config.image_size)
        self._grid = self._side // int(config.vision_config.backbone_config.patch_size)
        self._width = int(config.detr_encoder_config.hidden_size)
        trunk = (1, self._grid**2, int(config.vision_config.backbone_config.hidden_size))
        whole = self.family.embedding_shapes  # of the published model; others have the same proportions
        _, width, grid, _ = whole["image_embeddings"]
        self._shapes: dict[str, tuple[int, ...]] = {"trunk": trunk} | {
            name: (1, deep * self._width // width, rows * self._grid // grid, columns * self._grid // grid)
            for name, (_, deep, rows, columns) in whole.items()
        }
        self._most_tokens = int(config.text_config.max_position_embeddings)
        weight = next(self._detector.vision_encoder.parameters())
        self._dtype, self._device = weight.dtype, weight.device
        self.device = str(weight.device)
        """As torch names it."""
        self._features: Lru[tuple[Tensor, ...]] = Lru(features_bytes)
        self._visual: FloatArray | None = None

    @torch.inference_mode()
    def trunk(self, pixels: NDArray[np.uint8]) -> FloatArray:
        """RGB ``uint8 [height, width, 3]`` → the trunk, ``float32 [1, places, width]``: 5184 places of 1024 numbers."""
        square = self._floats(stretch_sam3(pixels, self._side)).to(self._dtype)
        return _array(self._detector.vision_encoder.backbone(square).last_hidden_state)

    @torch.inference_mode()
    def embed(self, trunk: Embedding) -> dict[str, FloatArray]:
        """The trunk → what clicks are decoded with, by the names of ``Family.embedding_shapes``."""
        layers, square = self._tracker.vision_encoder.neck.fpn_layers[:_LEVELS], self._square(trunk)
        fine, middle, coarse = (layer(square).float() for layer in layers)
        decoder = self._tracker.mask_decoder
        return {
            # As SAM 2 and the tracker for videos do; ``Sam3TrackerModel`` adds it to a level that it then drops.
            "image_embeddings": _array(coarse + self._tracker.no_memory_embedding.view(1, -1, 1, 1)),
            "high_res_features_0": _array(decoder.conv_s0(fine)),
            "high_res_features_1": _array(decoder.conv_s1(middle)),
        }

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        """RGB ``uint8 [height, width, 3]`` → what clicks are decoded with."""
        height, width = pixels.shape[:2]
        made: dict[str, FloatArray] = self.embed(Embedding({"trunk": self.trunk(pixels)}, height, width))
        return made

    @torch.inference_mode()
    def text(self, phrase: str) -> FloatArray:
        """A phrase → ``float32 [tokens, 256]``.

        Raises:
            BadPrompt: it has more tokens than the model reads.
        """
        tokens = self._tokenizer(phrase)["input_ids"]
        if len(tokens) > self._most_tokens:
            raise BadPrompt(
                f"The phrase has {len(tokens) - 2} tokens, and SAM 3 reads at most {self._most_tokens - 2}: shorten it."
            )
        ids = torch.tensor([tokens], device=self._device)
        found = self._detector.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
        return _array(found.pooler_output[0])

    @torch.inference_mode()
    def exemplars(self, trunk: Embedding, exemplars: Sequence[Exemplar]) -> FloatArray:
        """n exemplars → ``float32 [n + 1, 256]``."""
        maps, places = self._features_of(trunk)
        boxes = [_centred(each.box, trunk.height, trunk.width) for each in exemplars]
        given = self._floats(np.asarray([boxes], np.float32))
        found = self._detector.geometry_encoder(
            box_embeddings=given,
            box_mask=torch.ones(given.shape[:2], dtype=torch.bool, device=self._device),
            box_labels=torch.tensor([[int(each.positive) for each in exemplars]], device=self._device),
            img_feats=maps,
            img_pos_embeds=places,
        )
        return _array(found.last_hidden_state[0])

    @torch.inference_mode()
    def detect(
        self, trunk: Embedding, text: NDArray[Any] | None, exemplars: NDArray[Any] | None, *, least: float
    ) -> Detected:
        """What the results of ``text`` and ``exemplars`` stand for; one of the two may be missing.

        Args:
            trunk: of the image.
            text: of the phrase.
            exemplars: of the boxes.
            least: score of the queries that count.
        """
        if text is None:
            self._visual = text = self.text(VISUAL) if self._visual is None else self._visual
        maps, places = self._features_of(trunk)
        prompt = torch.cat([self._concept(part) for part in (text, exemplars) if part is not None])
        found = self._detector(
            # Whatever is given as text is laid before the exemplars there, and so may hold them already.
            vision_embeds=Sam3VisionEncoderOutput(
                fpn_hidden_states=(*maps, None), fpn_position_encoding=(*places, None)
            ),
            text_embeds=BaseModelOutputWithPooling(pooler_output=prompt[None]),
        )
        scores = (found.pred_logits[0].sigmoid() * found.presence_logits[0].sigmoid()).float()
        order = scores.argsort(descending=True, stable=True)
        kept = order[scores[order] >= least]
        return Detected(_array(scores[kept]), _array(found.pred_boxes[0, kept]), _array(found.pred_masks[0, kept]))

    @torch.inference_mode()
    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """One prompt → logits ``float32 [4, 288, 288]`` and scores ``float32 [4]``."""
        decoder = self._short if prompt.tokens <= FAST_TOKENS else self._long
        logits, scores = decoder(
            *(self._floats(self._own(embedding, name)) for name in self.family.embedding_names),
            self._floats(prompt.point_coords) * (self._side / self.family.side),
            self._floats(prompt.point_labels),
            self._floats(prompt.mask_input) if prompt.has_mask_input.any() else None,
            self._floats(prompt.has_mask_input),
        )
        return _array(logits[0]), _array(scores[0])

    def _square(self, trunk: Embedding) -> Tensor:
        """The trunk as its neck takes it: ``[1, width, rows, columns]``."""
        places = self._floats(self._own(trunk.tensors, "trunk")).to(self._dtype)
        return places.transpose(1, 2).unflatten(2, (self._grid, self._grid))

    def _own(self, tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
        """The tensor of this name, where it is as this model makes it.

        Raises:
            ForeignTensors: it is not.
        """
        found, shape = tensors.get(name), self._shapes[name]
        if found is None or found.shape != shape:
            raise ForeignTensors(
                f"The {name} is not one of this model's: there is no tensor {name!r} of {list(shape)}."
            )
        return found

    def _concept(self, tensor: NDArray[Any]) -> Tensor:
        """What ``text`` and ``exemplars`` give, as the detector takes it.

        Raises:
            ForeignTensors: they did not.
        """
        if tensor.ndim != 2 or tensor.shape[1] != self._width or not len(tensor):
            raise ForeignTensors(
                f"The concept is not one of this model's: it is {list(tensor.shape)}, not [tokens, {self._width}]."
            )
        return self._floats(tensor)

    def _features_of(self, trunk: Embedding) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The detector's maps of the image, from fine to coarse, and the positional codes of their places."""
        neck = self._detector.vision_encoder.neck

        def made() -> tuple[tuple[Tensor, ...], int]:
            maps = tuple(layer(square) for square in [self._square(trunk)] for layer in neck.fpn_layers[:_LEVELS])
            return maps, sum(each.nbytes for each in maps)

        maps = tuple(each.float() for each in self._features.get(trunk.digest, made))
        return maps, tuple(neck.position_encoding(each.shape, each.device, each.dtype) for each in maps)

    def _floats(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.require(array, np.float32, ["C", "W"])).to(self._device)


def _centred(box: Box, height: int, width: int) -> tuple[float, float, float, float]:
    """A box as the detector reads it: its centre, width and height, in shares of the image."""
    return (
        (box.x0 + box.x1) / 2 / width,
        (box.y0 + box.y1) / 2 / height,
        (box.x1 - box.x0) / width,
        (box.y1 - box.y0) / height,
    )


def _array(tensor: Tensor) -> FloatArray:
    return np.asarray(tensor.float().cpu().numpy(), np.float32)
