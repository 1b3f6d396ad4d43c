"""What the engines in other processes serve, and whether they do, looked at again and again."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping

from labeling_ground.errors import BadSettings
from labeling_ground.inference.backend import BatchSizes, ModelInfo
from labeling_ground.inference.graphs import info_of
from labeling_ground.inference.remote.pool import EnginePool, agreed
from labeling_ground.inference.remote.requests import together
from labeling_ground.inference.remote.wire import Description
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import ModelVersion

log = logging.getLogger(__name__)


def _info_of(serving: Description) -> ModelInfo:
    return info_of(serving.family, serving.version, serving.note, precision=serving.precision)


class ServedThere:
    """The model that the engines of both halves serve; another one when they have all come to serve that.

    Args:
        encoders, decoders: the engines of each half. What they serve is known, and agrees.
        model: the model's id if another one must not be served, else empty.
        poll_s, reset_s, resolve_s: see ``RemoteBackend``.
        supervisor: of what looks at them.
    """

    def __init__(
        self,
        encoders: EnginePool,
        decoders: EnginePool,
        *,
        model: str,
        poll_s: float,
        reset_s: float,
        resolve_s: float,
        supervisor: Supervisor,
    ) -> None:
        self._pools = (encoders, decoders)
        self._model = model
        self._poll_s, self._reset_s, self._resolve_s = poll_s, reset_s, resolve_s
        self._supervisor = supervisor
        serving = agreed(encoders.members, decoders.members, model)
        self.family = serving.family
        self._info = _info_of(serving)
        self._disagreement = ""
        self._background: list[asyncio.Task[None]] = []
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def version(self) -> ModelVersion:
        """The version that is served."""
        return self._info.version

    @property
    def info(self) -> ModelInfo:
        """What is served, and how many asks the engines take at the same time, all together, and in one request."""
        encodes, decodes = (pool.at_once(self.version) for pool in self._pools)
        images, prompts = (together(pool.available(self.version)) for pool in self._pools)
        return dataclasses.replace(
            self._info,
            encodes_at_once=encodes,
            decodes_at_once=decodes,
            encode_batch=BatchSizes(images, images),
            decode_batch=BatchSizes(prompts, prompts),
        )

    def failing(self) -> Mapping[str, str]:
        """What keeps which part from working, as sentences; empty if all is well."""
        found = {pool.half: why for pool in self._pools if (why := pool.trouble(self.version))}
        return {**found, **({"model": self._disagreement} if self._disagreement else {})}

    def left_out(self) -> Mapping[str, str]:
        """Why which engine of several is not asked now: sentences by the engine's half and address."""
        return {name: why for pool in self._pools for name, why in pool.left_out(self.version).items()}

    def watch(self) -> None:
        """Look at the engines from now on, as long as this is open."""
        if self._background:
            return
        works = [("look at engines", self._watching)]
        if any(pool.addresses.changes for pool in self._pools):
            works.append(("look up engines", self._resolving))
        self._background = [asyncio.create_task(self._supervisor.persist(name, work)) for name, work in works]

    async def _watching(self) -> None:
        """See from time to time how the engines are, and whether one that was left alone is back."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(min(self._reset_s, self._poll_s))
            if not (self.failing() or self.left_out()) and time.monotonic() - looked < self._poll_s:
                continue
            looked = time.monotonic()
            await self.refresh()
            await asyncio.gather(*(pool.look() for pool in self._pools))
            await asyncio.gather(*(pool.close_left() for pool in self._pools))

    async def _resolving(self) -> None:
        """Look from time to time which engines there are. A new one is asked what it serves before anything else."""
        while True:
            await asyncio.sleep(self._resolve_s)
            new = await asyncio.gather(*(pool.resolve() for pool in self._pools))
            if any(new):
                await self.refresh()

    async def refresh(self) -> None:
        """Ask all engines what they serve; concurrent calls wait for the one under way."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._describe_all())
            self._supervisor.watch("describe engines", self._refreshing)
        await asyncio.wait({self._refreshing})

    async def _describe_all(self) -> None:
        await asyncio.gather(*(pool.describe() for pool in self._pools))
        try:
            serving = agreed(self._pools[0].members, self._pools[1].members, self._model, self.version)
        except BadSettings as error:
            if self._disagreement != str(error):
                log.error("%s", error)
            self._disagreement = str(error)
            return
        if serving.family.finds_concepts is not self.family.finds_concepts:
            # The server has queues for trunks and detections, or it has none.
            one, other = ("concepts", "none") if serving.family.finds_concepts else ("no concepts", "some")
            self._disagreement = (
                f"The engines serve {serving.version} now, which finds {one}; {self.version} found {other}: restart "
                "this server."
            )
            return
        self._disagreement = ""
        if serving.version != self.version:
            log.warning("the engines serve %s now; it was %s", serving.version, self.version)
        # In one step, with nothing awaited in between.
        self.family, self._info = serving.family, _info_of(serving)

    async def aclose(self) -> None:
        """Look at the engines no more."""
        for task in (*self._background, self._refreshing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
