"""What ``twist txzmq`` makes of its options."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError

from tests.serve.test_services import SERVICES
from tests.support import Logged, Loop
from txzmq import factory
from txzmq._serve import twist
from txzmq.auth import CurveKeyPair
from txzmq.rpc.application import ServerService

ANYWHERE = "tcp://127.0.0.1:*"
OPTIONS = """
from txzmq.auth import CurveKeyPair, CurveServerCredentials
from txzmq.rpc import ServerLimits

limits = {"limits": ServerLimits(running=5), "debug": True}
mistaken = {"limit": 5}
secure = {"credentials": CurveServerCredentials(CurveKeyPair.generate(), {})}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with services, options and keys."""
    (tmp_path / "twist_services.py").write_text(SERVICES)
    (tmp_path / "twist_options.py").write_text(OPTIONS)
    CurveKeyPair.generate().save(tmp_path / "server")
    CurveKeyPair.generate().save(tmp_path / "open")
    (tmp_path / "open.key_secret").chmod(0o644)
    (tmp_path / "clients").mkdir()
    add_client(tmp_path, "alice")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for module in ("twist_services", "twist_options"):
        sys.modules.pop(module, None)


def add_client(folder: Path, name: str) -> None:
    CurveKeyPair.generate().save(folder / name)
    (folder / f"{name}.key").rename(folder / "clients" / f"{name}.key")


def made(*arguments: str) -> ServerService:
    options: Any = twist.Options()  # whose methods have no types in Twisted
    options.parseOptions(arguments)
    return twist.makeService(options)


def test_twisted_lists_the_plugin() -> None:
    plugins: Any = getPlugins(IServiceMaker)
    [plugin] = [each for each in plugins if each.tapname == "txzmq"]
    assert plugin.options is twist.Options
    assert plugin.makeService is twist.makeService


def test_the_options_make_a_service(one_loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "default_reactor", lambda: one_loop.reactor)
    service = made(
        *("--listen", ANYWHERE, "-l", ANYWHERE, "--grace", "2.5", "-o", "twist_options:limits"),
        *("twist_services:Echo", "txzmq.rpc.health:Health"),
    )
    assert service.grace == 2.5

    async def main() -> None:
        service.startService()
        assert len(service.endpoints) == 2
        assert service.server.limits.running == 5
        await service.stopService()

    one_loop.run(main)


def test_keys_are_read_again_at_a_signal(
    one_loop: Loop, folder: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """From the folder that was given, in whichever the process is."""
    for module in (factory, twist):
        monkeypatch.setattr(module, "default_reactor", lambda: one_loop.reactor)
    service = made(
        *("-l", ANYWHERE, "--key", "server.key_secret", "--clients", "clients"),
        "twist_services:Echo",
    )
    before = signal.getsignal(signal.SIGHUP)

    def said(words: str) -> bool:
        return any(words in str(event.get("log_format")) for event in logged)

    async def main() -> None:
        service.startService()
        monkeypatch.chdir("/")
        add_client(folder, "bob")
        os.kill(os.getpid(), signal.SIGHUP)
        await one_loop.until(lambda: said("keys were read again"))
        assert [event["count"] for event in logged if "count" in event] == [2]
        (folder / "clients" / "bob.key").write_text("nonsense")
        os.kill(os.getpid(), signal.SIGHUP)
        await one_loop.until(lambda: said("keys stay as they were"))
        await service.stopService()
        assert signal.getsignal(signal.SIGHUP) is before

    one_loop.run(main)


SERVED = ("--listen", ANYWHERE, "twist_services:Echo")
WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no service": (("--listen", ANYWHERE), "no service was named"),
    "no address": (("twist_services:Echo",), "no address was given"),
    "no such service": ((*SERVED, "twist_services:Ecko"), "has no Ecko; did you mean Echo?"),
    "an address that is none": (("-l", "localhost:5000", *SERVED), "localhost:5000.*no scheme"),
    "a grace that is none": (("-g", "soon", *SERVED), "--grace must be a number .*, not soon"),
    "a grace below 0": (("--grace=-1", *SERVED), "grace must be a number of 0 or more, not -1"),
    "a key without clients": (("-k", "server.key_secret", *SERVED), "--clients belong together"),
    "clients without a key": (("-c", "clients", *SERVED), "--clients belong together"),
    "no such key": (("-k", "none", "-c", "clients", *SERVED), "No such file.*none"),
    "a key for all to read": (
        ("-k", "open.key_secret", "-c", "clients", *SERVED),
        "open.key_secret has .* everybody can read or write it: chmod 600 it",
    ),
    "strangers without keys": (
        ("-l", "tcp://0.0.0.0:*", "twist_services:Echo"),
        r"refusing to listen at .*\. Pass --key and --clients, or --insecure to do it",
    ),
    "a public key": (
        ("-k", "clients/alice.key", "-c", "clients", *SERVED),
        "clients/alice.key has no secret key; that is in the file NAME.key_secret",
    ),
    "no such folder": (("-k", "server.key_secret", "-c", "none", *SERVED), "none is no folder"),
    "no argument": (("-o", "twist_options:mistaken", *SERVED), "did you mean limits?"),
    "two keys": (
        ("-o", "twist_options:secure", "-k", "server.key_secret", "-c", "clients", *SERVED),
        "twist_options:secure has credentials, so pass neither --key nor --clients",
    ),
    "a publisher of two addresses": (
        ("--publisher", "tcp://127.0.0.1:5", "-l", ANYWHERE, *SERVED),
        "publisher is for one address, and there are 2",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_as_usage(what: str) -> None:
    arguments, message = WRONG[what]
    with pytest.raises(UsageError, match=message):
        made(*arguments)
