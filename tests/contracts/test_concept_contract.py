"""Every backend that finds concepts under the one suite; to add one, add its maker."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.inference.sam3_backends import sam3_of_discs
from tests.inference.toy_engine import standing

from labeling_ground.inference.backend import Backend
from labeling_ground.testing.concept_contract import ConceptContract
from labeling_ground.testing.toy_concepts import ToyConcepts


def in_another_process() -> Backend:
    """SAM 3 behind an engine server."""
    here: Any = sam3_of_discs()
    return standing(here.engine)


MAKERS: dict[str, Callable[[], Backend]] = {"remote": in_another_process, "sam3": sam3_of_discs, "toy": ToyConcepts}


class TestConceptBackends(ConceptContract):
    @pytest.fixture(params=sorted(MAKERS))
    async def backend(self, request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
        made = MAKERS[request.param]()
        yield made
        await made.aclose()
