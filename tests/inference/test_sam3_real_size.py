"""SAM 3 in its real width, squares and heads, with two layers of its trunk; all 32 are in ``bench/engines/sam3.py``."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from tests.needs import needs
from tests.sam.parity import photo
from tests.sam.roi_align_reference import of_box

from labeling_ground.inference.sam3 import create
from labeling_ground.networks.sam3_files import files_of
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import stretch_sam3
from labeling_ground.sam.prompts import tensors
from labeling_ground.types import Box, Embedding, Exemplar, Point, Prompt

torch = needs("torch")
TOLERANCE = 1e-3
HEIGHT, WIDTH = 211, 307


@pytest.mark.slow
def test_the_real_sizes_are_transformers_and_those_that_are_written_down(tmp_path: Path) -> None:
    from tests.sam.references_sam3 import real_config, save

    modeling_sam3 = sys.modules[needs("transformers").Sam3Model.__module__]

    from labeling_ground.networks.roi_align import roi_align as by_ours

    save(tmp_path, real_config(layers=2, text_layers=2, heads_layers=1))
    engine = create(2, 1, files=files_of(tmp_path), device="cpu").engine
    (tmp_path / "model.safetensors").unlink()  # 700 MB, which pytest would keep
    pixels = photo(HEIGHT, WIDTH)
    trunk = Embedding({"trunk": engine.trunk(pixels)}, HEIGHT, WIDTH, digest="known")
    assert trunk.tensors["trunk"].shape == (1, 72 * 72, 1024)
    shown = Exemplar(Box(20, 30, 250, 200))
    box = torch.tensor([[[135 / WIDTH, 115 / HEIGHT, 230 / WIDTH, 170 / HEIGHT]]])

    def roi_align(features: Any, boxes: Any, cells: int) -> Any:
        some = of_box(features[0, :8].double().numpy(), tuple(boxes[0][0].tolist()), cells)  # of 256 channels
        made = by_ours(features, boxes, cells)
        assert np.abs(made[0, :8].numpy() - some).max() < 1e-4
        return made

    by_definition = SimpleNamespace(ops=SimpleNamespace(roi_align=roi_align))
    given = engine._tokenizer("screw", padding="max_length", max_length=32, return_tensors="pt")
    with mock.patch.object(modeling_sam3, "torchvision", by_definition, create=True), torch.inference_mode():
        direct = engine._detector(pixel_values=torch.from_numpy(stretch_sam3(pixels)), input_boxes=box, **given)
    found = engine.detect(trunk, engine.text("screw"), engine.exemplars(trunk, [shown]), least=0.0)
    scores = (direct.pred_logits.sigmoid() * direct.presence_logits.sigmoid())[0]
    order = scores.argsort(descending=True, stable=True)
    assert (found.scores.shape, found.logits.shape) == ((200,), (200, 288, 288))
    assert np.abs(found.scores - scores[order].numpy()).max() < TOLERANCE
    assert np.abs(found.boxes - direct.pred_boxes[0, order].numpy()).max() < TOLERANCE
    assert np.abs(found.logits - direct.pred_masks[0, order].numpy()).max() < TOLERANCE

    embedding = engine.embed(trunk)
    assert {name: tensor.shape for name, tensor in embedding.items()} == Family.SAM3.embedding_shapes
    read = tensors(Prompt((Point(100, 50, 1),)), Family.SAM3.frame(HEIGHT, WIDTH), Family.SAM3)
    logits, guessed = engine.decode(embedding, read, alone=True)
    names = ("high_res_features_0", "high_res_features_1", "image_embeddings")
    with torch.inference_mode():
        clicked = engine._tracker(
            image_embeddings=[torch.from_numpy(embedding[name]) for name in names],
            input_points=torch.from_numpy(read.point_coords[:, None, :1]),
            input_labels=torch.ones(1, 1, 1, dtype=torch.int32),
        )
    assert logits.shape == (4, 288, 288)
    assert np.abs(logits[1:] - clicked.pred_masks[0, 0].numpy()).max() < TOLERANCE
    assert np.abs(guessed[1:] - clicked.iou_scores[0, 0].numpy()).max() < TOLERANCE
