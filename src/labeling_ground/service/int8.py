"""Embeddings that are in memory in int8 only: for clicks, and for whether an image counts as encoded.

All else is made of the full embedding, which ``Embeddings.get`` encodes again.
"""

from labeling_ground.cache.tiered import TieredStore
from labeling_ground.codec import records
from labeling_ground.service.asks import Ask
from labeling_ground.service.images import Embeddings
from labeling_ground.service.once import Made
from labeling_ground.types import Embedding, Kind


class EmbeddingsInInt8:
    """Gets an image's embedding in int8.

    Args:
        embeddings: gets the full ones.
        store: the tiers.
    """

    def __init__(self, embeddings: Embeddings, store: TieredStore) -> None:
        self._embeddings = embeddings
        self._store = store

    def is_all(self, ask: Ask) -> bool:
        """Whether the image's embedding is in memory in int8, and not in full."""
        store = self._store
        return bool(store.int8.models and store.peek(ask.embedding) is None and store.peek(ask.embedding_int8))

    def at_hand(self, ask: Ask) -> Made | None:
        """The entry, counted, where memory has no other."""
        if not self.is_all(ask):
            return None
        self._store.use(ask.image)
        return self._embeddings.once.at_hand(Kind.EMBEDDING, ask.embedding_int8)

    async def open(self, ask: Ask) -> tuple[Made, Embedding]:
        """The embedding as it is in int8, and what it was made of: rounded here where the stored one is gone.

        Raises:
            UnknownImage, Overloaded, BackendFailed: as in ``Embeddings.get``.
        """
        key = ask.embedding_int8
        made = self._embeddings.once.at_hand(Kind.EMBEDDING, key) or await self._embeddings.get(ask)
        entry = made.entry

        def opened() -> Embedding:
            rounded = records.seal_int8(entry, ask.embedding, key) if entry.kind is Kind.EMBEDDING else entry
            return records.open_int8(rounded, key)

        return made, await self._embeddings.pools.values.run(opened)
