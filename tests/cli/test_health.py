"""``txzmq health``: of a server, of a service, of all, and as it changes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("click", reason="the extra cli is not installed")

from tests.cli.shop import World
from txzmq.rpc import Code
from txzmq.rpc.health import Health, ServingStatus

SHOP = "acme.shop.v1.Shop"


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def served(new_world: Callable[..., World], health: Health) -> World:
    return new_world(health)


def test_a_server_that_serves(served: World) -> None:
    assert served.run("health", "AT").lines == ["SERVING"]
    assert served.run("health", "AT", SHOP).lines == ["SERVING"]
    done = served.run("health", "AT", SHOP, "--json")
    assert json.loads(done.out) == {"service": SHOP, "status": "SERVING"}


@pytest.mark.parametrize("status", [ServingStatus.NOT_SERVING, ServingStatus.UNKNOWN])
def test_a_service_that_does_not_serve(
    served: World, health: Health, status: ServingStatus
) -> None:
    health.set(SHOP, status)
    done = served.run("health", "AT", SHOP)
    assert (done.status, done.out, done.err) == (1, f"{status.name}\n", "")
    assert served.run("health", "AT").status == 0


def test_all_are_listed(served: World, health: Health) -> None:
    done = served.run("health", "AT", "--list")
    assert [line.split() for line in done.lines] == [
        ["SERVICE", "STATUS"],
        ["(the", "server)", "SERVING"],
        [SHOP, "SERVING"],
        ["grpc.health.v1.Health", "SERVING"],
    ]
    health.set(SHOP, ServingStatus.NOT_SERVING)
    done = served.run("health", "AT", "--list", "--json")
    assert done.status == 1
    statuses = {each["service"]: each["status"] for each in map(json.loads, done.out.splitlines())}
    assert statuses == {"": "SERVING", SHOP: "NOT_SERVING", "grpc.health.v1.Health": "SERVING"}


def test_each_new_status_is_watched(served: World, health: Health) -> None:
    clock = served.network.clock
    clock.callLater(1, health.set, SHOP, ServingStatus.NOT_SERVING)
    clock.callLater(2, health.clear, SHOP)
    done = served.run("health", "AT", SHOP, "--watch", "--max-time", "3")
    assert done.out.splitlines() == ["SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]
    assert done.status == 64 + Code.DEADLINE_EXCEEDED


def test_a_service_that_the_server_does_not_know(served: World) -> None:
    done = served.run("health", "AT", "acme.shop.v1.Shopp")
    assert (done.status, done.out) == (64 + Code.NOT_FOUND, "")
    assert done.err.splitlines() == [
        "txzmq health: the server knows no service acme.shop.v1.Shopp",
        "hint: did you mean acme.shop.v1.Shop?",
    ]


@pytest.mark.parametrize("more", [[], ["--list"], ["--watch"]])
def test_a_server_without_the_service(world: World, more: list[str]) -> None:
    done = world.run("health", "AT", *more)
    assert done.status == 64 + Code.UNIMPLEMENTED
    assert done.err.splitlines()[0] == "txzmq health: the server has no health service"


def test_flags_that_do_not_go_together(served: World) -> None:
    for more in (["--watch"], [SHOP]):
        assert served.run("health", "AT", "--list", *more).status == 2
