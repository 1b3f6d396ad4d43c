"""What ``make c_up`` brings up, and what it says when it cannot."""

import asyncio
import json
import socket
import urllib.request
from dataclasses import replace

import pytest
from bench.serving.client import Connection, request
from bench.serving.photos import jpeg
from bench.stack.containers import Stack, must

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_documentation_is_where_the_readme_says(stack: Stack) -> None:
    for page in ("docs", "redoc"):
        with urllib.request.urlopen(f"{stack.url}/{page}", timeout=10) as answer:
            assert answer.status == 200


def test_everything_is_healthy_and_the_doctor_agrees(stack: Stack) -> None:
    for service in stack.services:
        assert stack.inspect(service)["State"]["Health"]["Status"] == "healthy"
    with urllib.request.urlopen(f"{stack.url}/health/ready", timeout=10) as answer:
        checks = json.load(answer)["checks"]
    assert set(checks.values()) == {"ok"}
    assert {"model", "disk", "redis"} <= set(checks)
    done = stack.execute("proxy", "labeling-ground", "doctor", "--json", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_container_has_more_rights_than_it_needs(stack: Stack) -> None:
    for service in stack.services:
        found = stack.inspect(service)
        assert stack.execute(service, "id", "-u").stdout.strip() != "0", service
        assert stack.execute(service, "touch", "/written").returncode != 0, service
        assert found["HostConfig"]["CapDrop"] == ["ALL"], service
        assert found["HostConfig"]["Memory"] > 0, service


def test_only_the_proxy_can_be_reached_and_only_from_this_machine(stack: Stack) -> None:
    for service in stack.services:
        bound = [one for ports in stack.inspect(service)["NetworkSettings"]["Ports"].values() for one in ports or ()]
        expected = [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}] if service == "proxy" else []
        assert bound == expected, service


def test_starting_it_again_changes_nothing(stack: Stack) -> None:
    before = [stack.container(service) for service in stack.services]
    done = stack.make("c_up")
    assert done.returncode == 0, done.stderr
    assert "ready: http://localhost" in done.stderr
    assert [stack.container(service) for service in stack.services] == before


def test_ten_clients_with_the_same_new_image_cost_one_encode(stack: Stack) -> None:
    raw = request("POST", "/v1/images", jpeg(700), "image/jpeg")

    async def one() -> str:
        async with Connection(stack.port) as connection:
            reply = await connection.send(raw)
            assert reply.status == 200, reply.body
            return str(reply.json()["outcome"])

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(10)))

    assert asyncio.run(all_of_them()).count("miss") == 1


def test_a_port_that_is_taken_is_said(stack: Stack) -> None:
    other = replace(stack, knobs={**stack.knobs, "COMPOSE_PROJECT_NAME": "labeling-ground-test-other"})
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = replace(other, port=port).make("c_up")
    assert done.returncode != 0
    assert f"127.0.0.1 port {port}" in done.stderr
    assert "PROXY_PORT=9000 make c_up" in done.stderr


def test_an_image_that_was_not_built_is_said(stack: Stack) -> None:
    done = replace(stack, knobs={**stack.knobs, "IMAGE_TAG": "never-built"}).make("c_up")
    assert done.returncode != 0
    assert "run 'make build_all' first" in done.stderr


def test_an_engine_that_does_not_answer_is_said(stack: Stack) -> None:
    done = replace(stack, knobs={**stack.knobs, "DOCKER_HOST": "unix:///nowhere.sock"}).make("c_up")
    assert done.returncode != 0
    assert "The container engine does not answer" in done.stderr


def test_a_service_that_cannot_start_is_named_with_its_last_words(stack: Stack) -> None:
    broken = Stack("none", knobs={"COMPOSE_PROJECT_NAME": "labeling-ground-test-broken", "IDLE_S": "-1"})
    try:
        done = broken.make("c_up")
    finally:
        broken.down()
    assert done.returncode != 0
    assert "'proxy' is not ready" in done.stderr
    assert "LABELING_GROUND_IDLE_S" in done.stderr


def test_what_was_computed_is_known_after_down_and_up(stack: Stack) -> None:
    raw = request("POST", "/v1/images", jpeg(701), "image/jpeg")

    async def upload() -> str:
        async with Connection(stack.port) as connection:
            reply = await connection.send(raw)
            assert reply.status == 200, reply.body
            return str(reply.json()["outcome"])

    first = asyncio.run(upload())
    must("docker", "stop", "-t", "30", stack.container("proxy"), timeout=60)  # it writes what is pending, and goes
    assert stack.make("c_down").returncode == 0
    done = stack.make("c_up")
    assert done.returncode == 0, done.stderr
    assert (first, asyncio.run(upload())) == ("miss", "hit")
