"""«Segment everything»: each rule by itself, and all of them together against the reference's mask generator."""

import dataclasses
import importlib
import inspect
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow
from tests.doubles import TENANT, image_bytes, memory_store, patient
from tests.needs import needs
from tests.sam.references import sam, segment_anything

from labeling_ground import key as keys
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.codec.mask import bbox, from_rle
from labeling_ground.inference.sam import SamBackend
from labeling_ground.pools import Pools
from labeling_ground.sam import everything
from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import paint, paint_with_stability
from labeling_ground.sam.prompts import PromptTensors
from labeling_ground.service.everything import Everything, EverythingAnswer
from labeling_ground.service.predictor import Predictor, PredictorOptions
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import EverythingOptions, ModelVersion

FloatArray = NDArray[np.float32]


def amg() -> Any:
    return importlib.import_module(f"{segment_anything().__name__}.utils.amg")


# --- the rules, one by one ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_side", [1, 2, 7, 32])
def test_the_grid_is_the_references(per_side: int) -> None:
    expected = amg().build_point_grid(per_side) * [[640, 427]]
    ours = everything.grid(per_side, 427, 640)
    assert np.abs(expected - [[p.x, p.y] for p in ours]).max() < 1e-9
    assert all(0 <= p.x < 640 and 0 <= p.y < 427 and p.label == 1 for p in ours)


def overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """IoU of two boxes that reach from their first to their last pixel."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0]) - 1
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1]) - 1
    common = max(0, width) * max(0, height)
    union = (one[2] - 1) * (one[3] - 1) + (other[2] - 1) * (other[3] - 1) - common
    return common / union if union else 0.0


small = st.integers(0, 12)
boxes = st.tuples(small, small, st.integers(1, 9), st.integers(1, 9))


@patient
@given(found=st.lists(st.tuples(boxes, st.integers(0, 5)), max_size=25), threshold=st.sampled_from([0.0, 0.3, 0.7, 1]))
def test_what_is_dropped_overlaps_something_better_that_is_kept(
    found: list[tuple[tuple[int, int, int, int], int]], threshold: float
) -> None:
    kept = everything.keep_best([box for box, _ in found], [score for _, score in found], threshold)
    rank = {index: (-score, index) for index, (_, score) in enumerate(found)}
    assert kept == sorted(kept, key=lambda index: rank[index])
    for place, index in enumerate(kept):
        assert all(overlap(found[index][0], found[better][0]) <= threshold for better in kept[:place])
    for index in set(range(len(found))) - set(kept):
        better = [other for other in kept if rank[other] < rank[index]]
        assert any(overlap(found[index][0], found[other][0]) > threshold for other in better)


@patient
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    share=st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.95]),
    grain=st.integers(1, 6),
    least=st.integers(1, 60),
)
def test_small_regions_go_as_in_the_reference(
    seed: int, size: tuple[int, int], share: float, grain: int, least: int
) -> None:
    """Looking at the mask's surroundings only gives what looking everywhere gives."""
    coarse = np.random.default_rng(seed).random((-(-size[0] // grain), -(-size[1] // grain))) < share
    mask = coarse.repeat(grain, 0).repeat(grain, 1)[: size[0], : size[1]]
    if not mask.any():
        mask[0, 0] = True
    expected, filled = amg().remove_small_regions(mask, least, "holes")
    expected, removed = amg().remove_small_regions(expected, least, "islands")
    before = mask.copy()
    ours, changed = everything.without_small_regions(mask, bbox(mask), least)
    assert np.array_equal(ours, expected)
    assert changed == (filled or removed)
    assert np.array_equal(mask, before)


def bumps(seed: int, height: float = 6.0) -> FloatArray:
    """Smooth logits, like a decoder's."""
    torch = needs("torch")
    coarse = np.random.default_rng(seed).normal(-1, height, (1, 1, 9, 9)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), (256, 256), mode="bicubic")
    return np.asarray(smooth[0, 0].numpy(), np.float32)


@pytest.mark.parametrize("size", [(601, 801), (1300, 700), (90, 60), (1, 37), (37, 1)])
@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("offset", [0.0, 1.0, 5.0])
def test_the_stability_is_measured_in_full_size(size: tuple[int, int], family: Family, offset: float) -> None:
    torch = needs("torch")
    frame = family.frame(*size)
    for seed in range(3):
        low = bumps(seed)
        low[:, 200:] = -9  # something is far from any positive logit
        given_logits = torch.from_numpy(low)[None, None]
        if family in (Family.SAM, Family.SAM_HQ):
            full = sam().postprocess_masks(given_logits, (frame.inner_height, frame.inner_width), size)
        else:
            full = torch.nn.functional.interpolate(given_logits, size, mode="bilinear", align_corners=False)
        mask, stability = paint_with_stability(low, frame, family, offset)
        outer = (full > -offset).sum().item()
        expected = amg().calculate_stability_score(full[0], 0.0, offset).item() if outer else 0.0
        assert stability == pytest.approx(expected, abs=2 / max(outer, 1))
        assert (mask != paint(low, frame, family)).sum() <= 1
        wrong = mask != (full[0, 0] > 0).numpy()
        assert full[0, 0].abs().numpy()[wrong].max(initial=0) < 1e-3


def test_a_decoders_answer_is_its_readings_of_an_ambiguous_prompt() -> None:
    logits = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((4, 256, 256), np.float32)
    scores = np.array([0.9, 1.2, 0.1, 0.5], np.float32)
    frame = Family.SAM.frame(20, 30)
    four = everything.sketches(logits, scores, frame, Family.SAM)
    assert [s.score for s in four] == pytest.approx([1.2, 0.1, 0.5])
    assert [float(s.logits[0, 0]) for s in four] == [1.0, 2.0, 3.0]
    three = everything.sketches(logits[1:], scores[1:], frame, Family.SAM)
    assert [s.score for s in three] == [s.score for s in four]


def test_the_defaults_are_the_references() -> None:
    """SAM 2's differ in one number."""
    theirs = inspect.signature(generator_class().__init__).parameters
    for name, value in dataclasses.asdict(everything.USUAL[Family.SAM]).items():
        assert theirs[name].default == value, name
    assert everything.USUAL[Family.SAM2] == dataclasses.replace(everything.USUAL[Family.SAM], pred_iou_thresh=0.8)


# --- all of it, against the reference -----------------------------------------------------------------------------


def generator_class() -> Any:
    module = importlib.import_module(f"{segment_anything().__name__}.automatic_mask_generator")
    return module.SamAutomaticMaskGenerator


class Scene:
    """Things within things, as a decoder might see them: the same answers for the reference and for us."""

    def __init__(self, seed: int) -> None:
        dice = np.random.default_rng(seed)
        rows, columns = np.mgrid[:256, :256].astype(np.float32)
        self.things: list[tuple[FloatArray, float]] = []
        for _ in range(14):
            y, x = dice.uniform(0, 256, 2)
            radius = dice.uniform(8, 70)
            far = radius - np.hypot((rows - y) * dice.uniform(0.5, 1.5), columns - x)
            for _ in range(3):  # holes, and islands beside it
                v, u = dice.normal((y, x), 0.7 * radius)
                spot = dice.uniform(1, 6) - np.hypot(rows - v, columns - u)
                far = np.where(spot > 0, np.where(far > 0, -spot, spot), far)
            steep = dice.choice([0.3, 4.0, 8.0])
            self.things.append(((far * steep).astype(np.float32), float(dice.uniform(0.75, 1.05))))
        self.answers: dict[tuple[int, int], tuple[FloatArray, FloatArray]] = {}

    def answer(self, x: float, y: float) -> tuple[FloatArray, FloatArray]:
        """Four candidates for a click in the model's square: ``[4, 256, 256]`` and ``[4]``."""
        place = (round(x * 100), round(y * 100))
        if place not in self.answers:
            self.answers[place] = self._answer(min(255, int(y / 4)), min(255, int(x / 4)), place)
        return self.answers[place]

    def _answer(self, row: int, column: int, place: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        near = sorted(self.things, key=lambda thing: -float(thing[0][row, column]))[:3]
        dice = np.random.default_rng(place)
        logits = [-near[0][0], *(field + dice.normal(0, 0.2) for field, _ in near)]
        scores = [0.99, *(score + dice.normal(0, 0.02) for _, score in near)]
        return np.stack(logits).astype(np.float32), np.asarray(scores, np.float32)


class SceneEngine:
    """An engine that computes nothing: it looks at the scene."""

    family = Family.SAM

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        return {"image_embeddings": np.zeros((1, 256, 64, 64), np.float32)}

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        assert prompt.point_labels.tolist() == [[1.0, -1.0]]
        x, y = prompt.point_coords[0, 0].tolist()
        return self.scene.answer(x, y)


class ScenePredictor:
    """The same for the reference: what of its predictor the generator uses."""

    device = "cpu"

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.model = sam()
        self.transform = importlib.import_module(f"{segment_anything().__name__}.utils.transforms").ResizeLongestSide(
            1024
        )

    def set_image(self, image: NDArray[np.uint8]) -> None:
        self.size = image.shape[:2]

    def reset_image(self) -> None:
        del self.size

    def predict_torch(self, coords: Any, labels: Any, **_: Any) -> tuple[Any, Any, Any]:
        torch = needs("torch")
        answers = [self.scene.answer(*point[0]) for point in coords.tolist()]
        low = torch.from_numpy(np.stack([logits[1:] for logits, _ in answers]))
        inner = self.transform.get_preprocess_shape(*self.size, 1024)
        full = self.model.postprocess_masks(low, inner, self.size)
        return full, torch.from_numpy(np.stack([scores[1:] for _, scores in answers])), low


class TorchEngine:
    """The reference's own network as an engine of ours."""

    family = Family.SAM

    def __init__(self, predictor: Any) -> None:
        self.model = predictor.model
        self.features = predictor.features.numpy()

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        return {"image_embeddings": self.features}

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        torch = needs("torch")
        with torch.inference_mode():
            # The encoder pads points without a box by itself; ours come padded.
            points = torch.from_numpy(prompt.point_coords[:, :1]), torch.from_numpy(prompt.point_labels[:, :1])
            sparse, dense = self.model.prompt_encoder(points=points, boxes=None, masks=None)
            logits, scores = self.model.mask_decoder.predict_masks(
                image_embeddings=torch.tensor(embedding["image_embeddings"]),
                image_pe=self.model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
        return logits[0].numpy(), scores[0].numpy()


async def ours(engine: Any, file: bytes, options: EverythingOptions) -> EverythingAnswer:
    """What we make of an image."""
    backend = SamBackend(engine, ModelVersion("sam", "0" * 64), "", decode_threads=2)
    predictor = Predictor(
        store=TieredStore(memory_store()),
        backend=backend,
        encode_queue=FairQueue("encoder", 1, 8),
        decode_queue=FairQueue("decoder", 2, 8),
        pools=Pools.sized(),
        options=PredictorOptions(precision="fp32"),
    )
    path = Everything(predictor, jobs=FairQueue("grids", 1, 8), workers=2)
    try:
        image_id = keys.image_id(file)
        await predictor.open_image(TENANT, file, image_id)
        return await path.ask(TENANT, image_id, options)
    finally:
        await predictor.aclose()


def check(answer: EverythingAnswer, theirs: list[dict[str, Any]]) -> None:
    found = answer.found
    assert [one.point for one in found.masks] == [pytest.approx(one["point_coords"][0]) for one in theirs]
    for our, their in zip(found.masks, theirs, strict=True):
        pixels = from_rle((found.height, found.width), our.mask.counts)
        assert (pixels != their["segmentation"]).sum() <= 2
        assert our.mask.area == pixels.sum()
        assert our.mask.bbox == bbox(pixels)
        assert our.mask.score == pytest.approx(their["predicted_iou"], abs=1e-4)
        assert our.stability == pytest.approx(their["stability_score"], abs=1e-3)


def pixels_of(file: bytes) -> NDArray[np.uint8]:
    return np.asarray(Pillow.open(io.BytesIO(file)).convert("RGB"))


@pytest.mark.anyio
@pytest.mark.parametrize("size", [(160, 121), (131, 190)])
@pytest.mark.parametrize(
    "options",
    [
        EverythingOptions(6),
        EverythingOptions(6, 0.75, 0.8, 1.5, 0.5),
        EverythingOptions(6, 0.75, 0.8, 1.5, 0.9),
        EverythingOptions(6, 0.75, 0.8, 1.5, 0.9, 60),
        EverythingOptions(3, 0.0, 0.01, 0.5, 1.0),
    ],
)
async def test_the_same_masks_are_kept_as_by_the_reference(size: tuple[int, int], options: EverythingOptions) -> None:
    """In the same order, from the same points."""
    scene = Scene(size[0])
    file = image_bytes(1, width=size[0], height=size[1])
    given_options = dataclasses.asdict(options)
    reference = generator_class()(sam(), points_per_batch=16, **given_options)
    reference.predictor = ScenePredictor(scene)
    theirs = reference.generate(pixels_of(file))
    assert 3 <= len(theirs) <= 3 * len(scene.answers)
    check(await ours(SceneEngine(scene), file, options), theirs)


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_whole_network_gives_the_references_masks() -> None:
    """Real prompt encoder and mask decoder, random weights; thresholds that let some of their masks pass."""
    file = image_bytes(5, width=200, height=150)
    options = EverythingOptions(3, 0.002, 0.2, 0.02, 1.0)
    reference = generator_class()(sam(), **dataclasses.asdict(options))
    predictor = reference.predictor
    predictor.set_image(pixels_of(file))
    predictor.set_image = predictor.reset_image = lambda *_: None  # encoded once, for both
    theirs = reference.generate(pixels_of(file))
    assert 3 <= len(theirs) < 27
    check(await ours(TorchEngine(predictor), file, options), theirs)
