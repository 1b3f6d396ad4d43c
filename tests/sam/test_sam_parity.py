"""From image and prompt to mask, against the reference predictor: real sizes, real decoder, a shallow encoder."""

from typing import Any

import numpy as np
import pytest
from tests.needs import needs
from tests.sam.parity import MASK, SIZES, ask_reference, check, photo, prompts
from tests.sam.references import TOLERANCE, exported, mobile, sam, segment_anything

from labeling_ground.inference.dialects import decoder_inputs
from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import prediction
from labeling_ground.sam.preprocess import preprocess
from labeling_ground.sam.prompts import tensors
from labeling_ground.types import Point, Prompt


@pytest.fixture(scope="module")
def sessions() -> dict[str, Any]:
    """Our exported graphs, in ONNX Runtime with nothing of ours around it."""
    runtime = needs("onnxruntime")
    folder, _ = exported()
    return {
        name: runtime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("encoder", "decoder", "decoder-fast")
    }


@pytest.mark.slow
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
    from labeling_ground.networks.checkpoint import from_weights

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
    from labeling_ground.networks.checkpoint import from_weights

    reference = mobile()
    needs("transformers")
    ours = from_weights(reference.state_dict())
    assert ours.architecture == "vit_t"
    square = torch.from_numpy(preprocess(photo(333, 500), Family.SAM))
    with torch.inference_mode():
        difference = (ours.encoder(square) - reference.image_encoder(square)).abs().max()
    assert difference < TOLERANCE
