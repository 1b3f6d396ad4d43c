"""The Helm chart: what it renders is valid, and fits the images, the commands and the settings that there are."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Group
from tests.deploy.chart import CHART, NAMESPACE, ROOT, SETS, chosen, containers, helm, mebibytes, of_kind, rendered
from tests.deploy.chart import template as helm_template
from tests.needs import needs_chart_tool, needs_program

from labeling_ground import __version__
from labeling_ground.cli import cli
from labeling_ground.cli.engine import _PORTS
from labeling_ground.models.catalogue import catalogue
from labeling_ground.settings import ENV_PREFIX, Settings, read_settings

OPERATORS_KINDS = ("ScaledObject", "ServiceMonitor", "PrometheusRule")
EVERYTHING = (
    "--set=proxy.keysSecret=keys,redis.tlsSecret=tls,redis.clientCertificate=true,modelStore.mirror=https://m.example",
    "--set=encoder.autoscaling.enabled=true,monitoring.enabled=true,ingress.enabled=true,ingress.host=x.example",
    "--set=ingress.byImage.enabled=true,modelStore.existingClaim=weights,image.pullSecrets={registry}",
    "--set=proxy.diskCacheMiB=4096,encoder.runtimeClassName=nvidia,proxy.nodeSelector.zone=a",
    '--set-json=proxy.tolerations=[{"key":"a","operator":"Exists"}]',
    '--set-json=networkPolicy.proxyFrom=[{"namespaceSelector":{}}]',
    '--set-json=networkPolicy.proxyEgress=[{"to":[{"ipBlock":{"cidr":"10.0.0.0/8"}}]}]',
    "--set=proxy.env.LABELING_GROUND_SOURCES=images.example.org,decoder.env.LABELING_GROUND_DECODE_WORKERS=2",
)
"""What the shipped sets leave out."""
CASES = [(values, ()) for values in SETS] + [("default", EVERYTHING)]
every_set = pytest.mark.parametrize(("values", "words"), CASES, ids=[*SETS, "everything"])


@every_set
def test_helm_finds_no_fault(values: str, words: tuple[str, ...]) -> None:
    found = helm("lint", "--strict", str(CHART), *chosen(values), *words)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("version", ["1.34", "1.37"])
def test_kubernetes_takes_all_of_it(version: str, tmp_path: Path) -> None:
    validate = needs_chart_tool("kubernetes-validate")
    files = []
    for number, case in enumerate(CASES):
        own = [document for document in rendered(case[0], *case[1]) if document["kind"] not in OPERATORS_KINDS]
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump_all(own))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(files[0].read_text().replace("automountServiceAccountToken: false", "automountToken: false"))
    for paths, code in ((files, 0), ([wrong], 1)):  # the second: that it looks at all
        words = [validate, "--strict", "--kubernetes-version", version, *map(str, paths)]
        found = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert found.returncode == code, found.stdout + found.stderr
        assert "WARN" not in found.stdout + found.stderr


def test_the_operators_take_theirs() -> None:
    modules, node = needs_chart_tool("node_modules"), needs_program("node")
    theirs = [
        document
        for values, words in CASES
        for document in rendered(values, *words)
        if document["kind"] in OPERATORS_KINDS
    ]
    assert {document["kind"] for document in theirs} == set(OPERATORS_KINDS)
    wrong = json.loads(json.dumps(next(document for document in theirs if document["kind"] == "ScaledObject")))
    wrong["spec"]["minReplicaCount"] = "one"
    check = [node, str(Path(__file__).parent / "crds" / "check.mjs"), modules]
    found = subprocess.run(check, input=json.dumps([*theirs, wrong]), capture_output=True, text=True, timeout=120)
    lines = found.stdout.splitlines()
    assert lines[:-1] == [f"{document['kind']} ok" for document in theirs], found.stdout + found.stderr
    assert "minReplicaCount" in lines[-1]


@every_set
def test_every_variable_is_a_setting_and_every_value_one_that_it_takes(
    values: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "REDIS_URL": "redis+sentinel://a:1,b:2/mymaster/0",
        "API_KEYS": "a-long-key-1",
        "ADMIN_KEY": "a-long-key-2",
    }
    seen = set()
    for _, container in containers(rendered(values, *words)):
        given = {one["name"]: one.get("value") for one in container.get("env", ())}
        assert len(given) == len(container.get("env", ())), "a variable twice"
        ours = {name.removeprefix(ENV_PREFIX) for name in given if name.startswith(ENV_PREFIX)}
        assert ours <= {name.upper() for name in Settings.model_fields}
        with monkeypatch.context() as patch:
            patch.delenv(f"{ENV_PREFIX}ALLOWED_HOSTS")
            for name in ours:
                patch.setenv(f"{ENV_PREFIX}{name}", given[f"{ENV_PREFIX}{name}"] or secrets[name])
            settings = read_settings()
        seen |= ours
        if container["name"] == "proxy":
            [deployment] = [
                document
                for document in rendered(values, *words)
                if document["kind"] == "Deployment" and container in document["spec"]["template"]["spec"]["containers"]
            ]
            service = deployment["metadata"]["name"]
            assert {service, f"{service}.{NAMESPACE}"} <= set(settings.allowed_hosts)
    assert {"ENCODER_URL", "DECODER_URL", "MODEL", "EMBEDDING_STORE_BYTES"} <= seen


@every_set
def test_the_commands_their_ports_and_their_health_are_those_that_there_are(
    values: str, words: tuple[str, ...]
) -> None:
    health = {"serve": {"/health/live", "/health/ready"}, "engine": {"/ping"}}
    for _, container in containers(rendered(values, *words)):
        if container["name"] == "open-click-hit":
            continue
        program, name, *given = container["command"]
        assert program == "labeling-ground"
        command = cli.commands[name]
        if isinstance(command, Group):
            command, given = command.commands[given[0]], given[1:]
            assert given[0] in catalogue()
        context = command.make_context(name, given)  # which parses
        ports = {port["containerPort"] for port in container.get("ports", ())}
        if name == "serve":
            assert ports == {Settings.model_fields["port"].default}
        elif name == "engine":
            assert ports == {_PORTS[context.params["role"]], _PORTS[context.params["role"]] + 1}
        asked = {container[kind]["httpGet"]["path"] for kind in container if kind.endswith("Probe")}
        assert asked == health.get(name, set())


@every_set
def test_the_images_are_those_that_are_built(values: str, words: tuple[str, ...]) -> None:
    built = re.findall(r"FROM \S+ AS (\w+)", (ROOT / "docker" / "server.Dockerfile").read_text(encoding="utf-8"))
    for _, container in containers(rendered(values, *words)):
        prefix, name, version, *variant = re.split("[/:-]", container["image"].removeprefix("labeling-"))
        assert (prefix, version) == ("ground", __version__)
        assert name in built
        assert name == ("proxy" if container["name"] in ("proxy", "open-click-hit") else "engine")
        if container["name"] != "pull":
            has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert variant == (["cuda"] if has_gpu else [])
            engine = next((one["value"] for one in container.get("env", ()) if one["name"].endswith("_ENGINE")), "auto")
            assert engine == ("onnx-cuda" if has_gpu else "auto")


@every_set
def test_nothing_is_root_and_what_is_written_has_a_volume(values: str, words: tuple[str, ...]) -> None:
    image = (ROOT / "docker" / "server.Dockerfile").read_text(encoding="utf-8")
    for pod, container in containers(rendered(values, *words)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert f"--uid {pod['securityContext']['runAsUser']} " in image
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # or Kubernetes makes variables that look like settings
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert {mount["name"] for mount in mounts.values()} <= volumes
        folders = dict(re.findall(rf"({ENV_PREFIX}\w+_DIR)=(\S+)", image))
        if container["name"] in ("pull", "encoder", "decoder"):
            models = mounts[folders[f"{ENV_PREFIX}MODELS_DIR"]]
            assert models.get("readOnly", False) is (container["name"] != "pull")
        given = {one["name"]: one.get("value") for one in container.get("env", ())}
        has_disk = given.get(f"{ENV_PREFIX}DISK_BYTES", "0MiB") != "0MiB"
        assert has_disk is (folders[f"{ENV_PREFIX}CACHE_DIR"] in mounts)


@every_set
def test_shared_memory_is_counted_in_the_limit_and_holds_the_store(values: str, words: tuple[str, ...]) -> None:
    sections = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    decoders = 0
    for pod, container in containers(rendered(values, *words)):
        mounts = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
        assert bool(mounts) is (container["name"] == "decoder")
        if not mounts:
            continue
        decoders += 1
        [shm] = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == mounts[0]["name"]]
        assert shm["medium"] == "Memory"
        given = {one["name"]: one["value"] for one in container["env"]}
        store = Settings(embedding_store_bytes=given[f"{ENV_PREFIX}EMBEDDING_STORE_BYTES"]).embedding_store_bytes
        assert mebibytes(shm["sizeLimit"]) << 20 >= store * 1.1
        beside = mebibytes(container["resources"]["limits"]["memory"]) - mebibytes(shm["sizeLimit"])
        assert beside == sections["decoder"]["memoryMiB"]
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    assert decoders == len(of_kind(rendered(values, *words), "Deployment")) // 3


@every_set
def test_a_pod_has_longer_to_end_than_the_server_takes(values: str, words: tuple[str, ...]) -> None:
    for deployment in of_kind(rendered(values, *words), "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        given = {one["name"]: one.get("value") for one in container["env"]}
        delay_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert delay_s >= 5  # as long as services take to hear that it goes
        takes_s = sum(float(given[f"{ENV_PREFIX}{name}"]) for name in ("DRAIN_DELAY_S", "SHUTDOWN_GRACE_S"))
        # What waits to be written then, and sessions before it, as docs/scaling.md says.
        assert pod["terminationGracePeriodSeconds"] >= delay_s + takes_s + 2 * Settings().shutdown_write_s


@every_set
def test_services_budgets_and_policies_meet_the_pods(values: str, words: tuple[str, ...]) -> None:
    documents = rendered(values, *words)
    deployments = of_kind(documents, "Deployment")

    def selects(labels: dict[str, str], deployment: dict[str, Any]) -> bool:
        return bool(labels.items() <= deployment["spec"]["template"]["metadata"]["labels"].items())

    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        of_name = of_kind(documents, kind)
        assert set(of_name) == set(deployments)
        for name, document in of_name.items():
            spec = document["spec"]
            labels = (spec.get("selector") or spec.get("podSelector"))["matchLabels"]
            assert [other for other, pods in deployments.items() if selects(labels, pods)] == [name]
    for name, service in of_kind(documents, "Service").items():
        target = name.replace("-by-image", "-proxy")
        assert [other for other, pods in deployments.items() if selects(service["spec"]["selector"], pods)] == [target]
        assert (service["spec"].get("clusterIP") == "None") is not target.endswith("-proxy")
    for name, proxies in deployments.items():
        [container] = proxies["spec"]["template"]["spec"]["containers"]
        given = {one["name"]: one.get("value") for one in container["env"]}
        for half, port in (("encoder", 8080), ("decoder", 7080)):
            if name.endswith("-proxy"):
                address = f"dns+http://lg-labeling-ground-{name.removesuffix('-proxy')}-{half}:{port}"
                assert given[f"{ENV_PREFIX}{half.upper()}_URL"] == address


def test_what_scales_by_itself_has_no_number_of_replicas_of_its_own() -> None:
    for values in SETS:
        documents = rendered(values)
        scaled = {*of_kind(documents, "HorizontalPodAutoscaler"), *of_kind(documents, "ScaledObject")}
        for name, deployment in of_kind(documents, "Deployment").items():
            assert ("replicas" in deployment["spec"]) is (name not in scaled)
    six = rendered("six-gpus")
    encoder = of_kind(six, "Deployment")["sam-vit-h-encoder"]["spec"]["template"]["spec"]["containers"][0]
    assert encoder["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert of_kind(six, "ScaledObject")["sam-vit-h-encoder"]["spec"]["maxReplicaCount"] == 6


def test_requests_for_an_image_are_hashed_by_its_id_below_each_models_path() -> None:
    documents = rendered("two-models")
    services, ingresses = of_kind(documents, "Service"), of_kind(documents, "Ingress")
    for model, base in (("mobile-sam", ""), ("sam2-1-large", "/sam2.1-large")):
        [path] = ingresses[f"{model}-by-image"]["spec"]["rules"][0]["http"]["paths"]
        assert path["path"] == f"{base}/v1/images/"  # an upload has no id in its path, and goes to any
        annotation = services[f"{model}-by-image"]["metadata"]["annotations"]["haproxy.org/load-balance"]
        depth = int(annotation.removeprefix("uri depth "))
        # HAProxy hashes the path up to so many slashes: to the end of the id.
        assert len(f"{path['path']}ID".split("/")) - 1 == depth


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("proxy.replica=3", "replica"),
        ("proxy.replicas=none", "replicas"),
        ("encoder.engine=tensorrt", "engine"),
        ("encoder.gpu.count=-1", "count"),
        ("encoder.autoscaling.min=0", "min"),
        ("decoder.embeddingStoreMiB=1GiB", "embeddingStoreMiB"),
        ("precision=int8", "precision"),
        ("models[0].name=SAM H", "name"),
        ("models=null", "models"),
        ("models[1].name=a-b,models[0].name=a.b", "Two models are called a-b"),
        ("proxy.env.REDIS=x", "REDIS"),
        ("redis.urlSecret=", "urlSecret"),
        ("drain.delayS=0", "delayS"),
        ("proxy.allowedHosts={https://x}", "allowedHosts"),
        ("redis.enabled=false", "Several proxies need Redis"),
        ("proxy.persistent=true", "a volume belongs to one proxy"),
        ("ingress.enabled=true", "ingress.host"),
    ],
)
def test_a_wrong_value_is_refused(value: str, sentence: str) -> None:
    refused = helm_template("default", f"--set={value}")
    assert refused.returncode != 0
    assert sentence in refused.stderr


def test_the_chart_is_of_this_version_and_its_sets_are_all_tested() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["appVersion"] == __version__
    assert {file.stem for file in (CHART / "values").iterdir()} == set(SETS) - {"default"}
