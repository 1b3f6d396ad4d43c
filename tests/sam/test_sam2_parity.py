"""SAM 2.1 from image and prompt to mask, against ``transformers``: real sizes, real decoder, a shallow encoder."""

from typing import Any

import numpy as np
import pytest
from tests.needs import needs
from tests.sam.parity import MASK, SIZES, check, photo, prompts
from tests.sam.references import TOLERANCE
from tests.sam.references_sam2 import Predictor, exported_sam2, sam2

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
    folder, _ = exported_sam2()
    return {
        name: runtime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("encoder", "decoder", "decoder-fast")
    }


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_the_references_for_every_kind_of_prompt(sessions: dict[str, Any], size: tuple[int, int]) -> None:
    pixels = photo(*size)
    predictor = Predictor(pixels)
    names = Family.SAM2.embedding_names
    made = sessions["encoder"].run(list(names), {"image": preprocess(pixels, Family.SAM2)})
    for ours, theirs in zip(made, [predictor.features[i] for i in (2, 0, 1)], strict=True):
        assert np.abs(ours - theirs.numpy()).max() < TOLERANCE
    embedding = dict(zip(names, made, strict=True))
    frame = Family.SAM2.frame(*size)
    asked = prompts(*size)
    asked["a click, one mask"] = Prompt((Point(0, 0, 1),), multimask=False)
    if size != SIZES[0]:  # all kinds once, and at the other sizes those that touch the edges
        kinds = ("a click at the far corner", "the whole image as a box", "everything", "a click, one mask")
        asked = {name: asked[name] for name in kinds}
    for name, prompt in asked.items():
        full, scores, low = predictor.predict(prompt)
        read = tensors(prompt, frame, Family.SAM2)
        for graph in ("decoder", "decoder-fast"):
            session = sessions[graph]
            given = decoder_inputs(embedding, read, [entry.name for entry in session.get_inputs()])
            logits, guessed = session.run(["low_res_masks", "iou_predictions"], given)
            answer = prediction(logits[0], guessed[0], prompt, frame, Family.SAM2)
            assert len(answer.masks) == len(scores), name
            for mask, theirs in zip(answer.masks, zip(full, scores, low, strict=True), strict=True):
                check(mask, theirs[0], float(theirs[1]), theirs[2])


@pytest.mark.parametrize("stable", [True, False])
def test_one_mask_is_the_first_if_it_is_stable_and_else_the_best_of_the_others(
    sessions: dict[str, Any], stable: bool
) -> None:
    """The decoder's own rule, on logits made so large that the first candidate is stable, and on those as they are."""
    torch = needs("torch")
    rng = np.random.default_rng(1)
    read = tensors(Prompt((Point(30, 20, 1),)), Family.SAM2.frame(60, 80), Family.SAM2)
    embedding = {n: rng.standard_normal(s, np.float32) * 0.3 for n, s in Family.SAM2.embedding_shapes.items()}
    given = decoder_inputs(embedding, read, [entry.name for entry in sessions["decoder"].get_inputs()])
    logits, scores = sessions["decoder"].run(["low_res_masks", "iou_predictions"], given)
    logits *= 1e6 if stable else 1
    with torch.inference_mode():
        expected, score = sam2().mask_decoder._dynamic_multimask_via_stability(
            torch.from_numpy(logits)[None], torch.from_numpy(scores)[None]
        )
    made = prediction(logits[0], scores[0], Prompt(multimask=False), Family.SAM2.frame(60, 80), Family.SAM2)
    assert len(made.masks) == 1
    assert made.masks[0].score == pytest.approx(float(score), abs=1e-6)
    assert np.abs(made.masks[0].logits - expected[0, 0, 0].clamp(-32, 32).numpy()).max() < 1e-6
    assert (made.masks[0].score == pytest.approx(float(scores[0, 0]), abs=1e-6)) is stable


def test_a_mask_alone_is_decoded_as_by_the_reference(sessions: dict[str, Any]) -> None:
    """The reference's predictor gives the decoder no token then; ``transformers`` pads, so its parts are asked."""
    torch = needs("torch")
    rng = np.random.default_rng(0)
    embedding = {n: rng.standard_normal(s, np.float32) * 0.3 for n, s in Family.SAM2.embedding_shapes.items()}
    coarse, fine, middle = (torch.from_numpy(x) for x in embedding.values())
    model = sam2()
    with torch.inference_mode():
        dense = model.prompt_encoder.mask_embed(torch.from_numpy(MASK[None, None]))
        expected, _, _, _ = model.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=torch.zeros(1, 1, 0, 256),
            dense_prompt_embeddings=dense,
            multimask_output=True,
            high_resolution_features=[fine, middle],
        )
    read = tensors(Prompt((), None, MASK), Family.SAM2.frame(10, 10), Family.SAM2)
    for graph in ("decoder", "decoder-fast"):
        names = [entry.name for entry in sessions[graph].get_inputs()]
        (logits,) = sessions[graph].run(["low_res_masks"], decoder_inputs(embedding, read, names))
        assert np.abs(logits[0, 1:] - expected[0, 0].numpy()).max() < TOLERANCE
