"""What the chart asks of a server's metrics, and its own test, against a real server with its engines elsewhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.deploy.chart import CHART, NAMESPACE, of_kind, rendered
from tests.inference.toy_engine import LONG_S, NAMES, OTHER, ToyEngine, endpoint, served
from tests.needs import needs_program
from tests.ports import free_port
from tests.running import command

from labeling_ground.inference.remote.wire import EngineRole

SERVICE = "lg-labeling-ground-sam-vit-h-proxy"
MINUTES = 70


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server in a process of its own."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    encoder = endpoint(EngineRole.ENCODER, ToyEngine(), folder / "kept", workers=1)
    decoder = endpoint(EngineRole.DECODER, ToyEngine(), folder / "kept")
    stranger = endpoint(EngineRole.ENCODER, ToyEngine(seed=2), folder / "kept", version=OTHER)
    with served(encoder, decoder) as engines, served(stranger) as others:
        settings = {
            "PORT": port,
            "CACHE_DIR": folder / "cache",
            "API_KEYS": "a-key-for-the-test,another-key",
            "ENCODER_NAME": NAMES[EngineRole.ENCODER],
            "DECODER_NAME": NAMES[EngineRole.DECODER],
            "LOG_LEVEL": "error",
        }
        for half in ("ENCODER", "DECODER"):
            pool = (engines, others) if half == "ENCODER" else (engines,)
            settings[f"{half}_URL"] = ",".join(each.url for each in pool)
            settings[f"{half}_MANAGEMENT_URL"] = ",".join(f"http://127.0.0.1:{each.management_port}" for each in pool)
        url = f"http://127.0.0.1:{port}"
        with command("serve", ready=f"{url}/health/ready", **settings):
            yield url


def helms_test(url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = CHART / "files" / "open_click_hit.py"
    return subprocess.run(
        [sys.executable, str(program), url],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def recorded(server: str) -> list[str]:
    """The series of `/metrics` after an open, a click and a hit, each with the labels that the operator adds."""
    assert helms_test(server, API_KEYS="a-key-for-the-test").returncode == 0
    added = f'namespace="{NAMESPACE}",service="{SERVICE}",pod="proxy-1"'
    found = [f"up{{{added}}}"]
    for line in httpx.get(f"{server}/metrics").text.splitlines():
        if not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()  # type: ignore[union-attr]
            found.append(f"{name}{{{','.join(filter(None, (labels, added)))}}}")
    return found


def test_helms_test_opens_clicks_and_hits(server: str) -> None:
    found = helms_test(server, API_KEYS="another-key,a-key-for-the-test")
    assert found.returncode == 0, found.stderr
    assert [line.split()[1].rstrip(",") for line in found.stdout.splitlines()] == ["miss", "miss", "hit"]


def test_helms_test_says_what_a_server_refuses(server: str) -> None:
    found = helms_test(server, API_KEYS="no-such-key")
    assert found.returncode != 0
    assert "401" in found.stderr
    script = of_kind(rendered("default"), "ConfigMap")["test"]["data"]["open_click_hit.py"]
    assert script.strip() == (CHART / "files" / "open_click_hit.py").read_text(encoding="utf-8").strip()


SICK: dict[str, Mapping[str, str]] = {
    "LabelingGroundDown": {r"up\{": "0x70"},
    "LabelingGroundEnginesDown": {r'engine_open\{.*engine="decoder"': "1x70"},
    "LabelingGroundEngineAway": {r'engine_open\{address="STRANGER",engine="encoder"': "1x70"},
    "LabelingGroundEngineLeftOut": {r'engine_left_out\{.*engine="encoder"': "1x70"},
    "LabelingGroundErrors": {r'requests_total\{outcome="\w+",route="/v1/images",status="200"': "0+1x70"},
    "LabelingGroundPeopleTurnedAway": {
        r'turned_away_total\{class="interactive",model="[^"]*",queue="decoder"': "0+6x70"
    },
    "LabelingGroundPeopleWait": {
        r'waited_seconds_total\{class="interactive",model="[^"]*",queue="encoder"': "0+300x70"
    },
    "LabelingGroundClicksSlow": {
        r'request_seconds_bucket\{le="\+Inf",outcome="miss",route="/v1/images/\{image_id\}/masks"': "0+100x70",
        r'request_seconds_bucket\{le="10.0",outcome="miss",route="/v1/images/\{image_id\}/masks"': "0+100x70",
    },
    "LabelingGroundTierDown": {r'breaker_open\{tier="disk"': "1x70"},
    "LabelingGroundCacheTooSmall": {
        r'recomputed_after_eviction_seconds_total\{kind="embedding"': "0+6x70",
        r'seconds_computed_total\{kind="embedding"': "0+12x70",
    },
}
"""Alert → series of the real server and what they would be, minute by minute, where all others stand still. The
stranger is the one of two encoders that serves another model."""
TOGETHER = {"LabelingGroundEnginesDown": {"LabelingGroundEngineAway"}}
"""Which other alerts fire then."""


def series(recorded: list[str], sick: Mapping[str, str]) -> list[dict[str, str]]:
    """Input of promtool; a pattern that no series of the server has is a metric that was renamed."""
    [stranger] = {found[1] for each in recorded if (found := re.search(r'engine_left_out\{address="([^"]+)"', each))}
    sick = {pattern.replace("STRANGER", re.escape(stranger)): values for pattern, values in sick.items()}
    for pattern in sick:
        assert any(re.search(pattern, each) for each in recorded), f"the server has no series {pattern}"
    made = []
    for each in recorded:
        values = next((values for pattern, values in sick.items() if re.search(pattern, each)), None)
        made.append({"series": each, "values": values or ("1x70" if each.startswith("up{") else "0x70")})
        if values and "requests_total" in each:  # of all answers a tenth is an error
            made[-1]["values"] = "0+9x70"
            made.append({"series": each.replace('status="200"', 'status="503"'), "values": "0+1x70"})
    return made


def promtool(folder: Path, rules: Any, *cases: dict[str, Any]) -> None:
    program = needs_program("promtool")
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    asked = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": list(cases)}
    (folder / "test.yaml").write_text(yaml.safe_dump(asked))
    found = subprocess.run(
        [program, "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_each_alert_fires_on_what_the_server_tells_and_no_other_does(recorded: list[str], tmp_path: Path) -> None:
    rules = of_kind(rendered("one-gpu"), "PrometheusRule")["lg-labeling-ground"]["spec"]
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert alerts == list(SICK)
    names = {name.partition("{")[0] for name in recorded}
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert set(re.findall(r"labeling_ground_\w+", rule["expr"])) <= names, rule["alert"]
    cases = []
    for wanted, sick in {"": {}, **SICK}.items():
        expected = [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                "eval_time": f"{MINUTES - 1}m",
                "exp_samples": [{"labels": "{}", "value": float(alert in {wanted, *TOGETHER.get(wanted, ())})}],
            }
            for alert in alerts
        ]
        cases.append(
            {
                "name": wanted or "well",
                "interval": "1m",
                "input_series": series(recorded, sick),
                "promql_expr_test": expected,
            }
        )
    promtool(tmp_path, rules, *cases)


def test_engines_are_scaled_by_what_waits_and_by_the_seconds_of_it(recorded: list[str], tmp_path: Path) -> None:
    names = {name.partition("{")[0] for name in recorded}
    for role, kind in (("encoder", "embedding"), ("decoder", "mask")):
        spec = of_kind(rendered("six-gpus"), "ScaledObject")[f"sam-vit-h-{role}"]["spec"]
        queries = {trigger["name"]: trigger["metadata"]["query"] for trigger in spec["triggers"]}
        assert set(queries) == {"waiting", "seconds"}
        for query in queries.values():
            assert set(re.findall(r"labeling_ground_\w+", query)) <= names
        # Ten wait here and two at the engines. Thirty a minute keep the engines for 60 seconds a minute: two each.
        sick = {
            rf'waiting\{{class="job",model="[^"]*",queue="{role}"': "10x70",
            rf'engine_queue\{{.*engine="{role}"': "1x70" if role == "encoder" else "2x70",  # of two, and of one
            rf'queue_busy_seconds_total\{{class="job",model="[^"]*",queue="{role}"': "0+60x70",
            rf'lookups_total\{{kind="{kind}",.*outcome="miss"': "0+30x70",
        }
        expected = [
            {"expr": query, "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": value}]}
            for query, value in ((queries["waiting"], 12.0), (queries["seconds"], 24.0))
        ]
        idle = [{**one, "exp_samples": [{"labels": "{}", "value": 0.0}]} for one in expected]
        promtool(
            tmp_path,
            {"groups": []},
            {"interval": "1m", "input_series": series(recorded, sick), "promql_expr_test": expected},
            {"interval": "1m", "input_series": series(recorded, {}), "promql_expr_test": idle},
        )
