"""The manifests of ``examples/kubernetes``, and what their command lines say."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from tests.examples.image import ENTRYPOINT, FOLDER
from txzmq._cli.verbs.serve import command

# Any: PyYAML has no types.
yaml: Any = import_module("yaml")

#: A manifest; Any: whatever YAML has.
Manifest = dict[str, Any]


def manifests_of(name: str) -> list[Manifest]:
    found: list[Manifest] = list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))
    return found


SERVERS: Final = ["greeter.yaml", "several-ports.yaml"]
FILES: Final = [*SERVERS, "client.yaml"]
#: By file and kind.
ALL: Final = {
    f"{file} {manifest['kind']}": manifest for file in FILES for manifest in manifests_of(file)
}


def one(file: str, kind: str) -> Manifest:
    return ALL[f"{file} {kind}"]


def pod_of(file: str) -> Manifest:
    pod: Manifest = one(file, "Deployment")["spec"]["template"]["spec"]
    return pod


def container_of(file: str) -> Manifest:
    (container,) = pod_of(file)["containers"]
    found: Manifest = container
    return found


def flags_of(file: str) -> dict[str, Any]:
    """What ``txzmq serve`` takes the container's arguments for."""
    context = command.make_context("serve", [*ENTRYPOINT[2:], *container_of(file)["args"]])
    flags: dict[str, Any] = context.params
    return flags


def environment() -> dict[str, str]:
    """The client's, without what comes from elsewhere."""
    return {each["name"]: each.get("value", "") for each in container_of("client.yaml")["env"]}
