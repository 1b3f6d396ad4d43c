"""EdgeTAM from the authors' checkpoint, image and prompt to mask, by torch; its encoder exported."""

import hashlib

import numpy as np
import pytest
from tests.doubles import on
from tests.needs import needs
from tests.sam.parity import MASK, check, photo, prompts
from tests.sam.references import TOLERANCE
from tests.sam.references_edge_tam import OFFICIAL, TRUNK, checkpoint, edge_tam, exported_encoder, weights
from tests.sam.references_sam2 import Predictor

from labeling_ground.errors import BadInput
from labeling_ground.networks.layout_sam2 import OF_VIDEOS
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import preprocess
from labeling_ground.types import Image, Prompt

HEIGHT, WIDTH = 301, 401


def image() -> Image:
    return Image("0" * 64, photo(HEIGHT, WIDTH))


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_torch_engine_gives_the_references_numbers_for_every_kind_of_prompt() -> None:
    needs("torch")
    file = checkpoint()
    from labeling_ground.inference.torch_engine import create

    backend = create(1, 2, encoder_path=file, decoder_path=file, model="edge-tam-random", device="cpu")
    assert backend.family is Family.SAM2
    predictor = Predictor(image().pixels, edge_tam())
    [embedding] = await backend.encode([image()])
    assert {name: x.shape for name, x in embedding.tensors.items()} == Family.SAM2.embedding_shapes
    names = ("high_res_features_0", "high_res_features_1", "image_embeddings")
    for name, theirs in zip(names, predictor.features, strict=True):
        assert np.abs(embedding.tensors[name] - theirs.numpy()).max() < TOLERANCE
        assert theirs.std() > 0.1
    asked = prompts(HEIGHT, WIDTH)
    for name, made in zip(asked, await backend.decode(on(embedding, [*asked.values()])), strict=True):
        full, scores, low = predictor.predict(asked[name])
        assert len(made.masks) == len(scores) == (3 if asked[name].multimask else 1), name
        for mask, theirs in zip(made.masks, zip(full, scores, low, strict=True), strict=True):
            check(mask, theirs[0], float(theirs[1]), theirs[2])
    assert len((await backend.decode(on(embedding, [Prompt((), None, MASK)])))[0].masks) == 3
    await backend.aclose()


@pytest.mark.slow
def test_the_exported_encoder_gives_the_references_numbers() -> None:
    runtime = needs("onnxruntime")
    file = exported_encoder()
    from labeling_ground.models.export.graphs import read_metadata

    told = read_metadata(file)
    assert (told["family"], told["architecture"]) == ("sam2", "repvit_m1")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    made = session.run(list(Family.SAM2.embedding_names), {"image": preprocess(image().pixels, Family.SAM2)})
    fine, middle, coarse = Predictor(image().pixels, edge_tam()).features
    for ours, theirs in zip(made, (coarse, fine, middle), strict=True):
        assert np.abs(ours - theirs.numpy()).max() < TOLERANCE


def test_names_and_shapes_are_the_authors() -> None:
    needs("torch")
    of_images = {name: x for name, x in weights().items() if not name.startswith(OF_VIDEOS)}
    assert len(of_images) < len(weights())
    lines = sorted(f"{name} {list(x.shape)}" for name, x in of_images.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == OFFICIAL


@pytest.mark.parametrize(
    "name",
    [
        f"{TRUNK}stages_2.blocks.13.channel_mixer.conv2.bn.running_var",
        f"{TRUNK}stages_1.downsample.pre_block.token_mixer.conv1.c.weight",
        "image_encoder.neck.convs.3.conv.bias",
        "sam_mask_decoder.conv_s0.bias",
    ],
)
def test_a_weight_that_is_missing_or_left_over_is_named(name: str) -> None:
    torch = needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights

    said = name.split(".", 1)[1]
    for changed in ({key: x for key, x in weights().items() if key != name}, weights() | {f"{name}_2": torch.zeros(1)}):
        with pytest.raises(BadInput) as refused:
            from_weights(changed)
        assert said in str(refused.value)
