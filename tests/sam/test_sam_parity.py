"""From image and prompt to mask, against the reference predictor: real sizes, real decoder, a shallow encoder."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.needs import needs
from tests.sam.references import TOLERANCE, exported, mobile, sam, segment_anything

from labeling_ground.inference.dialects import decoder_inputs
from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import prediction
from labeling_ground.sam.preprocess import preprocess
from labeling_ground.sam.prompts import tensors
from labeling_ground.types import Box, Mask, Point, Prompt

SIZES = [(601, 801), (1300, 700), (1, 37), (37, 1)]
MASK = np.random.default_rng(3).normal(0, 6, (16, 16)).repeat(16, 0).repeat(16, 1).astype(np.float32)


def photo(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prompts(height: int, width: int) -> dict[str, Prompt]:
    """Every kind of prompt, at the image's edges too."""
    right, bottom = width - 1, height - 1
    corner, middle = Point(right, bottom, 1), Point(width / 2, height / 2, 1)
    box = Box(width * 0.1, height * 0.2, width * 0.8, height * 0.9)
    return {
        "a click": Prompt((middle,)),
        "a click at the origin": Prompt((Point(0, 0, 1),)),
        "a click at the far corner": Prompt((corner,)),
        "two clicks": Prompt((middle, Point(0, bottom, 0))),
        "two clicks, one mask": Prompt((middle, Point(0, bottom, 0)), multimask=False),
        "a box, one mask": Prompt((), box, multimask=False),
        "the whole image as a box": Prompt((), Box(0, 0, width, height)),
        "a box and clicks": Prompt((middle, Point(0, 0, 0)), box),
        "a click and a mask": Prompt((middle,), None, MASK),
        "a box and a mask, one mask": Prompt((), box, MASK, multimask=False),
        "everything": Prompt((middle, corner), box, MASK),
        "twenty clicks": Prompt(tuple(Point(width * i / 20, height * i / 20, i % 2) for i in range(20))),
    }


@pytest.fixture(scope="module")
def sessions() -> dict[str, Any]:
    """Our exported graphs, in ONNX Runtime with nothing of ours around it."""
    runtime = needs("onnxruntime")
    folder, _ = exported()
    return {
        name: runtime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("encoder", "decoder", "decoder-fast")
    }


def ask_reference(predictor: Any, prompt: Prompt) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Full-size logits, scores and low-res logits, as the reference gives them."""
    given: dict[str, Any] = {"multimask_output": prompt.multimask, "return_logits": True}
    if prompt.points:
        given["point_coords"] = np.array([[p.x, p.y] for p in prompt.points])
        given["point_labels"] = np.array([p.label for p in prompt.points])
    if prompt.box is not None:
        given["box"] = np.array([prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1])
    if prompt.mask_input is not None:
        given["mask_input"] = prompt.mask_input[None]
    full, scores, low = predictor.predict(**given)
    best_first = np.argsort(-scores, kind="stable")
    return full[best_first], scores[best_first], low[best_first]


def check(mask: Mask, full: NDArray[Any], score: float, low: NDArray[Any]) -> None:
    assert np.abs(mask.logits - low).max() < TOLERANCE
    assert mask.score == pytest.approx(min(1, max(0, score)), abs=TOLERANCE)
    wrong = mask.pixels != (full > 0)
    assert np.abs(full[wrong]).max(initial=0) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_the_references_for_every_kind_of_prompt(sessions: dict[str, Any], size: tuple[int, int]) -> None:
    pixels = photo(*size)
    predictor = segment_anything().SamPredictor(sam())
    predictor.set_image(pixels)
    (ours,) = sessions["encoder"].run(None, {"image": preprocess(pixels, Family.SAM)})
    assert np.abs(ours - predictor.features.numpy()).max() < TOLERANCE
    embedding = {"image_embeddings": ours}
    frame = Family.SAM.frame(*size)
    asked = prompts(*size)
    if size != SIZES[0]:  # all kinds once, and at the other sizes those that touch the edges
        asked = {name: asked[name] for name in ("a click at the far corner", "the whole image as a box", "everything")}
    for name, prompt in asked.items():
        full, scores, low = ask_reference(predictor, prompt)
        read = tensors(prompt, frame, Family.SAM)
        for graph in ("decoder", "decoder-fast"):
            session = sessions[graph]
            given = decoder_inputs(embedding, read, [entry.name for entry in session.get_inputs()])
            logits, guessed = session.run(["low_res_masks", "iou_predictions"], given)
            made = prediction(logits[0], guessed[0], prompt, frame, Family.SAM)
            assert len(made.masks) == len(scores), name
            for mask, theirs in zip(made.masks, zip(full, scores, low, strict=True), strict=True):
                check(mask, theirs[0], float(theirs[1]), theirs[2])


def test_a_mask_alone_is_decoded_as_by_the_reference(sessions: dict[str, Any]) -> None:
    torch = needs("torch")
    embedding = np.random.default_rng(0).standard_normal((1, 256, 64, 64), np.float32)
    model = sam()
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder(None, None, torch.from_numpy(MASK[None, None]))
        expected, _ = model.mask_decoder.predict_masks(
            image_embeddings=torch.from_numpy(embedding),
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
    read = tensors(Prompt((), None, MASK), Family.SAM.frame(10, 10), Family.SAM)
    for graph in ("decoder", "decoder-fast"):
        names = [entry.name for entry in sessions[graph].get_inputs()]
        given = decoder_inputs({"image_embeddings": embedding}, read, names)
        (logits,) = sessions[graph].run(["low_res_masks"], given)
        assert np.abs(logits - expected.numpy()).max() < TOLERANCE


def test_transformers_agrees(sessions: dict[str, Any]) -> None:
    torch, transformers = needs("torch"), needs("transformers")
    from labeling_ground.models.export.checkpoint import from_weights

    model = from_weights(sam().state_dict()).sam
    assert isinstance(model, transformers.SamModel)
    height, width = 601, 801
    pixels = photo(height, width)
    processor = transformers.SamProcessor(transformers.SamImageProcessor())
    point = [[[400.0, 300.0]]]
    read = processor(images=pixels, input_points=point, input_labels=[[1]], return_tensors="pt")
    with torch.inference_mode():
        theirs = model(
            pixel_values=read["pixel_values"],
            input_points=read["input_points"].float(),
            input_labels=read["input_labels"],
            multimask_output=True,
        )
    (embedding,) = sessions["encoder"].run(None, {"image": preprocess(pixels, Family.SAM)})
    prompt = tensors(Prompt((Point(400.0, 300.0, 1),)), Family.SAM.frame(height, width), Family.SAM)
    names = [entry.name for entry in sessions["decoder"].get_inputs()]
    given = decoder_inputs({"image_embeddings": embedding}, prompt, names)
    logits, scores = sessions["decoder"].run(["low_res_masks", "iou_predictions"], given)
    assert np.abs(logits[:, 1:] - theirs.pred_masks[0].numpy()).max() < TOLERANCE
    assert np.abs(scores[:, 1:] - theirs.iou_scores[0].numpy()).max() < TOLERANCE


def test_mobile_sams_encoder_is_the_original() -> None:
    torch = needs("torch")
    from labeling_ground.models.export.checkpoint import from_weights

    reference = mobile()
    needs("transformers")
    ours = from_weights(reference.state_dict())
    assert ours.architecture == "vit_t"
    square = torch.from_numpy(preprocess(photo(333, 500), Family.SAM))
    with torch.inference_mode():
        difference = (ours.encoder(square) - reference.image_encoder(square)).abs().max()
    assert difference < TOLERANCE
