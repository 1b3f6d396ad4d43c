"""What every backend that finds concepts must do beside the port's own suite, for a test class to inherit."""

import hashlib
from typing import Any

import numpy as np
import pytest

from labeling_ground import key as keys
from labeling_ground.codec.records import open_tensors, seal_tensors
from labeling_ground.errors import BackendFailed, BadPrompt
from labeling_ground.inference.backend import FLOOR_SCORE, Backend, ConceptBackend, DetectAsk, Tensors, concepts_of
from labeling_ground.sam.prompts import low_res_logits
from labeling_ground.testing.backend_contract import click, picture, through_the_cache
from labeling_ground.testing.suite import Suite
from labeling_ground.types import Box, Detections, Embedding, Exemplar, Kind

_FACTS: dict[str, Any] = {"cost": 1.0, "created": 0.0}


def stored_tensors(value: Tensors) -> Tensors:
    """A phrase's or exemplars' tensors as they come back after they were stored."""
    return open_tensors(seal_tensors("k", Kind.TEXT, value, **_FACTS), "k")


def digest(value: Embedding | Tensors) -> str:
    """Digest of all tensors."""
    tensors = value.tensors if isinstance(value, Embedding) else value
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        hasher.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return hasher.hexdigest()


class ConceptContract(Suite):
    """What every backend that finds concepts must do, whatever computes it."""

    tolerance = 0.0
    """How far scores may differ between an ask alone and among others, boxes in parts of the image's longer side, and
    the share of a mask's pixels that may: engines that compute in batches add up in another order."""
    phrases = ("yellow disc", "red", "a green thing")
    """Canonical phrases; the first is what ``picture`` shows in its middle."""

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test; every suite gives its own. It takes text and exemplars."""
        raise NotImplementedError("Give the suite a fixture backend, which yields your backend and closes it.")

    @pytest.fixture
    def concepts(self, backend: Backend) -> ConceptBackend:
        """The same, as one that finds concepts."""
        found = concepts_of(backend)
        assert found is not None
        return found

    def same(self, one: Detections, other: Detections) -> None:
        """Assert that two answers to one ask agree, within the tolerance."""
        assert len(one.instances) == len(other.instances)
        for first, second in zip(one.instances, other.instances, strict=True):
            assert abs(first.score - second.score) <= self.tolerance
            pixels = first.draw()
            away = [abs(getattr(first.box, side) - getattr(second.box, side)) for side in ("x0", "y0", "x1", "y1")]
            assert max(away) <= self.tolerance * max(pixels.shape)
            assert np.count_nonzero(pixels != second.draw()) <= self.tolerance * pixels.size

    async def trunk(self, concepts: ConceptBackend, height: int = 90, width: int = 120) -> Embedding:
        """The trunk of a picture, as it comes back after it was stored."""
        [trunk] = await concepts.trunk([picture(height, width)])
        return through_the_cache(trunk)

    async def text(self, concepts: ConceptBackend, phrase: str) -> Tensors:
        """A phrase's tensors, as they come back after they were stored."""
        [text] = await concepts.texts([phrase])
        return stored_tensors(text)

    async def test_it_says_what_it_takes(self, concepts: ConceptBackend) -> None:
        assert {"text", "exemplars"} <= set(concepts.info.capabilities)

    async def test_encoding_is_the_trunk_then_the_embedding_from_it(self, concepts: ConceptBackend) -> None:
        [encoded] = await concepts.encode([picture()])
        [trunk] = await concepts.trunk([picture()])
        assert (trunk.height, trunk.width) == (90, 120)
        assert "trunk" in trunk.tensors
        [embedded] = await concepts.embed([trunk])
        assert digest(encoded) == digest(embedded)
        [prediction] = await concepts.decode(
            [(through_the_cache((await concepts.embed([through_the_cache(trunk)]))[0]), click(60, 45))]
        )
        assert prediction.masks[0].pixels.shape == (90, 120)

    @pytest.mark.parametrize(("height", "width"), [(90, 120), (64, 33), (1, 50), (50, 1), (1, 1)])
    async def test_instances_lie_on_the_image_and_scores_fall(
        self, concepts: ConceptBackend, height: int, width: int
    ) -> None:
        trunk = await self.trunk(concepts, height, width)
        text = await self.text(concepts, self.phrases[0])
        whole = (Exemplar(Box(0, 0, width, height)),)
        [shown] = await concepts.exemplars([(trunk, whole)])
        for found in await concepts.detect([(trunk, text, None), (trunk, None, shown), (trunk, text, shown)]):
            scores = [one.score for one in found.instances]
            assert scores == sorted(scores, reverse=True)
            for one in found.instances:
                assert FLOOR_SCORE <= one.score <= 1
                assert 0 <= one.box.x0 <= one.box.x1 <= width
                assert 0 <= one.box.y0 <= one.box.y1 <= height
                pixels = one.draw()
                assert pixels.shape == (height, width)
                assert pixels.dtype == np.bool_
                np.testing.assert_array_equal(pixels, one.draw())

    async def test_the_same_ask_has_the_same_answer_alone_and_among_others(self, concepts: ConceptBackend) -> None:
        trunks = [await self.trunk(concepts), await self.trunk(concepts, 64, 80)]
        shown = [
            stored_tensors(one)
            for one in await concepts.exemplars([(trunk, (Exemplar(Box(30, 20, 60, 50)),)) for trunk in trunks])
        ]
        texts = [stored_tensors(one) for one in await concepts.texts(self.phrases)]
        asks: list[DetectAsk] = [(trunk, text, None) for text in texts for trunk in trunks]
        asks += [(trunk, text, own) for trunk, own in zip(trunks, shown, strict=True) for text in (texts[0], None)]
        together = await concepts.detect(asks)
        assert len(together) == len(asks)
        for ask, found in zip(asks, together, strict=True):
            [alone] = await concepts.detect([ask])
            self.same(alone, found)

    async def test_phrases_images_and_exemplars_keep_their_order(self, concepts: ConceptBackend) -> None:
        together = await concepts.texts(self.phrases)
        backwards = await concepts.texts(self.phrases[::-1])
        trunk = await self.trunk(concepts)
        trunks = [trunk, await self.trunk(concepts, 64, 80)]
        assert [(one.height, one.width) for one in await concepts.embed(trunks)] == [(90, 120), (64, 80)]
        for one, other in zip(together, reversed(backwards), strict=True):
            self.same(*[(await concepts.detect([(trunk, stored_tensors(each), None)]))[0] for each in (one, other)])
        boxes = [
            (Exemplar(Box(0, 0, 20, 20)),),
            (Exemplar(Box(0, 0, 20, 20), positive=False), Exemplar(Box(50, 35, 70, 55))),
        ]
        shown = await concepts.exemplars([(trunk, one) for one in boxes])
        for one, own in zip(shown, boxes, strict=True):
            [alone] = await concepts.exemplars([(trunk, own)])
            self.same(*[(await concepts.detect([(trunk, None, stored_tensors(each))]))[0] for each in (one, alone)])

    async def test_nothing_that_is_asked_changes_a_tensor(self, concepts: ConceptBackend) -> None:
        [trunk] = await concepts.trunk([picture()])  # as it is while it is written, too: not only the read-only copy
        [embedding] = await concepts.embed([trunk])
        [text] = await concepts.texts(self.phrases[:1])
        [shown] = await concepts.exemplars([(trunk, (Exemplar(Box(30, 20, 60, 50)),))])
        values = (trunk, embedding, text, shown)
        before = [digest(value) for value in values]
        [first] = await concepts.detect([(trunk, text, shown)])
        await concepts.texts(self.phrases)
        await concepts.exemplars([(trunk, (Exemplar(Box(0, 0, 20, 20)),))])
        await concepts.decode([(embedding, click(60, 45))])
        if first.instances:
            logits = low_res_logits(first.instances[0].draw(), concepts.info.frame(90, 120))
            refined = keys.canonical(click(60, 45).points, mask_input=logits, multimask=False)
            [prediction] = await concepts.decode([(embedding, refined)])
            assert len(prediction.masks) == 1
        assert [digest(value) for value in values] == before
        [again] = await concepts.detect([(trunk, text, shown)])
        self.same(first, again)
        [trunk_again] = await concepts.trunk([picture()])
        assert digest(trunk_again) == before[0]

    async def test_a_trunk_of_something_else_is_refused_and_spoils_nothing(self, concepts: ConceptBackend) -> None:
        trunk, text = await self.trunk(concepts), await self.text(concepts, self.phrases[0])
        damaged = Embedding({"nothing": np.zeros(1, np.float32)}, 90, 120)
        [expected] = await concepts.detect([(trunk, text, None)])
        with pytest.raises(BackendFailed):
            await concepts.detect([(trunk, text, None), (damaged, text, None)])
        with pytest.raises(BackendFailed):
            await concepts.embed([damaged])
        [after] = await concepts.detect([(trunk, text, None)])
        self.same(expected, after)

    async def test_a_phrase_that_is_too_long_says_so(self, concepts: ConceptBackend) -> None:
        with pytest.raises(BadPrompt, match="shorten"):
            await concepts.texts(["nut " * 2000])
