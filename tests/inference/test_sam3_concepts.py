"""SAM 3, tiny and of random weights, behind the cache: one trunk for phrases and clicks, which no ask changes."""

from typing import Any

import pytest
from tests.coloured import squares_file
from tests.doubles import TENANT, DictStore, click, forget, keys_of, mask, send, serving
from tests.needs import needs

from labeling_ground import key as keys
from labeling_ground.codec.mask import from_rle
from labeling_ground.service.asks import PromptAsk
from labeling_ground.types import Box, Exemplar, Kind, Outcome

pytestmark = pytest.mark.anyio

FILE = squares_file()


async def test_phrases_clicks_and_an_instances_refinement_share_one_trunk() -> None:
    needs("torch")
    needs("transformers")
    from tests.inference.sam3_backends import sam3_of_discs

    backend: Any = sam3_of_discs()
    trunks: list[Any] = []
    compute = backend.engine.trunk

    def trunk(pixels: Any) -> Any:
        trunks.append(pixels)
        return compute(pixels)

    backend.engine.trunk = trunk
    kept = DictStore()
    async with serving(backend, kept) as predictor:
        assert predictor.concepts is not None
        image_id = await send(predictor, FILE)
        exemplar = Exemplar(Box(4, 4, 16, 14))
        wanted = [keys.canonical_concept("Red square"), keys.canonical_concept(None, [exemplar])]
        wanted.append(keys.canonical_concept("red square", [exemplar]))
        found = {n: answer async for n, answer in predictor.concepts.find(TENANT, image_id, wanted)}
        assert [found[n].outcome for n in range(3)] == [Outcome.MISS] * 3
        await predictor.store.drain()
        group = keys_of(FILE)
        stored = (group.trunk(backend.info.version), group.embedding(backend.info.version))
        before = [kept.entries[key].value for key in stored]
        clicked = await mask(predictor, image_id, click())
        assert clicked.outcome is Outcome.MISS
        [some] = [answer for answer in found.values() if answer.found.instances][:1]
        best = some.found.instances[0]
        assert from_rle((48, 64), best.mask.counts).sum() == best.mask.area
        refined = await mask(predictor, image_id, PromptAsk(click().points, mask_input=(some.detections_id, 0)))
        assert refined.prediction_id != clicked.prediction_id
        await forget(predictor, Kind.DETECTIONS, everywhere=True)
        again = {n: answer async for n, answer in predictor.concepts.find(TENANT, image_id, wanted)}
        for number, answer in again.items():
            assert [one.mask.counts for one in answer.found.instances] == [
                one.mask.counts for one in found[number].found.instances
            ]
        assert [kept.entries[key].value for key in stored] == before
        assert len(trunks) == 1
