"""EfficientTAM from the authors' checkpoint, image and prompt to mask, by torch and exported."""

import hashlib
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.doubles import on
from tests.needs import needs
from tests.sam.parity import MASK, check, photo, prompts
from tests.sam.references import TOLERANCE
from tests.sam.references_efficient_tam import OFFICIAL, as_official, checkpoint, encode, exported, weights
from tests.sam.references_sam2 import Predictor, sam2

from labeling_ground.errors import BadInput
from labeling_ground.sam.family import Family
from labeling_ground.types import Image, Prompt

HEIGHT, WIDTH = 301, 401


def image() -> Image:
    return Image("0" * 64, photo(HEIGHT, WIDTH))


@cache
def predictor() -> Predictor:
    return Predictor(image().pixels, encode=partial(encode, weights()))


async def check_backend(backend: Any, asked: Mapping[str, Prompt]) -> None:
    """The embedding, and the masks of each prompt, are the reference's."""
    [embedding] = await backend.encode([image()])
    assert {name: x.shape for name, x in embedding.tensors.items()} == {"image_embeddings": (1, 256, 64, 64)}
    assert np.abs(embedding.tensors["image_embeddings"] - predictor().features[2].numpy()).max() < TOLERANCE
    for name, made in zip(asked, await backend.decode(on(embedding, [*asked.values()])), strict=True):
        full, scores, low = predictor().predict(asked[name])
        assert len(made.masks) == len(scores) == (3 if asked[name].multimask else 1), name
        for mask, theirs in zip(made.masks, zip(full, scores, low, strict=True), strict=True):
            check(mask, theirs[0], float(theirs[1]), theirs[2])
    assert len((await backend.decode(on(embedding, [Prompt((), None, MASK)])))[0].masks) == 3
    await backend.aclose()


@pytest.mark.anyio
async def test_the_torch_engine_gives_the_references_numbers_for_every_kind_of_prompt() -> None:
    needs("torch")
    file = checkpoint()
    from labeling_ground.inference.torch_engine import create

    backend = create(1, 2, encoder_path=file, decoder_path=file, model="efficient-tam", device="cpu")
    await check_backend(backend, prompts(HEIGHT, WIDTH))


@pytest.mark.anyio
@pytest.mark.parametrize("engine", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
async def test_exported_files_give_the_references_numbers(engine: str) -> None:
    needs({"onnx": "onnxruntime"}.get(engine, engine))
    folder = exported()
    from labeling_ground.models.export.graphs import read_metadata

    files = {path.stem: path for path in folder.glob("*.onnx")}
    told = [read_metadata(path) for path in files.values()]
    assert {(each["family"], each["architecture"]) for each in told} == {("efficient-tam", "efficienttam_ti")}
    create = __import__(f"labeling_ground.inference.{engine}", fromlist=["create"]).create
    backend = create(1, 2, encoder_path=files["encoder"], decoder_path=files["decoder-fast"], model="efficient-tam")
    asked = prompts(HEIGHT, WIDTH)
    await check_backend(
        backend, {name: asked[name] for name in ("two clicks, one mask", "everything", "twenty clicks")}
    )


@pytest.mark.parametrize("name", OFFICIAL)
def test_names_and_shapes_are_those_of_the_authors_package_and_tell_the_size(name: str) -> None:
    torch = needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights
    from labeling_ground.networks.layout_sam2 import OF_VIDEOS

    width, expected = OFFICIAL[name]
    official = as_official(width, sam2().state_dict())
    of_images = {key: x for key, x in official.items() if not key.startswith(OF_VIDEOS)}
    lines = sorted(f"{key} {list(x.shape)}" for key, x in of_images.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == expected
    loaded = from_weights({"model": official})
    assert (loaded.family, loaded.architecture) == (Family.EFFICIENT_TAM, name)
    copied = {key: x for key, x in loaded.encoder.state_dict().items() if key not in ("positions", "no_memory")}
    assert all(torch.equal(x, official[f"image_encoder.{key}"]) for key, x in copied.items())


def refused(changed: Mapping[str, Any]) -> str:
    from labeling_ground.networks.checkpoint import from_weights

    with pytest.raises(BadInput) as error:
        from_weights(changed)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("image_encoder.trunk.blocks.3.attn.proj.weight", "trunk.blocks.3.attn.proj.weight"),
        ("image_encoder.trunk.pos_embed", "trunk.pos_embed is missing"),
        ("image_encoder.neck.convs.0.norm_1.bias", "neck.convs.0.norm_1.bias"),
        ("sam_mask_decoder.obj_score_token.weight", "mask_decoder.obj_score_token.weight"),
        ("sam_prompt_encoder.point_embeddings.2.weight", "sam_prompt_encoder.point_embeddings.2.weight is missing"),
        ("no_mem_embed", "no_mem_embed is missing"),
    ],
)
def test_a_weight_that_is_missing_is_named(name: str, said: str) -> None:
    needs("torch")
    needs("transformers")
    assert said in refused({key: x for key, x in weights().items() if key != name})


@pytest.mark.parametrize("name", ["image_encoder.trunk.blocks.3.attn.rel_pos_h", "sam_mask_decoder.conv_s0.weight"])
def test_a_weight_that_is_left_over_is_named(name: str) -> None:
    torch = needs("torch")
    needs("transformers")
    assert name.split(".", 1)[1] in refused(weights() | {name: torch.zeros(1)})


def test_sizes_that_cannot_be_told_or_are_not_known_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("torch")
    needs("transformers")
    from labeling_ground.networks import checkpoint as read

    shallow = {key: x for key, x in weights().items() if ".blocks.11." not in key}
    assert "width 192 with 11 blocks: there is efficienttam_ti, efficienttam_s." in refused(shallow)
    file = tmp_path / "efficienttam_ti_512x512.pt"
    file.write_bytes(b"as if it were the authors' file")
    monkeypatch.setattr(read, "_FOR_SQUARES_OF_512", {hashlib.sha256(file.read_bytes()).hexdigest()})
    with pytest.raises(BadInput, match=r"is EfficientTAM for squares of 512 pixels.*take efficient-tam-ti"):
        read.load(file)
