"""``--init``: a first proto, with a server, a client and a test of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Final

from txzmq_codegen.names import KEYWORDS, module_part, snake
from txzmq_codegen.output import Changes, write
from txzmq_codegen.problems import Position, Problem, Problems, UsageError

__all__ = ["DEFAULT_SERVICE", "check_service", "commands", "starter", "write_starter"]

DEFAULT_SERVICE: Final = "Hello"

_PROTO: Final = """\
syntax = "proto3";

package $package;

// Greets people.
service $Service {
  // Greets one of them by name.
  rpc SayHello(SayHelloRequest) returns (SayHelloResponse);
}

message SayHelloRequest {
  string name = 1;
}

message SayHelloResponse {
  string text = 1;
}
"""

_SERVER: Final = '''\
"""Serves $package.$Service until Ctrl-C: python server.py [ENDPOINT]"""

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from generated.$module_pb2 import SayHelloRequest, SayHelloResponse
from generated.$module_txzmq import ${Service}Base
from txzmq import ZmqFactory
from txzmq.rpc import Context, InvalidArgument, Server


class $Service(${Service}Base):
    def say_hello(self, request: SayHelloRequest, context: Context) -> SayHelloResponse:
        if not request.name:
            raise InvalidArgument("whom shall I greet?")
        return SayHelloResponse(text=f"Hello, {request.name}!")


def main(reactor: Any, endpoint: str = "tcp://127.0.0.1:5555") -> Deferred[None]:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    server = Server(factory, [$Service()])
    print("listening on", server.listen(endpoint), flush=True)
    return Deferred()  # runs until Ctrl-C


if __name__ == "__main__":
    react(main, sys.argv[1:])
'''

_CLIENT: Final = '''\
"""Calls $package.$Service: python client.py [ENDPOINT]"""

import sys
from typing import Any

from twisted.internet.task import react

from generated.$module_pb2 import SayHelloRequest
from generated.$module_txzmq import ${Service}Client
from txzmq import ZmqFactory
from txzmq.rpc import Channel, RpcError


async def main(reactor: Any, endpoint: str = "tcp://127.0.0.1:5555") -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    client = ${Service}Client(Channel(factory, endpoint))

    response = await client.say_hello(SayHelloRequest(name="World"), timeout=5)
    print(response.text)
    try:
        await client.say_hello(SayHelloRequest(), timeout=5)
    except RpcError as error:
        print(error)


if __name__ == "__main__":
    react(main, sys.argv[1:])
'''

_TEST: Final = '''\
"""Tests $package.$Service in memory: without sockets, and without waiting."""

import pytest

from generated.$module_pb2 import SayHelloRequest
from generated.$module_txzmq import ${Service}Client
from server import $Service
from txzmq.rpc import Channel, InvalidArgument, Server
from txzmq.testing import MemoryNetwork


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def client(network: MemoryNetwork) -> ${Service}Client:
    server = Server(network, [$Service()])
    return ${Service}Client(Channel(network, server.listen("inproc://server")))


def test_it_greets_by_name(network: MemoryNetwork, client: ${Service}Client) -> None:
    response = network.result(client.say_hello(SayHelloRequest(name="World")))
    assert response.text == "Hello, World!"


def test_it_needs_a_name(network: MemoryNetwork, client: ${Service}Client) -> None:
    with pytest.raises(InvalidArgument, match="whom shall I greet"):
        network.result(client.say_hello(SayHelloRequest()))
'''

_PYPROJECT: Final = """\
[dependency-groups]
dev = ["txzmq[codegen]>=2.0.0rc1", "mypy", "pyright[nodejs]", "pytest"]

[tool.txzmq.codegen]
protos = ["protos"]

[tool.mypy]
strict = true
explicit_package_bases = true  # also where the folder lies in a package
files = ["*.py", "generated"]

[tool.pyright]
typeCheckingMode = "strict"

[tool.pytest.ini_options]
pythonpath = ["."]
"""

_README: Final = """\
# $Service

`$proto` describes the service. `server.py` serves it, `client.py` calls it.

```sh
pip install --upgrade pip  # once, in an environment of this project: --group needs pip 25.1
pip install --group dev
python -m txzmq.codegen    # writes generated/, and again after each change of a proto
python -m pytest           # tests the service in memory
mypy
pyright
python server.py           # serves until Ctrl-C
python client.py           # in a second terminal
```
"""

#: Names that the files have for something else.
_TAKEN: Final = frozenset(
    "Any Channel Context Deferred InvalidArgument MemoryNetwork RpcError SayHelloRequest "
    "SayHelloResponse Server ZmqFactory".split()
)
_CAMEL_CASE: Final = re.compile(r"[A-Z][A-Za-z0-9]*")


def check_service(name: str) -> None:
    """Check that a starter's service may have this name.

    :raises UsageError: if it may not.
    """
    if not _CAMEL_CASE.fullmatch(name):
        what = f"--service {name!r}: a service's name is in CamelCase, of ASCII letters and digits"
        raise UsageError(what, _advice(name))
    if name in _TAKEN or name in KEYWORDS:
        what = f"--service {name!r}: Python, or the code around the service, has this name already"
        raise UsageError(what, f"choose another one, for instance {name}Service")
    if name.startswith("Test"):
        what = f"--service {name!r}: pytest takes names that begin with Test for tests"
        raise UsageError(what, _advice(""))


def _advice(name: str) -> str:
    parts = re.findall(r"[A-Za-z0-9]+", name)
    near = "".join(part[0].upper() + part[1:] for part in parts)
    if not _CAMEL_CASE.fullmatch(near) or near in _TAKEN or near in KEYWORDS or near[:4] == "Test":
        return "for instance: --service Orders"
    return f"did you mean {near}?"


def starter(service: str) -> dict[str, str]:
    """The files of a starter, by their names with slashes."""
    name = snake(service)
    folder = module_part(name)
    names = {
        "Service": service,
        "package": f"{name}.v1",
        "proto": f"protos/{name}/v1/{name}.proto",
        "module_pb2": f"{folder}.v1.{name}_pb2",
        "module_txzmq": f"{folder}.v1.{name}_txzmq",
    }
    files = {
        "README.md": _README,
        "client.py": _CLIENT,
        names["proto"]: _PROTO,
        "pyproject.toml": _PYPROJECT,
        "server.py": _SERVER,
        f"test_{name}.py": _TEST,
    }
    return {file: Template(text).substitute(names) for file, text in files.items()}


def write_starter(folder: Path, service: str) -> tuple[str, ...]:
    """Write a starter into *folder*, which need not exist: all of it, or nothing.

    :return: the names of the files.
    :raises Problems: if something is in the way of one of them.
    :raises OSError: if one cannot be written.
    """
    files = starter(service)
    names = tuple(files)
    problems = tuple(dict.fromkeys(_in_the_way(folder, names)))
    if problems:
        raise Problems(problems)
    write(folder, files, Changes(names, (), (), 0), prune=False)
    return names


def _in_the_way(folder: Path, names: tuple[str, ...]) -> Iterator[Problem]:
    for name in names:
        path = folder / name
        no_folder = next(filter(_is_no_folder, reversed(path.parents)), None)
        if no_folder is not None:
            yield _problem(no_folder, "this is no folder, and one is needed here")
        elif os.path.lexists(path):
            yield _problem(path, "this is there already, and is not overwritten")


def _is_no_folder(path: Path) -> bool:
    return os.path.lexists(path) and not path.is_dir()


def _problem(path: Path, what: str) -> Problem:
    return Problem(Position(str(path)), what, "name another folder: --init FOLDER")


def commands() -> tuple[str, ...]:
    """What to run next, in the folder."""
    return (
        "python -m txzmq.codegen",
        "python server.py",
        "python client.py    # in a second terminal",
    )
