"""What the tests of both engines share: a real SAM with a shallow encoder, and prompts."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from bench.engines.models import DISC, add_discs
from numpy.typing import NDArray
from tests.doubles import on, through_the_cache
from tests.made_once import made_once
from tests.needs import needs
from tests.sam.parity import MASK, ask_reference, check, photo
from tests.sam.references import TOLERANCE, checkpoint, export_official_decoder, exported, sam, segment_anything

from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.geometry import SIDE
from labeling_ground.types import Box, Embedding, Image, Point, Prediction, Prompt

HEIGHT, WIDTH = 211, 307

PROMPTS = (
    Prompt((Point(100, 50, 1),)),
    Prompt((Point(100, 50, 1), Point(3, 200, 0)), multimask=False),
    Prompt((), Box(20, 30, 250, 200)),
    Prompt((Point(100, 50, 1),), Box(20, 30, 250, 200), MASK),
    Prompt((), None, MASK),
    Prompt(tuple(Point(7 * i, 5 * i, i % 2) for i in range(30))),
)


def image() -> Image:
    return Image("0" * 64, photo(HEIGHT, WIDTH))


def files() -> dict[str, Any]:
    """What a factory is given."""
    folder, _ = exported()
    return {
        "encoder_path": folder / "encoder.onnx",
        "decoder_path": folder / "decoder.onnx",
        "fast_decoder_path": folder / "decoder-fast.onnx",
        "model": "sam-small",
    }


def disc_files() -> dict[str, Any]:
    """A model for tests of what is around it: its encoder only pools, and takes milliseconds; its masks are discs
    around the first point, in place of the noise of random weights."""
    return {part: disc_folder() / path.name if isinstance(path, Path) else path for part, path in files().items()}


def disc_folder() -> Path:
    """Where the files of ``disc_files`` are."""
    files()
    return _discs()[0]


@made_once
def _discs(folder: Path) -> None:
    made = files()
    pooling_encoder(folder / made["encoder_path"].name, 1)
    for part in ("decoder_path", "fast_decoder_path"):
        add_discs(made[part], folder / made[part].name)


def pooling_encoder(path: Path, images: int | str) -> None:
    """Write an encoder for so many images (a name: any number) whose embeddings are their colours, pooled and repeated.

    What it says of itself is what the encoder of ``files`` says.
    """
    package = needs("onnx")
    helper, kind = package.helper, package.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
            helper.make_node("Tile", ["pooled", "repeats"], ["tiled"]),
            helper.make_node("Slice", ["tiled", "start", "end", "axis"], ["image_embeddings"]),
        ],
        "encoder",
        [helper.make_tensor_value_info("image", kind, [images, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("image_embeddings", kind, [images, 256, 64, 64])],
        [
            helper.make_tensor(name, package.TensorProto.INT64, [len(values)], values)
            for name, values in (("repeats", [1, 86, 1, 1]), ("start", [0]), ("end", [256]), ("axis", [1]))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    told = package.load(str(files()["encoder_path"]), load_external_data=False).metadata_props
    helper.set_model_props(model, {entry.key: entry.value for entry in told})
    package.save(model, str(path))


def checkpoint_files() -> dict[str, Any]:
    """What the torch engine's factory is given for that model: the checkpoint that the files were exported from."""
    return {"encoder_path": checkpoint(), "decoder_path": checkpoint(), "model": "sam-small"}


def with_discs(backend: SamBackend) -> SamBackend:
    """The torch engine's backend, with the encoder and the masks of ``disc_files``."""
    torch = needs("torch")
    engine: Any = backend.engine
    engine._encoder._module = lambda images: torch.nn.functional.avg_pool2d(images, 16).repeat(1, 86, 1, 1)[:, :256]
    decoder = engine._decoder
    centres = (torch.arange(256) + 0.5) * 4

    def discs(inner: Any) -> Any:
        def decode(*given: Any) -> Any:
            logits, scores = inner(*given)
            points = given[-4]
            x, y = (points[:, :1, axis] if points.shape[1] else torch.full((1, 1), 512.0) for axis in (0, 1))
            away = (centres - x)[:, None, None] ** 2 + (centres - y)[:, None, :, None] ** 2
            radii = (4 * DISC * torch.tensor([1.0, 0.8, 0.9, 1.0])).view(1, 4, 1, 1) ** 2
            return logits + (radii - away) / (4 * DISC), scores

        return decode

    decoder._plain, decoder._fast = discs(decoder._plain), discs(decoder._fast)
    decoder._lone = {each: each for each in (decoder._plain, decoder._fast)}
    return backend


def ready_made() -> dict[str, Any]:
    """Files as others publish them: without our metadata, the decoder by the reference's script."""
    files()
    folder, _ = _ready_made()
    return {"encoder_path": folder / "encoder.onnx", "decoder_path": folder / "decoder.onnx", "model": "theirs"}


@made_once
def _ready_made(folder: Path) -> None:
    onnx = needs("onnx")
    model = onnx.load(str(files()["encoder_path"]))
    del model.metadata_props[:]
    onnx.save(model, str(folder / "encoder.onnx"))
    export_official_decoder(sam(), folder / "decoder.onnx")


@cache
def reference() -> Any:
    """The predictor of ``segment_anything``, with ``image()`` set."""
    predictor = segment_anything().SamPredictor(sam())
    predictor.set_image(image().pixels)
    return predictor


def reference_embedding() -> Embedding:
    """What the reference's encoder makes of ``image()``."""
    return Embedding({"image_embeddings": reference().features.numpy()}, HEIGHT, WIDTH)


async def check_against_the_reference(backend: SamBackend) -> None:
    """Embedding and masks are those of ``segment_anything``."""
    predictor = reference()
    [embedding] = await backend.encode([image()])
    assert (embedding.height, embedding.width) == (HEIGHT, WIDTH)
    assert np.abs(embedding.tensors["image_embeddings"] - predictor.features.numpy()).max() < TOLERANCE
    asked = [prompt for prompt in PROMPTS if prompt.points or prompt.box]  # the reference's predictor wants one of them
    for prompt, made in zip(asked, await backend.decode(on(embedding, asked)), strict=True):
        full, scores, low = ask_reference(predictor, prompt)
        assert len(made.masks) == len(scores)
        for i, mask in enumerate(made.masks):
            check(mask, full[i], float(scores[i]), low[i])


async def check_the_cache_does_no_harm(backend: SamBackend) -> None:
    """Half precision moves logits by far less than a mask would notice."""
    embedding = reference_embedding()
    exact = await backend.decode(on(embedding, PROMPTS))
    cached = await backend.decode(on(through_the_cache(embedding), PROMPTS))
    for a, b in zip(exact, cached, strict=True):
        assert np.abs(a.masks[0].logits - b.masks[0].logits).max() < 5e-3
        assert (a.masks[0].pixels == b.masks[0].pixels).mean() > 0.99


def logits_of(predictions: Sequence[Prediction]) -> list[NDArray[np.float32]]:
    return [mask.logits for prediction in predictions for mask in prediction.masks]


async def check_many_at_once_is_the_same_as_one_by_one(backend: SamBackend) -> None:
    embedding = reference_embedding()
    together = logits_of(await backend.decode(on(embedding, PROMPTS)))
    one_by_one = logits_of([(await backend.decode(on(embedding, [prompt])))[0] for prompt in PROMPTS])
    assert max(np.abs(a - b).max() for a, b in zip(together, one_by_one, strict=True)) < 1e-4


Check = Callable[[SamBackend], Any]
CHECKS: tuple[Check, ...] = (
    check_against_the_reference,
    check_the_cache_does_no_harm,
    check_many_at_once_is_the_same_as_one_by_one,
)
