"""Deploys ``serve.yaml`` on two nodes of one machine, kills one under load, and prints what that did, as JSON.

``ray_serve.py SERVE_YAML MODELS_DIR MODEL PORT SECONDS``
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "ORT_DISABLE_TELEMETRY": "1"}

import numpy as np
import ray
import yaml
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from labeling_ground.errors import LabelingGroundError
from labeling_ground.settings import Settings
from labeling_ground.types import Image, Point, Prompt
from labeling_ground.wiring.models import build_remote

serve_yaml, models_dir, model, port, seconds = sys.argv[1:]
CLICKERS, ALONE_S = 3, 10.0


def schema() -> ServeDeploySchema:
    """The file as it is, but for sizes that fit two small nodes without a GPU: a replica of each half on each."""
    given = yaml.safe_load(Path(serve_yaml).read_text())
    ServeDeploySchema.model_validate(given)
    given["proxy_location"] = "HeadOnly"  # both nodes have this machine's address
    given["http_options"] = {"host": "127.0.0.1", "port": int(port)}
    for application in given["applications"]:
        application["runtime_env"]["env_vars"] |= {
            "LABELING_GROUND_MODEL": model,
            "LABELING_GROUND_MODELS_DIR": models_dir,
            "LABELING_GROUND_ENGINE": "onnx",
            "LABELING_GROUND_ENCODE_WORKERS": "1",
            "LABELING_GROUND_DECODE_WORKERS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.environ["PYTHONPATH"],
        }
        [deployment] = application["deployments"]
        deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
        deployment |= {"max_replicas_per_node": 1, "ray_actor_options": {"num_cpus": 0.5}}
    return ServeDeploySchema.model_validate(given)


async def load(encoder: str, decoder: str, clickers: int, seconds: float, kill=None) -> dict[str, object]:
    """Clicks on four images, while a node goes: how many failed and for how long, and whether a mask was wrong."""
    settings = Settings(encoder_url=encoder, decoder_url=decoder, engine_wait_s=300, decode_deadline_s=30)
    backend, _ = await asyncio.to_thread(build_remote, settings)
    images = [
        Image("0" * 64, np.random.default_rng(seed).integers(0, 256, (211, 307, 3), np.uint8)) for seed in range(4)
    ]
    prompts = [Prompt((Point(x, 50 + x, 1),)) for x in (40, 90, 140)]
    asks = [(embedding, prompt) for embedding in await backend.encode(images) for prompt in prompts]
    expected = await backend.decode(asks)
    calls, wrong, began = [], 0, time.monotonic()

    async def clicking(first: int) -> None:
        nonlocal wrong
        number = first
        while time.monotonic() - began < seconds:
            number = (number + 1) % len(asks)
            at = time.monotonic()
            try:
                [made] = await backend.decode([asks[number]])
            except LabelingGroundError as error:
                calls.append((at, time.monotonic() - at, str(error)))
                await asyncio.sleep(0.2)
                continue
            calls.append((at, time.monotonic() - at, ""))
            for a, b in zip(made.masks, expected[number].masks, strict=True):
                wrong += not np.allclose(a.logits, b.logits, atol=1e-3)

    async def killing() -> float:
        await asyncio.sleep(seconds / 4)
        at = time.monotonic()
        if kill is not None:
            await asyncio.to_thread(kill)
        return at

    killed, *_ = await asyncio.gather(killing(), *(clicking(4 * each) for each in range(clickers)))
    failed = [(at - killed, took, words) for at, took, words in calls if words]
    before = sorted(took for at, took, _ in calls if at < killed)
    after = sorted(took for at, took, words in calls if at >= killed and not words)
    await backend.encode(images[:1])  # the encoder lives, too
    await backend.aclose()
    return {
        "calls": len(calls),
        "wrong_masks": wrong,
        "failed": len(failed),
        "failed_from_s": round(min((at for at, _, _ in failed), default=0), 2),
        "failed_until_s": round(max((at + took for at, took, _ in failed), default=0), 2),
        "words": sorted({words for *_, words in failed}),
        "median_before_ms": round(1e3 * before[len(before) // 2], 1),
        "median_after_ms": round(1e3 * after[len(after) // 2], 1),
        "longest_after_s": round(after[-1], 2),
        "answered_after": len(after),
    }


def engine_alone() -> float:
    """Median of clicks one after another at ``labeling-ground engine``, in milliseconds: the same without Ray."""
    command = [sys.executable, "-m", "labeling_ground", "engine", "--model", model, "--models-dir", models_dir]
    chosen = {"ENGINE": "onnx", "ENCODE_WORKERS": "1", "DECODE_WORKERS": "1"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **{f"LABELING_GROUND_{name}": chosen[name] for name in chosen}}
    ports = [str(int(port) + more) for more in (1, 2)]
    engine = subprocess.Popen(
        [*command, "--port", ports[0], "--management-port", ports[1]], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{ports[0]}"
        return asyncio.run(load(url, url, 1, ALONE_S))["median_after_ms"]
    finally:
        engine.terminate()
        engine.wait()


def nodes_of_replicas() -> dict[str, int]:
    """On how many nodes each half has replicas that run."""
    details = _get_global_client().get_serve_details()
    return {
        name: len(
            {
                replica["node_id"]
                for replica in application["deployments"][name]["replicas"]
                if replica["state"] == "RUNNING"
            }
        )
        for name, application in details["applications"].items()
    }


def main() -> None:
    began = time.monotonic()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    other = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(port)})
        _get_global_client().deploy_apps(schema(), _blocking=True)
        until = time.monotonic() + 300
        while not all(
            deployment.status == "HEALTHY"
            for application in serve.status().applications.values()
            for deployment in application.deployments.values()
        ):
            assert time.monotonic() < until, serve.status()
            time.sleep(0.5)
        deployed_s = round(time.monotonic() - began, 1)
        nodes = {"nodes_of_replicas": nodes_of_replicas()}
        halves = [f"http://127.0.0.1:{port}/{half}" for half in ("encoder", "decoder")]
        alone = {
            "median_alone_ms": asyncio.run(load(*halves, 1, ALONE_S))["median_after_ms"],
            "median_alone_without_ray_ms": engine_alone(),
        }
        kill = partial(cluster.remove_node, other, allow_graceful=False)
        found = asyncio.run(load(*halves, CLICKERS, float(seconds), kill))
        nodes["nodes_after"] = nodes_of_replicas()
        sys.stdout.write(json.dumps({"deployed_s": deployed_s, **nodes, **alone, **found}) + "\n")
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
