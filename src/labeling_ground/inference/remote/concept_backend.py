"""A model that finds concepts and is computed in other processes, behind the same port as any other."""

from collections.abc import Callable, Sequence

from labeling_ground.inference.backend import DetectAsk, ExemplarsAsk, Tensors
from labeling_ground.inference.concepts import detections, tensor_of
from labeling_ground.inference.graphs import check_tensors
from labeling_ground.inference.remote import concept_wire, wire
from labeling_ground.inference.remote.backend import RemoteBackend, T, gathered
from labeling_ground.inference.remote.checks import of_image
from labeling_ground.inference.remote.client import EngineClient, RetryBudget
from labeling_ground.inference.remote.concept_wire import OfTrunk, Text, Wanted
from labeling_ground.inference.remote.requests import ask_all, ask_of_images
from labeling_ground.types import Detections, Embedding, Exemplar, Image
from labeling_ground.urgency import current_urgency


class RemoteConceptBackend(RemoteBackend):
    """A ``ConceptBackend`` whose engines are elsewhere. Encoders make trunks; decoders have all the rest, and keep a
    trunk as they keep an embedding, so that it travels once.

    What is asked of a decoder beside clicks may take as long as an encode. All calls raise ``BackendFailed`` where an
    engine is away, too slow, serves another model by now, or answers nonsense, and ``Overloaded`` where it has too much
    to do.
    """

    async def trunk(self, images: Sequence[Image]) -> list[Embedding]:
        """One trunk for each image, in their order."""
        return await self._of_files(images, is_trunk=True)

    async def embed(self, trunks: Sequence[Embedding]) -> list[Embedding]:
        """What clicks are decoded with, one for each trunk, in their order."""

        family = self.family

        async def embed(trunk: Embedding) -> Embedding:
            def read(tensors: Tensors) -> Embedding:
                return Embedding(of_image(tensors, family, family.embedding_shapes), trunk.height, trunk.width)

            return await self._of_trunk(trunk, Wanted.EMBED, read)

        return await gathered([embed(trunk) for trunk in trunks])

    async def texts(self, phrases: Sequence[str]) -> list[Tensors]:
        """A tensor ``text`` of each phrase, in their order.

        Raises:
            BadPrompt: a phrase is longer than the model reads.
        """
        return await gathered([self._text(phrase) for phrase in phrases])

    async def exemplars(self, asks: Sequence[ExemplarsAsk]) -> list[Tensors]:
        """A tensor ``exemplars`` of each ask, in their order."""

        def read(tensors: Tensors) -> Tensors:
            return concept_wire.of_words(tensors, "exemplars")

        return await gathered(
            [self._of_trunk(trunk, Wanted.EXEMPLARS, read, exemplars=exemplars) for trunk, exemplars in asks]
        )

    async def detect(self, asks: Sequence[DetectAsk]) -> list[Detections]:
        """All instances that score at least ``FLOOR_SCORE``, of each ask, in their order."""

        family = self.family

        async def detect(trunk: Embedding, text: Tensors | None, shown: Tensors | None) -> Detections:
            def read(tensors: Tensors) -> Detections:
                return detections(concept_wire.detected(tensors, family), trunk.height, trunk.width)

            return await self._of_trunk(trunk, Wanted.DETECT, read, text=text, shown=shown)

        return await gathered([detect(*ask) for ask in asks])

    async def _text(self, phrase: str) -> Tensors:
        version, priority = self._served.version, current_urgency().priority
        self._served.watch()
        body = concept_wire.write_ask(Text(version, phrase), priority)

        async def send(client: EngineClient, attempt: RetryBudget) -> Tensors:
            [answer] = await ask_all(client, attempt, [body], priority)
            with client.reading():
                made = concept_wire.of_words(wire.read_answer(answer.body, version)[0], "text")
            client.breaker.succeeded()
            return made

        return await self._ask(self._decoders, version, "", send, self._encoders.deadline_s)

    async def _of_trunk(
        self,
        trunk: Embedding,
        wanted: Wanted,
        read: Callable[[Tensors], T],
        *,
        exemplars: tuple[Exemplar, ...] = (),
        text: Tensors | None = None,
        shown: Tensors | None = None,
    ) -> T:
        version, family, priority = self._served.version, self._served.family, current_urgency().priority
        self._served.watch()
        check_tensors(trunk, tuple(family.trunk_shapes))
        parts = tensor_of(text, "text"), tensor_of(shown, "exemplars")
        asked = await self._asked(version, family, trunk)
        ask = OfTrunk(version, asked.key, wanted, trunk.height, trunk.width, exemplars, *parts)

        async def send(client: EngineClient, attempt: RetryBudget) -> T:
            [answer] = await ask_of_images(client, attempt, [(ask, asked)], priority, self._decoding)
            with client.reading():
                tensors, words = await self._decoding.run(wire.read_answer, answer.body, version)
                made = await self._decoding.run(read, tensors)
            client.sent.note(asked.key, kept=words.get("kept") == "true")
            client.breaker.succeeded()
            return made

        return await self._ask(self._decoders, version, asked.key, send, self._encoders.deadline_s)
