"""Figures, metrics and log lines: one truth, told three times."""

import asyncio
import base64
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from labeling_ground.api.routes import cache
from labeling_ground.observe import JsonFormatter, TextFormatter

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio


async def samples(server: "Running") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = (await server.client.get("/metrics")).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


async def figures(server: "Running") -> dict[str, Any]:
    found: dict[str, Any] = (await server.client.get("/v1/cache")).json()
    return found


async def work(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """One of everything: miss, hit, joined, recomputed, failed."""
    image_id = await server.send_image(make_image())
    await server.click(image_id, 5, 5)
    await server.click(image_id, 5, 5)
    server.backend.decode_may_go_on.clear()
    both = [asyncio.create_task(server.click(image_id, 6, 6)) for _ in range(2)]
    await server.until_asked(2)
    server.backend.decode_may_go_on.set()
    await asyncio.gather(*both)
    await server.client.post(f"/v1/images/{image_id}/everything", json={"points_per_side": 1})
    await server.app_state.predictor.store.drain()
    await server.client.delete("/v1/cache?model=toy")
    await server.click(image_id, 5, 5)
    await server.click(image_id, 500, 5)
    await server.app_state.predictor.store.drain()


async def test_the_figures_add_up(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """``lookups = hits + misses + joined``, in all and by kind; what failed is no look-up."""
    await work(server, make_image)
    now = await figures(server)
    for part in (now, *now["kinds"].values()):
        assert part["lookups"] == part["hits"] + part["misses"] + part["joined"]
        asked = sum(part["asked"].values())
        assert part["hit_ratio"] == (pytest.approx(part["asked"]["hit"] / asked, abs=1e-3) if asked else None)
    masks = now["kinds"]["mask"]
    assert masks["asked"] == {"hit": 1, "joined": 1, "recomputed": 1, "miss": 2}
    assert now["kinds"]["embedding"]["asked"] == {"hit": 0, "joined": 0, "recomputed": 0, "miss": 1}
    assert now["kinds"]["embedding"]["hits"] > 0  # behind the misses of masks: no annotator waited for those
    assert (masks["misses"], masks["hits"], masks["joined"]) == (3, 1, 1)
    assert masks["recomputed"] == 1
    assert masks["failed"] == 1
    assert now["kinds"]["embedding"]["recomputed"] == 1
    assert now["seconds_saved"] > 0
    assert now["seconds_computed"] > 0
    memory, disk = now["tiers"]
    assert (memory["tier"], disk["tier"]) == ("memory", "disk")
    for tier in (memory, disk):
        assert tier["entries"] == sum(tier["entries_by_kind"].values()) > 0
        assert tier["bytes"] == sum(tier["bytes_by_kind"].values()) <= tier["budget"]
        assert tier["evictions"]["purge"] > 0
        assert tier["oldest_entry_seconds"] >= 0
        assert tier["breaker"] == "closed"
    assert disk["entries_by_kind"]["image"] == 1
    assert now["settings"]["idle_seconds"] == 1800


async def test_figures_before_the_first_look_up_are_zero_and_not_missing(server: "Running") -> None:
    """Every field is there from the start; a ratio of nothing is ``null``."""
    now = await figures(server)
    assert (now["lookups"], now["hit_ratio"]) == (0, None)
    assert now["tiers"][0]["oldest_entry_seconds"] is None
    assert (now["queues"]["encoder"]["waiting"], now["flights"], now["sessions"]) == (0, 0, 0)


async def test_metrics_say_what_the_figures_say(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """Prometheus' own parser reads them, and the numbers are the same."""
    await work(server, make_image)
    now = await figures(server)
    found = await samples(server)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    for kind, part in now["kinds"].items():
        counted = {
            outcome: value("labeling_ground_lookups_total", model="toy", kind=kind, outcome=outcome)
            for outcome in ("hit", "miss", "joined", "recomputed")
        }
        assert counted["hit"] == part["hits"]
        assert counted["joined"] == part["joined"]
        assert counted["miss"] + counted["recomputed"] == part["misses"]
        assert value("labeling_ground_failed_total", model="toy", kind=kind) == part["failed"]
        assert value("labeling_ground_seconds_saved_total", model="toy", kind=kind) == pytest.approx(
            part["seconds_saved"], abs=1e-5
        )
    for tier in now["tiers"]:
        name = tier["tier"]
        assert value("labeling_ground_budget_bytes", tier=name) == tier["budget"]
        for kind, count in tier["entries_by_kind"].items():
            assert value("labeling_ground_entries", tier=name, kind=kind) == count
        for reason, count in tier["evictions"].items():
            assert value("labeling_ground_evictions_total", tier=name, reason=reason) == count
        assert value("labeling_ground_entries_refused_total", tier=name) == tier["refused"]
        assert value("labeling_ground_lookups_skipped_total", tier=name) == tier["lookups_skipped"]
        assert value("labeling_ground_writes_pending", tier=name) == tier["writes_pending"]
        assert value("labeling_ground_demoted_total", tier=name) == tier["demoted"]
        assert value("labeling_ground_oldest_entry_seconds", tier=name) == pytest.approx(
            tier["oldest_entry_seconds"], abs=5
        )
    for queue in ("encoder", "decoder"):
        for name, part in now["queues"][queue]["classes"].items():
            labels = {"model": "toy", "queue": queue, "class": name}
            assert value("labeling_ground_waiting", **labels) == part["waiting"]
            assert value("labeling_ground_running", **labels) == part["running"]
            assert value("labeling_ground_turned_away_total", **labels) == part["turned_away"]
            for seconds in ("busy", "waited"):
                counter = value(f"labeling_ground_queue_{seconds}_seconds_total", **labels)
                assert counter == pytest.approx(part[f"{seconds}_seconds"], abs=1e-5)
        assert now["queues"][queue]["classes"]["interactive"]["busy_seconds"] > 0
        assert now["queues"][queue]["classes"]["job"]["busy_seconds"] == 0
    masks = {"route": "/v1/images/{image_id}/masks"}
    assert value("labeling_ground_requests_total", status="422", outcome="none", **masks) == 1
    assert value("labeling_ground_requests_total", status="200", outcome="hit", **masks) == 1
    assert value("labeling_ground_request_seconds_count", outcome="hit", **masks) == 1


async def test_a_counter_that_is_declared_is_told_and_needs_nothing_else(server: "Running") -> None:
    """Whoever adds one writes where it happens, and its line in the registry."""
    registry = server.app_state.metrics.registry
    Counter("labeling_ground_of_tomorrow", "Not declared today.", ["by"], registry=registry).labels("me").inc(3)
    assert (await samples(server))["labeling_ground_of_tomorrow_total", frozenset({("by", "me")})] == 3


async def test_the_live_view_shows_what_another_budget_would_do(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """What was recomputed, shadow caches and the spread of ages, in the figures and in the metrics alike."""
    async with start(disk_bytes=0, memory_bytes=4 << 20) as server:
        image_id = await server.send_image(make_image())
        for x in [*range(2, 26, 2), *range(2, 26, 2)]:  # 24 times 400 kB of logits, of which 10 fit
            await server.click(image_id, x, 5)
            answer = await server.click(image_id, x, 5)
            body = {"mask_input": {"prediction_id": answer.json()["prediction_id"]}}
            await server.click(image_id, x + 1, 5, **body)
        now = await figures(server)
        found = await samples(server)
        assert now["recomputed_after_eviction"]["mask"]["entries"] > 0
        assert now["recomputed_after_eviction"]["mask"]["seconds"] <= now["kinds"]["mask"]["seconds_computed"]
        assert now["recomputed_after_eviction"]["embedding"] == {"entries": 0, "seconds": 0.0}
        assert now["shadow_caches"]["sampled_share"] == 1.0
        hits = {cache["larger_by"]: cache["hits"] for cache in now["shadow_caches"]["budgets"]}
        assert list(hits) == [0.25, 0.5, 1.0]
        assert 0 < hits[1.0] <= now["recomputed_after_eviction"]["mask"]["entries"]
        assert (
            found["labeling_ground_recomputed_after_eviction_entries_total", frozenset({("kind", "mask")})]
            == (now["recomputed_after_eviction"]["mask"]["entries"])
        )
        for cache in now["shadow_caches"]["budgets"]:
            by = frozenset({("larger_by", f"{cache['larger_by']:g}")})
            assert found["labeling_ground_shadow_cache_hits", by] == cache["hits"]
            assert found["labeling_ground_shadow_cache_seconds_saved", by] == pytest.approx(
                cache["seconds_saved"], abs=1e-5
            )
        entries = now["tiers"][0]["entries"]
        for name, part in (("age", now["ages"]), ("idle", now["idle"])):
            assert len(part["seconds"]) == len(part["entries"])
            assert part["entries"][-1] == entries
            assert part["entries"] == sorted(part["entries"])
            family = f"labeling_ground_entry_{name}_seconds"
            assert found[f"{family}_bucket", frozenset({("le", "+Inf")})] == entries
            assert found[f"{family}_bucket", frozenset({("le", "60")})] <= entries


async def test_latency_is_told_by_what_was_asked_for_and_how_it_came_to_be(
    server: "Running", make_image: "Callable[..., bytes]"
) -> None:
    """The routes that ask for the same thing are taken together, and all of it is in the histogram of the metrics."""
    before = (await figures(server))["latency"]
    assert before["rows"] == []
    await work(server, make_image)
    body = {"session_id": "s", "points": [7, 7]}
    image = base64.b64encode(make_image()).decode()
    await server.client.post("/api/sam/image", json={"session_id": "s", "image": image})
    await server.client.post("/api/sam/click", json=body)
    latency = (await figures(server))["latency"]
    assert latency["seconds"] == sorted(before["seconds"])
    rows = {(row["kind"], row["outcome"]): row for row in latency["rows"]}
    counts = {name: row["answers"][-1] for name, row in rows.items()}
    assert counts == {
        ("embedding", "miss"): 2,
        ("mask", "miss"): 3,
        ("mask", "hit"): 1,
        ("mask", "joined"): 1,
        ("mask", "recomputed"): 1,
        ("everything", "miss"): 1,
    }
    for row in rows.values():
        assert len(row["answers"]) == len(latency["seconds"]) + 1
        assert row["answers"] == sorted(row["answers"])
        assert row["total_seconds"] > 0
    found = await samples(server)
    for bound, count in zip(latency["seconds"], rows["mask", "hit"]["answers"], strict=False):
        labels = {"route": "/v1/images/{image_id}/masks", "outcome": "hit", "le": f"{bound}"}
        assert found["labeling_ground_request_seconds_bucket", frozenset(labels.items())] == count


async def test_every_route_that_answers_with_an_outcome_is_in_the_latency(server: "Running") -> None:
    """A route that is added has to say what it asks for."""
    schema = (await server.client.get("/openapi.json")).json()
    with_outcome = {
        path
        for path, operations in schema["paths"].items()
        for operation in operations.values()
        if "outcome" in _properties(schema, operation)
    }
    assert len(with_outcome) > 5
    assert with_outcome <= set(cache.ASKED_FOR)
    assert set(cache.ASKED_FOR) <= set(schema["paths"])


def _properties(schema: dict[str, Any], operation: dict[str, Any]) -> set[str]:
    """The fields of an operation's good answer."""
    content = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    names = [content.get("$ref", ""), *(one.get("$ref", "") for one in content.get("anyOf", []))]
    known = schema["components"]["schemas"]
    return {field for name in names for field in known.get(name.rpartition("/")[2], {}).get("properties", {})}


async def test_the_figures_say_how_the_server_is(start: "Start") -> None:
    """As ``/health/ready`` does; for how long it runs, and what can be changed of it."""
    async with start() as server:
        now = await figures(server)
        assert (
            now["health"]
            == (await server.client.get("/health/ready")).json()
            == {
                "status": "ok",
                "checks": {"model": "ok", "disk": "ok"},
            }
        )
        assert 0 < now["uptime_seconds"] <= (await figures(server))["uptime_seconds"]
        assert now["has_admin_key"] is False
        assert now["settings"]["policy"] in now["policies"]
        server.app.state.model_check = "failing: it is on holiday"
        assert (await figures(server))["health"]["status"] == "failing"
    async with start(admin_key="root", policy="labeling_ground.cache.policies.gds:make") as server:
        now = await figures(server)
        assert now["has_admin_key"] is True
        assert now["policies"][-1] == now["settings"]["policy"] == "labeling_ground.cache.policies.gds:make"


async def test_one_image_is_purged_in_the_namespaces_of_who_asks(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """A key purges it for itself, the admin key for all; other images stay."""
    async with start(api_keys=("one", "two"), admin_key="root") as server:
        file, one, two, root = make_image(), {"X-API-Key": "one"}, {"X-API-Key": "two"}, {"X-API-Key": "root"}
        for key in (one, two):
            image_id = await server.send_image(file, **key)
            other_id = await server.send_image(make_image(), **key)
        await server.app_state.predictor.store.drain()

        async def status(**key: str) -> int:
            return (await server.client.get(f"/v1/images/{image_id}", headers=key)).status_code

        purge = f"/v1/cache?image_id={image_id}"
        assert (await server.client.delete(purge, headers=one)).json()["deleted"] > 0
        assert (await status(**one), await status(**two)) == (404, 200)
        await server.send_image(file, **one)
        await server.app_state.predictor.store.drain()
        assert (await server.client.delete(purge, headers=root)).json()["deleted"] > 0
        assert (await status(**one), await status(**two)) == (404, 404)
        assert (await server.client.get(f"/v1/images/{other_id}", headers=two)).status_code == 200
        assert (await server.client.delete("/v1/cache?image_id=*", headers=root)).status_code == 422


async def test_labels_are_bounded(server: "Running") -> None:
    """Paths, methods, names and ids that clients make up add no series."""

    async def knock(number: int) -> None:
        for path in (f"/nope/{number}", f"/docs/static/{number}.js", f"/v1/images/{number:064x}"):
            await server.client.get(path, headers={"X-Client-Id": str(number)})
        await server.client.request(f"VERB{number}", "/v1/cache")
        await server.client.post("/api/sam/click", json={"session_id": str(number), "points": [1, 1]})
        await server.client.delete(f"/v1/cache?model=m{number}")

    await knock(0)
    before = {name for name, _ in await samples(server)}, len(await samples(server))
    for number in range(1, 20):
        await knock(number)
    after = {name for name, _ in await samples(server)}, len(await samples(server))
    assert after == before
    routes = {dict(labels).get("route") for _, labels in await samples(server)}
    assert not [route for route in routes if route and "7" in route]


async def test_every_request_is_one_log_line(
    server: "Running", make_image: "Callable[..., bytes]", caplog: pytest.LogCaptureFixture
) -> None:
    """With status, outcome, timings and the request's id, which the answer carries too; health checks make none."""
    caplog.set_level(logging.INFO, "labeling_ground.access")
    image_id = await server.send_image(make_image())
    caplog.clear()
    answer = await server.click(image_id, 5, 5)
    await server.client.get("/health/live")
    await server.client.get("/nope")
    lines = [record for record in caplog.records if record.name == "labeling_ground.access"]
    assert [line.getMessage() for line in lines] == [f"POST /v1/images/{image_id}/masks", "GET /nope"]
    fields: dict[str, Any] = lines[0].fields  # type: ignore[attr-defined]
    assert (fields["status"], fields["outcome"]) == (200, "miss")
    assert fields["request"] == answer.headers["x-request-id"]
    assert fields["image"] == image_id[:12]
    assert fields["ms"] >= fields["decode_ms"] > 0
    assert {"lookup_ms", "prompts"} <= fields.keys()
    written = json.loads(JsonFormatter().format(lines[0]))
    assert written["status"] == 200
    assert written["message"].endswith("/masks")


async def test_a_client_cannot_forge_a_log_line(server: "Running", caplog: pytest.LogCaptureFixture) -> None:
    """Line breaks and terminal codes in a path or a session's name stay within their line."""
    caplog.set_level(logging.INFO, "labeling_ground.access")
    await server.client.get("/a%0A12:00:00%20info%20forged%1b[31m")
    record = next(record for record in caplog.records if record.name == "labeling_ground.access")
    record.fields["session"] = "x\ny\x1b"  # type: ignore[attr-defined]
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record)
        assert "\n" not in line
        assert "\x1b" not in line


async def test_every_answer_carries_its_id_and_its_times(server: "Running") -> None:
    """Errors too; ids differ."""
    ids = set()
    for path in ("/health/live", "/nope", "/v1/models", "/docs"):
        answer = await server.client.get(path)
        ids.add(answer.headers["x-request-id"])
        assert answer.headers["server-timing"].startswith("total;dur=")
    assert len(ids) == 4


async def test_purging_one_model_keeps_the_files(server: "Running", make_image: "Callable[..., bytes]") -> None:
    """And a model that is not served, such as the last one, can be purged as well."""
    await server.send_image(make_image())
    await server.app_state.predictor.store.drain()
    assert (await server.client.delete("/v1/cache?model=sam-vit-h")).json() == {"deleted": 0}
    assert (await server.client.delete("/v1/cache?model=toy")).json()["deleted"] == 2
    held = (await figures(server))["tiers"][1]["entries_by_kind"]
    assert {kind: count for kind, count in held.items() if count} == {"image": 1}


async def test_memory_alone_is_enough(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """With the disk tier switched off everything works, and the figures show one tier."""
    async with start(disk_bytes=0) as server:
        image_id = await server.send_image(make_image())
        assert (await server.click(image_id, 5, 5)).json()["outcome"] == "miss"
        assert (await server.click(image_id, 5, 5)).json()["outcome"] == "hit"
        assert [tier["tier"] for tier in (await figures(server))["tiers"]] == ["memory"]
