"""Concepts: one trunk for phrases and clicks, one detection for all who ask, and an instance that is refined."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from tests.coloured import BLUE_BOXES, RED_BOXES, squares_file
from tests.doubles import TENANT, DictStore, ToyBackend, click, counted, forget, keys_of, mask, send, serving, until

from labeling_ground import key as keys
from labeling_ground.codec.mask import from_rle
from labeling_ground.errors import BackendFailed, BadPrompt, UnknownImage, UnknownPrediction
from labeling_ground.inference.backend import BatchSizes
from labeling_ground.service.asks import GivenMask, PromptAsk
from labeling_ground.service.concepts import ConceptAnswer
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.queues import FairQueue
from labeling_ground.testing.toy_concepts import ToyConcepts, exemplar
from labeling_ground.types import Concept, Exemplar, Kind, ModelVersion, Outcome, Priority
from labeling_ground.urgency import asked_at_best

pytestmark = pytest.mark.anyio

FILE, OTHER = squares_file(), squares_file(3)
RED, BLUE = keys.canonical_concept("Red"), keys.canonical_concept("blue")


async def find(
    predictor: Predictor, *concepts: Concept, image_id: str = "", tenant: str = TENANT
) -> list[ConceptAnswer]:
    """The answers in the concepts' order."""
    assert predictor.concepts is not None
    found = predictor.concepts.find(tenant, image_id or keys.image_id(FILE), concepts or (RED,))
    return [answer for _, answer in sorted([each async for each in found], key=lambda each: each[0])]


def boxes(answer: ConceptAnswer) -> list[tuple[int, ...]]:
    """x0, y0, x1, y1 of what was found."""
    sides = [one.mask.bbox for one in answer.found.instances]
    return [(x, y, x + width, y + height) for x, y, width, height in sides]


# --- what comes out ------------------------------------------------------------------------------------------------


async def test_all_instances_are_found_best_first_and_the_next_ask_is_a_hit_from_any_tier() -> None:
    backend = ToyConcepts()
    async with serving(backend, DictStore()) as predictor:
        await send(predictor, FILE)
        [first] = await find(predictor)
        [again] = await find(predictor, keys.canonical_concept("  RED "))
        await forget(predictor, Kind.DETECTIONS)
        [below] = await find(predictor)
        figures = counted(predictor, Kind.DETECTIONS)
    assert boxes(first) == [*RED_BOXES]
    scores = [one.mask.score for one in first.found.instances]
    assert scores == sorted(scores, reverse=True)
    assert [first.outcome, again.outcome, below.outcome] == [Outcome.MISS, Outcome.HIT, Outcome.HIT]
    assert first.found == again.found == below.found
    assert backend.asked.count("detect") == backend.asked.count("texts") == 1
    assert (figures.hits, figures.misses, figures.joined, figures.asked[Outcome.HIT]) == (2, 1, 0, 2)


@pytest.mark.parametrize("first", ["phrase", "click"])
async def test_a_phrase_and_a_click_in_either_order_encode_the_image_once(first: str) -> None:
    backend = ToyConcepts()
    async with serving(backend) as predictor:
        image_id = await send(predictor, FILE)
        for what in ("phrase", "click") if first == "phrase" else ("click", "phrase"):
            await (find(predictor) if what == "phrase" else mask(predictor, image_id))
        await find(predictor, BLUE)
    assert (backend.asked.count("trunk"), backend.encodes, backend.decodes) == (1, 1, 1)


async def test_a_phrase_needs_no_embedding_and_a_click_after_it_no_encoder() -> None:
    """The image came by another model, or long ago: only its file is kept."""
    backend = ToyConcepts()
    async with serving(backend) as predictor:
        image_id = await send(predictor, FILE)
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
        await forget(predictor, Kind.TRUNK, everywhere=True)
        backend.asked.clear()
        [found] = await find(predictor)
        assert (found.outcome, backend.asked) == (Outcome.RECOMPUTED, ["trunk", "texts", "detect"])
        clicked = await mask(predictor, image_id)
    assert (clicked.outcome, backend.asked[3:]) == (Outcome.MISS, ["embed"])


async def test_a_text_is_one_entry_for_all_images_of_a_tenant_and_for_no_other() -> None:
    backend = ToyConcepts()
    async with serving(backend, DictStore()) as predictor:
        for tenant in ("a", "b"):
            for file in (FILE, OTHER):
                await find(predictor, RED, image_id=await send(predictor, file, tenant), tenant=tenant)
        assert (backend.asked.count("texts"), backend.asked.count("detect")) == (2, 4)
        await predictor.purge("a", image_id=keys.image_id(FILE))
        await send(predictor, FILE, "a")
        await find(predictor, tenant="a")
        assert backend.asked.count("texts") == 2, "purging an image spares what is said of no image"
        await predictor.purge("a")
        await send(predictor, FILE, "a")
        await find(predictor, tenant="a")
    assert backend.asked.count("texts") == 3


async def test_exemplars_find_what_is_like_them_and_leave_out_what_is_like_the_others() -> None:
    backend = ToyConcepts()
    red, blue = exemplar(5, 5, 10, 10), exemplar(22, 22, 28, 30)
    both = keys.canonical_concept(None, [red, blue])
    phrase_and_not_red = keys.canonical_concept("red", [Exemplar(red.box, positive=False), blue])
    async with serving(backend) as predictor:
        await send(predictor, FILE)
        like_red, like_both, like_blue = await find(
            predictor, keys.canonical_concept(None, [red]), both, phrase_and_not_red
        )
        assert sorted(boxes(like_both)) == sorted([*RED_BOXES, *BLUE_BOXES])
        assert boxes(like_red) == [*RED_BOXES]
        assert set(boxes(like_blue)) == {*BLUE_BOXES}
        assert backend.asked.count("exemplars") == 3
        await forget(predictor, Kind.DETECTIONS)
        await find(predictor, both)
    assert backend.asked.count("exemplars") == 3, "what the model makes of exemplars is an entry of its own"


async def test_an_exemplar_that_reaches_over_the_edge_is_cut_off_and_one_beside_the_image_is_refused() -> None:
    seen: list[Any] = []

    class Noting(ToyConcepts):
        async def exemplars(self, asks: Any) -> Any:
            seen.extend(one.box for _, boxes in asks for one in boxes)
            return await super().exemplars(asks)

    async with serving(Noting()) as predictor:
        await send(predictor, FILE)
        await find(predictor, keys.canonical_concept(None, [exemplar(-5, -5, 10, 10)]))
        with pytest.raises(BadPrompt, match="outside the image"):
            await find(predictor, keys.canonical_concept("red", [exemplar(64, 0, 80, 10)]))
    assert [(box.x0, box.y0, box.x1, box.y1) for box in seen] == [(0, 0, 10, 10)]


async def test_nothing_that_was_asked_changes_a_stored_trunk_embedding_or_text() -> None:
    kept = DictStore()
    async with serving(ToyConcepts(), kept) as predictor:
        image_id = await send(predictor, FILE)
        await find(predictor)
        await predictor.store.drain()
        before = {key: entry.value for key, entry in kept.entries.items()}
        [found] = await find(predictor, keys.canonical_concept("blue", [exemplar(5, 5, 10, 10)]))
        await mask(predictor, image_id, PromptAsk(mask_input=(found.detections_id, 0)))
        await predictor.store.drain()
        assert {key: kept.entries[key].value for key in before} == before
        kinds = {key.split("/")[3] for key in kept.entries}
    assert kinds == {"image", "trunk", "embedding", "text", "exemplars", "detections", "mask"}


# --- one computation -----------------------------------------------------------------------------------------------


async def test_fifty_askers_of_one_phrase_make_one_detection() -> None:
    backend = ToyConcepts(detect_s=0.02)
    async with serving(backend, DictStore()) as predictor:
        await send(predictor, FILE)
        answers = await asyncio.gather(*(find(predictor) for _ in range(50)))
    outcomes = [answer.outcome for [answer] in answers]
    assert outcomes.count(Outcome.MISS) == 1
    assert outcomes.count(Outcome.JOINED) == 49
    assert (backend.asked.count("detect"), backend.asked.count("texts"), backend.asked.count("trunk")) == (1, 1, 1)


async def test_a_phrase_and_a_click_that_come_while_the_image_is_sent_share_its_trunk() -> None:
    backend = ToyConcepts()
    backend.hold = asyncio.Event()
    async with serving(backend, DictStore()) as predictor:
        sending = asyncio.ensure_future(send(predictor, FILE))
        await backend.begun.wait()
        asks = [asyncio.ensure_future(find(predictor)), asyncio.ensure_future(mask(predictor, keys.image_id(FILE)))]
        await until(lambda: len(predictor.flights) >= 4)
        backend.hold.set()
        await asyncio.gather(sending, *asks)
    assert (backend.asked.count("trunk"), backend.asked.count("embed")) == (1, 1)


async def test_answers_come_as_they_are_found_and_a_known_phrase_waits_for_no_other() -> None:
    backend = ToyConcepts()
    async with serving(backend) as predictor:
        await send(predictor, FILE)
        await find(predictor, BLUE)
        assert predictor.concepts is not None
        backend.hold = asyncio.Event()
        async with aclosing(predictor.concepts.find(TENANT, keys.image_id(FILE), (RED, BLUE))) as answers:
            number, answer = await anext(answers)
            assert (number, answer.outcome) == (1, Outcome.HIT)
            backend.hold.set()
            number, answer = await anext(answers)
            assert (number, answer.outcome) == (0, Outcome.MISS)


async def test_who_leaves_calls_off_what_nobody_else_waits_for() -> None:
    backend = ToyConcepts()
    green = keys.canonical_concept("green")
    async with serving(backend) as predictor:
        assert predictor.concepts is not None
        await send(predictor, FILE)
        await find(predictor, RED, BLUE, green)
        await forget(predictor, Kind.DETECTIONS)
        backend.asked.clear()
        backend.hold = asyncio.Event()
        queue = predictor.concepts.detector.queue
        leaving = asyncio.ensure_future(find(predictor, RED, BLUE))
        await until(lambda: queue.running == 1 and queue.waiting == 1)
        staying = asyncio.ensure_future(find(predictor, green))
        await until(lambda: queue.waiting == 2)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert queue.waiting == 1, "the one that had not begun is called off, the other asker's is not"
        backend.hold.set()
        assert (await staying)[0].outcome is Outcome.MISS
        assert backend.asked.count("detect") == 2
        [red] = await find(predictor)
    assert red.outcome is Outcome.HIT, "what had begun could not be stopped, so it was kept"


async def test_a_person_is_before_a_job_and_tenants_take_turns() -> None:
    order: list[str] = []

    class Noting(ToyConcepts):
        async def detect(self, asks: Any) -> Any:
            order.extend(("red" if len(text["colours"]) == 1 else "two") for _, text, _ in asks)
            return await super().detect(asks)

    backend = Noting()
    async with serving(backend) as predictor:
        assert predictor.concepts is not None
        for tenant in ("a", "b"):
            image_id = await send(predictor, FILE, tenant)
            await find(predictor, keys.canonical_concept("red"), keys.canonical_concept("red blue"), tenant=tenant)
        await forget(predictor, Kind.DETECTIONS)
        order.clear()
        backend.hold = asyncio.Event()
        queue = predictor.concepts.detector.queue
        with asked_at_best(Priority.JOB):
            jobs = [asyncio.ensure_future(find(predictor, keys.canonical_concept("red blue"), tenant="a"))]
            await until(lambda: queue.running == 1)
            jobs.append(asyncio.ensure_future(find(predictor, keys.canonical_concept("red blue"), tenant="b")))
            await until(lambda: queue.waiting == 1)
        person = asyncio.ensure_future(find(predictor, image_id=image_id, tenant="a"))
        await until(lambda: queue.waiting == 2)
        backend.hold.set()
        await asyncio.gather(*jobs, person)
    assert order == ["two", "red", "two"]


async def test_phrases_that_wait_together_are_found_in_one_call_where_the_model_gains_by_it() -> None:
    backend = ToyConcepts()
    queue = FairQueue("detector", 1, 8, batch=BatchSizes(4, 4))
    async with serving(backend, detect_queue=queue) as predictor:
        await send(predictor, FILE)
        concepts = [keys.canonical_concept(f"red {n}") for n in range(4)]
        await find(predictor, *concepts)
        await forget(predictor, Kind.DETECTIONS)
        backend.asked.clear()
        answers = await find(predictor, *concepts)
    assert backend.asked == ["detect"]
    assert {tuple(boxes(answer)) for answer in answers} == {RED_BOXES}


# --- what goes ------------------------------------------------------------------------------------------------------


async def test_an_evicted_trunk_is_computed_again_from_the_kept_file_and_without_it_the_image_is_unknown() -> None:
    backend = ToyConcepts()
    async with serving(backend, DictStore()) as predictor:
        await send(predictor, FILE)
        await forget(predictor, Kind.TRUNK, everywhere=True)
        [found] = await find(predictor)
        assert (found.outcome, backend.asked.count("trunk")) == (Outcome.RECOMPUTED, 2)
        await forget(predictor, Kind.TRUNK, everywhere=True)
        await forget(predictor, Kind.IMAGE, everywhere=True)
        assert (await find(predictor))[0].outcome is Outcome.HIT
        with pytest.raises(UnknownImage, match="Send it again"):
            await find(predictor, BLUE)
        await send(predictor, FILE)
        [found] = await find(predictor, BLUE)
    assert boxes(found) == [*BLUE_BOXES]


async def test_a_purge_of_the_image_forgets_what_was_found_and_what_is_being_found() -> None:
    backend = ToyConcepts()
    kept = DictStore()
    group = keys_of(FILE).group
    async with serving(backend, kept) as predictor:
        image_id = await send(predictor, FILE)
        await find(predictor, keys.canonical_concept("red", [exemplar(5, 5, 10, 10)]))
        backend.hold = asyncio.Event()
        backend.begun.clear()
        late = asyncio.ensure_future(find(predictor, BLUE))
        await backend.begun.wait()
        await predictor.purge(TENANT, image_id=image_id)
        backend.hold.set()
        [answer] = await late
        assert boxes(answer) == [*BLUE_BOXES], "who waits is answered"
        await predictor.store.drain()
        assert not [key for key in kept.entries if key.startswith(group)]
        with pytest.raises(UnknownImage):
            await find(predictor, BLUE)


async def test_an_answer_names_the_version_that_made_it_and_another_one_starts_anew() -> None:
    backend = ToyConcepts()
    old, new = backend.version, ModelVersion("toy-concepts", "2" * 64)
    async with serving(backend) as predictor:
        await send(predictor, FILE)
        [first] = await find(predictor)
        backend.hold = asyncio.Event()
        backend.begun.clear()
        swapped = asyncio.ensure_future(find(predictor, BLUE))
        await backend.begun.wait()  # the phrase is being read by the old version
        backend.version = new
        backend.hold.set()
        with pytest.raises(BackendFailed, match="changed"):
            await swapped
        [second] = await find(predictor)
        assert (first.version, second.version, second.outcome) == (old, new, Outcome.RECOMPUTED)
        assert backend.asked.count("trunk") == 2


async def test_a_failure_is_not_stored_and_a_phrase_that_is_too_long_is_no_failure_of_the_model() -> None:
    backend = ToyConcepts()
    async with serving(backend) as predictor:
        await send(predictor, FILE)
        backend.error = BackendFailed("out of memory")
        with pytest.raises(BackendFailed, match="out of memory"):
            await find(predictor)
        backend.error = None
        with pytest.raises(BadPrompt, match="shorten"):
            await find(predictor, keys.canonical_concept("red " * 40))
        assert not predictor.engine_health.failing()
        [found] = await find(predictor)
        assert (found.outcome, counted(predictor, Kind.DETECTIONS).failed) == (Outcome.MISS, 2)


async def test_one_phrase_of_several_that_fails_ends_the_others_asks_and_leaves_nothing_running() -> None:
    async with serving(ToyConcepts()) as predictor:
        await send(predictor, FILE)
        with pytest.raises(BadPrompt, match="shorten"):
            await find(predictor, RED, keys.canonical_concept("red " * 40), BLUE)
        await until(lambda: not predictor.is_working)


@pytest.mark.parametrize("spoilt", ["score", "order", "size"])
async def test_an_answer_that_is_none_is_refused(spoilt: str) -> None:
    class Spoiling(ToyConcepts):
        async def detect(self, asks: Any) -> Any:
            import dataclasses

            [found] = await super().detect(asks)
            instances: Sequence[Any] = found.instances
            if spoilt == "score":
                instances = [dataclasses.replace(instances[0], score=float("nan"))]
            elif spoilt == "order":
                instances = instances[::-1]
            else:
                instances = [dataclasses.replace(instances[0], draw=lambda: np.zeros((3, 3), np.bool_))]
            return [dataclasses.replace(found, instances=tuple(instances))]

    async with serving(Spoiling()) as predictor:
        await send(predictor, FILE)
        with pytest.raises(BackendFailed, match="The detector's"):
            await find(predictor)
        assert predictor.store.peek(keys_of(FILE).detections(ToyConcepts().version, keys.concept_digest(RED))) is None


async def test_a_model_without_concepts_has_none_and_no_queue_for_them() -> None:
    async with serving(ToyBackend()) as predictor:
        assert predictor.concepts is None
        assert [queue.name for queue in predictor.queues] == ["encoder", "decoder"]


async def test_who_asks_works_on_the_image() -> None:
    async with serving(ToyConcepts()) as predictor:
        assert predictor.concepts is not None
        await send(predictor, FILE)
        async for _ in predictor.concepts.find(TENANT, keys.image_id(FILE), [RED], client="me"):
            pass
        assert len(predictor.presence) == 1


# --- refining an instance -------------------------------------------------------------------------------------------


async def test_an_instance_is_the_mask_input_of_the_click_that_refines_it_from_any_tier() -> None:
    backend = ToyConcepts()
    async with serving(backend, DictStore()) as predictor:
        image_id = await send(predictor, FILE)
        [found] = await find(predictor)
        by_reference = PromptAsk(click(8, 8).points, mask_input=(found.detections_id, 1), multimask=False)
        first = await mask(predictor, image_id, by_reference)
        size = (found.found.height, found.found.width)
        instance = found.found.instances[1].mask
        by_value = PromptAsk(
            click(8, 8).points, mask_input=GivenMask(size[1], size[0], instance.counts), multimask=False
        )
        same = await mask(predictor, image_id, by_value)
        assert (first.outcome, same.outcome, first.prediction_id) == (Outcome.MISS, Outcome.HIT, same.prediction_id)
        pixels = from_rle(size, first.prediction.masks[0].counts)
        assert pixels[8, 33]
        assert pixels[8, 8]
        assert not pixels[35, 53]
        for kind in (Kind.DETECTIONS, Kind.MASK, Kind.LOGITS):
            await forget(predictor, kind)
        again = await mask(predictor, image_id, by_reference)
        assert (again.outcome, again.prediction_id) == (Outcome.HIT, first.prediction_id)
        further = PromptAsk(click(50, 8, 0).points, mask_input=(first.prediction_id, 0), multimask=False)
        await forget(predictor, Kind.LOGITS)  # so the refined mask is made again, from the instance
        refined = await mask(predictor, image_id, further)
    assert refined.outcome is Outcome.MISS
    assert (backend.asked.count("trunk"), backend.asked.count("detect")) == (1, 1)


async def test_an_instance_that_is_not_there_is_said_to_be_so() -> None:
    async with serving(ToyConcepts()) as predictor:
        image_id = await send(predictor, FILE)
        [found] = await find(predictor)
        with pytest.raises(BadPrompt, match="3 instances; 3, counted from 0"):
            await mask(predictor, image_id, PromptAsk(mask_input=(found.detections_id, 3)))
        await forget(predictor, Kind.DETECTIONS)
        with pytest.raises(UnknownPrediction, match="not kept any more"):
            await mask(predictor, image_id, PromptAsk(mask_input=(found.detections_id, 0)))
