"""Services by their names, as ``twist txzmq`` is given them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from txzmq._serve.services import LoadError, find_services, load_options, load_services
from txzmq.rpc import Server, ServerLimits
from txzmq.testing import MemoryNetwork

SERVICES = """
import asyncio
from collections.abc import Mapping
from google.protobuf.wrappers_pb2 import StringValue
from txzmq.rpc.method import Method, Service
import abc

ECHO = Method("/shop.Echo/Echo", "echo", StringValue, StringValue)

class EchoBase(abc.ABC):
    __txzmq_service__ = Service("shop.Echo", (ECHO,))

    @abc.abstractmethod
    def echo(self, request, context): ...
    @abc.abstractmethod
    def again(self, request, context): ...

class Echo(EchoBase):
    def echo(self, request, context):
        return request
    def again(self, request, context):
        return request

class Half(EchoBase):
    def echo(self, request, context):
        return request

class Needy(Echo):
    def __init__(self, database, *, retries=1):
        pass

class Failing(Echo):
    def __init__(self):
        raise OSError("no database")

class Callable(Echo):
    def __call__(self, needed):
        raise AssertionError("this is a service")

class Plain:
    pass

class Space:
    Inner = Echo

instance = Echo()
an_object = Plain()
a_callable = Callable()
number = 5
both = [Echo(), Echo()]

def one():
    return Echo()

def two():
    return [Echo(), Callable()]

def none():
    return []

def nothing():
    return None

def a_class():
    return Echo

def mixed():
    return (Echo(), Plain())

def words():
    return "Echo"

def needy(port):
    return Echo()

async def late():
    return Echo()

def failing():
    return two()[5]
"""
OPTIONS = """
from txzmq.rpc import ServerLimits
limits = {"limits": ServerLimits(running=5), "debug": True}
wrong = {"limit": 5}
foreign = {"frobnicate": 5}
numbers = {5: 5}
number = 5

def made():
    return limits

def other():
    return [1]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with modules that are forgotten afterwards."""
    files = {
        "shop_services.py": SERVICES,
        "shop_options.py": OPTIONS,
        "shop_broken.py": "x = 1\nimport shop_absent.thing\n",
        "shop_syntax.py": "x = 1\ndef f(:\n",
        "shop_raising.py": "\nx = 1 / 0\n",
        "shop_exiting.py": "import sys\nsys.exit('usage: no')\n",
        "shop_running.py": "from twisted.internet import reactor\nreactor.run()\n",
        "shop_react.py": "from twisted.internet.task import react\nreact(lambda reactor: None)\n",
        "shop_react_raising.py": (
            "from twisted.internet.task import react\nreact(lambda reactor: 1 / 0)\n"
        ),
        "shop_package/__init__.py": "",
        "shop_package/orders.py": SERVICES,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for module in [name for name in sys.modules if name.startswith("shop_")]:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("shop_services:Echo", ["Echo"]),
        ("shop_services:Space.Inner", ["Echo"]),
        ("shop_services:instance", ["Echo"]),
        ("shop_services:a_callable", ["Callable"]),
        ("shop_services:one", ["Echo"]),
        ("shop_services:two", ["Echo", "Callable"]),
        ("shop_package.orders:Echo", ["Echo"]),
    ],
)
def test_a_name_stands_for_services(name: str, classes: list[str]) -> None:
    assert [type(service).__name__ for service in load_services([name])] == classes


def test_services_come_in_the_order_of_their_names_and_can_be_served() -> None:
    services = load_services(["shop_services:one", "txzmq.rpc.health:Health"])
    assert [type(service).__name__ for service in services] == ["Echo", "Health"]
    Server(MemoryNetwork(), services[:1]).listen("inproc://services")


def test_services_are_made_when_the_function_is_called_that_finding_them_returns() -> None:
    with pytest.raises(LoadError, match="does not implement again"):
        find_services(["shop_services:one", "shop_services:Half"])
    make = find_services(["shop_services:failing", "shop_services:Echo"])
    with pytest.raises(LoadError, match="raised IndexError"):
        make()
    make = find_services(["shop_services:Echo", "shop_services:instance"])
    (first, same), (second, again) = make(), make()
    assert first is not second
    assert same is again


RUNS_REACTOR = re.escape(
    "importing it runs the reactor; put react(main) or reactor.run() below "
    'if __name__ == "__main__":'
)
ONE_OF = "an instance of a subclass of a generated <Service>Base"
WRONG = {
    "shop_services": "it must be package.module:Name",
    "shop_services.Echo": "did you mean shop_services:Echo?",
    "shop_services:": "it must be package.module:Name",
    ":Echo": "it must be package.module:Name",
    "shop services:Echo": "it must be package.module:Name",
    ".shop_services:Echo": "it must be package.module:Name",
    "shop_services.py:Echo": "names a file, not a module; did you mean shop_services:Echo?",
    "./shop_package/orders.py:Echo": "did you mean shop_package.orders:Echo?",
    "shop_service:Echo": "there is no module shop_service; did you mean shop_services?",
    "shop_package.order:Echo": "no module shop_package.order; did you mean orders?",
    "shop_pakage.orders:Echo": "no module shop_pakage; did you mean shop_package?",
    "shop_services.json:Echo": re.escape("there is no module shop_services.json") + "$",
    "shop_services:Ecko": "shop_services has no Ecko; did you mean Echo?",
    "shop_services:Space.Iner": "shop_services.Space has no Iner; did you mean Inner?",
    "shop_services:Wholly": "shop_services has no Wholly$",
    "shop_broken:Echo": r"ModuleNotFoundError: No module named 'shop_absent' \(.*py, line 2\)",
    "shop_syntax:Echo": r"SyntaxError: .* \(.*shop_syntax.py, line 2\)",
    "shop_raising:Echo": r"raised ZeroDivisionError: division by zero \(.*py, line 2\)",
    "shop_exiting:Echo": r"importing it raised SystemExit: usage: no \(.*py, line 2\)",
    "shop_running:Echo": RUNS_REACTOR,
    "shop_react:Echo": RUNS_REACTOR,
    "shop_react_raising:Echo": RUNS_REACTOR,
    "shop_services:EchoBase": "does not implement again, echo",
    "shop_services:Half": "Half does not implement again$",
    "shop_services:Needy": r"is called without arguments, and needs \(database, \*, retries\)",
    "shop_services:Failing": r"Failing\(\) raised OSError: no database \(.*py, line \d+\)",
    "shop_services:Plain": "is a class, and no subclass of a generated <Service>Base",
    "shop_services:an_object": f"must be {ONE_OF}, not an object of type Plain",
    "shop_services:number": f"must be {ONE_OF}, not 5",
    "shop_services:both": f"must be {ONE_OF}, not an object of type list",
    "shop_services:none": r"none\(\) returned no service",
    "shop_services:nothing": rf"nothing\(\) must be {ONE_OF}, not None",
    "shop_services:words": rf"words\(\) must be {ONE_OF}, not 'Echo'",
    "shop_services:a_class": r"not the class Echo; make an instance, Echo\(\)",
    "shop_services:mixed": r"mixed\(\)\[1\] must be .*, not an object of type Plain",
    "shop_services:needy": r"is called without arguments, and needs \(port\)",
    "shop_services:late": "must be a plain function, not an async def",
    "shop_services:failing": r"failing\(\) raised IndexError: .* \(.*py, line \d+\)",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_served_is_told(name: str) -> None:
    with pytest.raises(LoadError, match=WRONG[name]) as caught:
        load_services([name])
    assert str(caught.value).startswith(name)


def test_what_the_users_code_raised_is_the_cause() -> None:
    with pytest.raises(LoadError) as caught:
        load_services(["shop_raising:Echo"])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_current_folder_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "shop_services.py").write_text(SERVICES.replace("Echo()", "Callable()"))
    sys.path.insert(0, str(folder))
    monkeypatch.chdir(folder / "below")
    load_services(["shop_services:one"])
    load_services(["shop_services:one"])
    assert sys.path[:2] == [os.getcwd(), str(folder)]
    module = sys.modules["shop_services"]
    assert module.__file__ == str(folder / "below" / "shop_services.py")


@pytest.mark.parametrize("name", ["limits", "made"])
def test_options_are_arguments_of_a_server(name: str) -> None:
    options = load_options(f"shop_options:{name}")
    assert options == {"limits": ServerLimits(running=5), "debug": True}


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "wrong": "'limit' is no argument of a server; did you mean limits?",
        "foreign": "'frobnicate' is no argument of a server; there are interceptors, limits, ",
        "numbers": "5 is no argument of a server",
        "number": "must be a mapping, or a function that returns one, not 5",
        "other": r"\(\) must return a mapping, not an object of type list",
        "mad": "shop_options has no mad; did you mean made?",
    }.items(),
)
def test_wrong_options_are_told(name: str, message: str) -> None:
    with pytest.raises(LoadError, match=f"^shop_options:{name}.*{message}"):
        load_options(f"shop_options:{name}")
