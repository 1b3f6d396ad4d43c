"""Which adapters there are, and the ways in which their clients send keys."""

import base64
from typing import TYPE_CHECKING

import pytest

from labeling_ground.adapters.choose import ADAPTERS
from labeling_ground.errors import BadSettings
from labeling_ground.settings import read_settings

if TYPE_CHECKING:
    from tests.api.conftest import Start

pytestmark = pytest.mark.anyio

KEY = "ein-schlüssel-für-ann"


@pytest.mark.parametrize("chosen", ["all", "", *ADAPTERS, ",".join(ADAPTERS), "none"])
async def test_the_operator_chooses(start: "Start", monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setenv("LABELING_GROUND_ADAPTERS", chosen)
    settings = read_settings()
    async with start(adapters=settings.adapters) as server:
        names = [adapter.name for adapter in server.app.state.adapters]
        assert names == ([] if chosen == "none" else [chosen] if chosen in ADAPTERS else list(ADAPTERS))
        predict = await server.client.post("/v1/predict", json={})
        assert predict.status_code == (200 if "x-anylabeling" in names else 404)
        assert ("data" in (await server.client.get("/v1/models")).json()) == ("x-anylabeling" in names)


@pytest.mark.parametrize("chosen", ["all,none", "x-anylabeling,all", "labelme", ","])
def test_a_choice_that_makes_no_sense_stops_the_start(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setenv("LABELING_GROUND_ADAPTERS", chosen)
    with pytest.raises(BadSettings, match="LABELING_GROUND_ADAPTERS"):
        read_settings()


def in_headers(key: str) -> list[dict[bytes, bytes]]:
    text = key.encode()
    basic = base64.b64encode(b"anybody:" + text)
    return [
        {b"Authorization": b"Bearer " + text},
        {b"Authorization": b"Basic " + basic},
        {b"Authorization": b"basic " + basic, b"Token": b""},
        {b"X-API-Key": text},
        {b"Token": text},
        {b"Token": text, b"Authorization": b"Basic cHJveHk6cHJveHk="},  # a proxy's own
    ]


@pytest.mark.parametrize("path", ["/v1/models", "/x-anylabeling/v1/models", "/v1/cache"])
async def test_a_key_is_taken_in_each_way_in_which_a_client_can_send_one(start: "Start", path: str) -> None:
    async with start(api_keys=(KEY, "another-long-key")) as server:
        for headers in in_headers(KEY):
            assert (await server.client.get(path, headers=headers)).status_code == 200, headers
        for headers in [*in_headers("wrong"), {}, {b"Authorization": b"Basic ???"}, {b"Authorization": b"Basic"}]:
            assert (await server.client.get(path, headers=headers)).status_code == 401, headers
