"""The sockets of a supervisor, and what systemd passes and is told."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
from twisted.internet.error import CannotListenError

from tests.serve.fakes import House
from tests.support import captured_log
from txzmq._serve.control import KeysReloaded
from txzmq._serve.running import Leftovers
from txzmq._serve.sockets import ListeningSocket, open_all, open_socket
from txzmq._serve.systemd import Systemd, ToSystemd

ANY_PORT = "tcp://127.0.0.1:*"


def connects(address: str) -> bool:
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://").replace("@", "\0")
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(path) == 0
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), 5):
            return True
    except ConnectionRefusedError:
        return False


# -- listening ----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [ANY_PORT, "tcp://localhost:0", "tcp://[::1]:*"])
def test_connections_wait_while_nobody_accepts_them(address: str) -> None:
    opened = open_socket(address)
    assert opened.address.rpartition(":")[0] == address.rpartition(":")[0]
    assert connects(opened.address)
    assert connects(opened.address)
    opened.close()
    assert not connects(opened.address)


def test_all_interfaces_by_ipv6_are_those_by_ipv4_too() -> None:
    opened = open_socket("tcp://[::]:*")
    assert connects(opened.address.replace("[::]", "127.0.0.1"))
    assert connects(opened.address.replace("[::]", "[::1]"))
    opened.close()


def test_a_port_in_use_is_said_and_no_other_is_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(CannotListenError, match=f"cannot listen at {taken}: port .* in use"):
            open_all([ANY_PORT, taken], {})


def test_a_host_that_is_none_of_this_machine_is_said() -> None:
    with pytest.raises(CannotListenError, match="is no address of this machine"):
        open_socket("tcp://192.0.2.1:5000")
    with pytest.raises(CannotListenError, match="eth0 is no IP address"):
        open_socket("tcp://eth0:5000")


def test_a_path_is_taken_from_nobody_and_removed_in_the_end(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/serve"
    opened = open_socket(address)
    assert connects(address)
    with pytest.raises(CannotListenError, match="a server listens there"):
        open_socket(address)
    opened.close()
    assert os.listdir(tmp_path) == []


def test_a_path_that_is_anothers_by_now_is_not_removed(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/serve"
    first = open_socket(address)
    os.unlink(f"{tmp_path}/serve")
    second = open_socket(address)
    first.close()
    assert connects(address)
    second.close()
    assert os.listdir(tmp_path) == []
    third = open_socket(address)
    os.unlink(f"{tmp_path}/serve")
    (tmp_path / "serve").write_text("notes")
    third.close()
    assert (tmp_path / "serve").read_text() == "notes"


def test_what_a_server_has_left_at_a_path_is_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(f"{tmp_path}/serve")
    opened = open_socket(f"ipc://{tmp_path}/serve")
    assert connects(opened.address)
    opened.close()


def test_a_file_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "serve").write_text("notes")
    with pytest.raises(CannotListenError, match="a regular file is there"):
        open_socket(f"ipc://{tmp_path}/serve")
    with pytest.raises(CannotListenError, match="there is no folder"):
        open_socket(f"ipc://{tmp_path}/none/serve")


def test_a_name_without_a_file(tmp_path: Path) -> None:
    address = f"ipc://@txzmq-{tmp_path.name}-{os.getpid()}"
    opened = open_socket(address)
    assert connects(address)
    opened.close()
    assert not connects(address)


# -- what systemd passes --------------------------------------------------------------------------


def passed_port() -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


def passed_path(path: str) -> int:
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(path)
    opened.listen()
    return opened.detach()


def close_all(opened: list[ListeningSocket]) -> None:
    for one in opened:
        one.close()


def test_sockets_are_passed(tmp_path: Path) -> None:
    path = f"ipc://{tmp_path}/serve"
    port, ipc = passed_port(), passed_path(f"{tmp_path}/serve")
    opened = open_all(["systemd:ipc", "systemd:port"], {"port": [port], "ipc": [ipc]})
    ipc_socket, port_socket = opened
    assert ipc_socket.address == path
    assert port_socket.address.startswith("tcp://127.0.0.1:")
    close_all(opened)
    assert os.listdir(tmp_path) == ["serve"], "the path is systemd's"


def test_all_that_is_passed_and_an_address_besides() -> None:
    first, second = passed_port(), passed_port()
    opened = open_all(["systemd", ANY_PORT], {"a": [first], "b": [second]})
    assert [one.fileno() for one in opened[:2]] == [first, second]
    assert len(opened) == 3
    close_all(opened)


def test_what_is_passed_is_for_one_process_each() -> None:
    for given in (["systemd", "systemd:a"], ["systemd:a", "systemd"], ["systemd:a", "systemd:a"]):
        first, second = passed_port(), passed_port()
        with pytest.raises(ValueError, match="is given twice"):
            open_all(given, {"a": [first], "b": [second]})
        for fd in (first, second):
            with contextlib.suppress(OSError):
                os.close(fd)


def test_what_is_passed_must_be_a_socket_that_listens() -> None:
    with pytest.raises(ValueError, match="systemd has passed no socket"):
        open_all(["systemd"], {})
    port = passed_port()
    with pytest.raises(ValueError, match="FileDescriptorName=grpc, but port"):
        open_all(["systemd:grpc"], {"port": [port]})
    os.close(port)
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="no socket"):
        open_all(["systemd"], {"x": [reader]})
    os.close(reader)
    os.close(writer)
    bound = socket.socket()
    with pytest.raises(ValueError, match="does not listen"):
        open_all(["systemd"], {"x": [bound.detach()]})


def test_what_systemd_says_by_the_environment_is_for_this_process_only() -> None:
    environment = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": "3",
        "LISTEN_FDNAMES": "grpc:more:grpc",
        "NOTIFY_SOCKET": "/run/nobody",
        "WATCHDOG_USEC": "3000000",
        "PATH": "/bin",
    }
    systemd = Systemd(environment)
    assert systemd.passed == {"grpc": [3, 5], "more": [4]}
    assert systemd.watchdog == 3
    assert environment == {"PATH": "/bin"}


def test_sockets_without_names_have_systemds_word() -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}
    assert Systemd(environment).passed == {"unknown": [3, 4]}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "-1"},
        {"LISTEN_PID": str(os.getpid())},
        {"WATCHDOG_PID": "1", "WATCHDOG_USEC": "1000"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
def test_what_is_for_another_process_is_nothing(environment: dict[str, str]) -> None:
    systemd = Systemd(environment)
    assert systemd.passed == {}
    assert systemd.watchdog == 0
    systemd.tell(READY="1")


# -- what systemd is told ------------------------------------------------------------------------


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, *, is_abstract: bool) -> None:
    name = f"@txzmq-{tmp_path.name}-{os.getpid()}" if is_abstract else f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0"))
        systemd = Systemd({"NOTIFY_SOCKET": name})
        systemd.tell(READY="1", STATUS="4 of 4 ready")
        assert receiver.recv(1000) == b"READY=1\nSTATUS=4 of 4 ready"
        systemd.reloads("rolling")
        first, second, third = receiver.recv(1000).decode().splitlines()
        assert (first, third) == ("RELOADING=1", "STATUS=rolling")
        assert second.startswith("MONOTONIC_USEC=")


def test_a_systemd_that_does_not_listen_is_logged_once(tmp_path: Path) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": f"{tmp_path}/none"})
    with captured_log() as log:
        systemd.tell(READY="1")
        systemd.tell(READY="1")
    assert len(log.warnings()) == 1


class Told(Systemd):
    """What systemd is told, but for the words of its status."""

    def __init__(self) -> None:
        super().__init__({"NOTIFY_SOCKET": "@nobody"})
        self.fields: list[str] = []

    def tell(self, **fields: str) -> None:
        self.fields += [name for name in fields if name not in ("STATUS", "MONOTONIC_USEC")]


def test_systemd_is_told_what_the_supervisor_does() -> None:
    systemd = Told()
    house = House(1, also=[ToSystemd(systemd)])
    assert systemd.fields == []
    house.all_ready()
    assert systemd.fields == ["READY"]
    house.supervisor.roll()
    house.all_ready()
    assert systemd.fields == ["READY", "RELOADING"]
    house.obey()
    assert systemd.fields == ["READY", "RELOADING", "READY"]
    house.supervisor.reload_keys()
    house.alive[0].says(KeysReloaded(error="", clients=1))
    assert systemd.fields[3:] == ["RELOADING", "READY"]
    house.alive[0].exits("signal SIGKILL")
    house.supervisor.reload_keys()  # nobody is there, and systemd waits for an answer
    assert systemd.fields[5:] == ["RELOADING", "READY"]
    house.supervisor.stop()
    assert systemd.fields[7:] == ["STOPPING"]


# -- what workers leave ---------------------------------------------------------------------------


def test_paths_of_workers_that_were_killed_are_removed(tmp_path: Path) -> None:
    opened = open_socket(f"ipc://{tmp_path}/serve")
    house = House(1, also=[Leftovers([opened])])
    house.all_ready()
    (worker,) = house.alive
    for pid in (worker.pid, worker.pid + 1):
        (tmp_path / f"serve.{pid}.streams").touch()
    worker.exits("signal SIGKILL")
    assert sorted(os.listdir(tmp_path)) == ["serve", f"serve.{worker.pid + 1}.streams"]
    opened.close()
