"""Fixtures of pytest for services and clients: a network in memory, or sockets of this machine.

A plugin that is off unless it is asked for, in the ``conftest.py`` of the tests' root folder ::

    pytest_plugins = ["txzmq.testing.pytest"]

or by ``pytest -p txzmq.testing.pytest``. It needs pytest 8 or later, and no other plugin. It was
tried with pytest 8.0 to 9.2.

Fixtures:

``memory_network``
    A :class:`~txzmq.testing.MemoryNetwork`: virtual time, and faults where the test is marked
    ``@pytest.mark.txzmq_faults(loss=0.1)``, with the parameters of :class:`~txzmq.testing.Faults`.
``rpc_clock``
    Its clock, a ``twisted.internet.task.Clock``.
``serve``
    A :class:`~txzmq.testing.ServeInMemory` on it: ``channel = serve(Greeter())``. At the end it
    closes all, and the test has an error if not all was given back.
``serve_sockets``
    A :class:`~txzmq.testing.ServeBySockets`, for tests that are marked ``txzmq``: each has a
    reactor of its own. Code under test finds it as ``serve_sockets.factory.reactor``.
``txzmq_seed``
    The seed of all random numbers of this run.

A test marked ``@pytest.mark.txzmq`` is an ``async def``, and takes ``memory_network``, ``serve`` or
``serve_sockets``. In memory it runs in virtual time, which passes as soon as the test and all that
it awaits wait for it; ``@pytest.mark.txzmq(within=300)`` allows it more than 60 virtual seconds.
Over sockets these are seconds, of which it has 30.

The seed of a run is random. Where a test fails, it is printed; ``pytest --txzmq-seed N`` repeats
the run.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, Final

from twisted.internet import defer, task
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txzmq import _check
from txzmq._reactor import new_reactor
from txzmq.factory import ZmqFactory
from txzmq.testing._faults import Faults
from txzmq.testing._network import MemoryNetwork
from txzmq.testing._serving import ServeBySockets, ServeInMemory

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "txzmq.testing.pytest is a plugin of pytest, which is not there: pip install 'pytest>=8'"
    ) from error

__all__ = [
    "memory_network",
    "pytest_addoption",
    "pytest_configure",
    "pytest_pyfunc_call",
    "pytest_runtest_makereport",
    "rpc_clock",
    "serve",
    "serve_sockets",
    "txzmq_seed",
]

_SEED: Final = pytest.StashKey[int]()
#: Virtual seconds that a marked test may take, and seconds of one over sockets.
_VIRTUAL: Final = 60.0
_REAL: Final = 30.0
#: Seeds are short enough to be typed.
_SEEDS: Final = 10**6

#: What ``pytest --markers`` shows.
_MARKS: Final = (
    "txzmq(within): run an async test in virtual time or, with serve_sockets, in a reactor",
    "txzmq_faults(**faults): what happens to messages of memory_network, as in Faults(...)",
)

#: A marked test.
_Test = Callable[..., Coroutine[Deferred[Any], Any, object]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--txzmq-seed``."""
    parser.getgroup("txzmq").addoption(
        "--txzmq-seed",
        type=int,
        metavar="N",
        help="the seed of networks in memory, as a failed test has printed it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the run's seed; declare the marks."""
    given: int | None = config.getoption("--txzmq-seed")
    config.stash[_SEED] = random.randrange(_SEEDS) if given is None else given
    for line in _MARKS:
        config.addinivalue_line("markers", line)


@pytest.fixture(scope="session")
def txzmq_seed(pytestconfig: pytest.Config) -> int:
    """The seed of this run: that of ``--txzmq-seed``, or a random one."""
    return pytestconfig.stash[_SEED]


@pytest.fixture
def memory_network(request: pytest.FixtureRequest, txzmq_seed: int) -> MemoryNetwork:
    """A network in memory, with the faults of the mark ``txzmq_faults``."""
    node: pytest.Item = request.node
    mark = node.get_closest_marker("txzmq_faults")
    if mark is None:
        return MemoryNetwork(Faults(seed=txzmq_seed))
    if mark.args:
        raise pytest.UsageError("the mark txzmq_faults takes its values by name, as in loss=0.1")
    try:
        return MemoryNetwork(Faults(**{"seed": txzmq_seed, **mark.kwargs}))
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"the mark txzmq_faults has a wrong value: {error}") from error


@pytest.fixture
def rpc_clock(memory_network: MemoryNetwork) -> task.Clock:
    """The virtual time of ``memory_network``."""
    return memory_network.clock


@pytest.fixture
def serve(memory_network: MemoryNetwork) -> Iterator[ServeInMemory]:
    """What serves in memory; it is closed, and nothing may be left."""
    serve = ServeInMemory(memory_network)
    yield serve
    serve.close()


@pytest.fixture
def serve_sockets() -> Iterator[ServeBySockets]:
    """What serves at sockets, for a marked test; it is closed, and nothing may be left."""
    factory = ZmqFactory(new_reactor())
    factory.guard.own()
    yield ServeBySockets(factory)
    factory.shutdown()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked ``txzmq``."""
    mark = pyfuncitem.get_closest_marker("txzmq")
    if mark is None:
        return None
    within = _within(mark)
    function: _Test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        pytest.fail("a test marked txzmq is an async def; without the mark it may be a def", False)
    given: dict[str, Any] = pyfuncitem.funcargs
    # Not what only other fixtures need.
    arguments = {name: given[name] for name in inspect.signature(function).parameters}
    sockets = given.get("serve_sockets")
    if isinstance(sockets, ServeBySockets):
        _run_over_sockets(function, arguments, sockets, _REAL if within is None else within)
        return True
    network = given.get("memory_network")
    if not isinstance(network, MemoryNetwork):
        pytest.fail("a test marked txzmq takes memory_network, serve or serve_sockets", False)
    network.result(function(**arguments), within=_VIRTUAL if within is None else within)
    return True


def _within(mark: pytest.Mark) -> float | None:
    if mark.args or not mark.kwargs.keys() <= {"within"}:
        raise pytest.UsageError(
            "the mark txzmq takes seconds by name, as in within=300, or nothing"
        )
    within: float | None = mark.kwargs.get("within")
    if within is not None:
        try:
            _check.number("within", within)
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"the mark txzmq has a wrong value: {error}") from error
    return within


def _run_over_sockets(
    test: _Test, arguments: dict[str, Any], sockets: ServeBySockets, within: float
) -> None:
    """Run a test in its reactor, and close what it has opened."""
    # Any: reactors are typed with zope interfaces.
    reactor: Any = sockets.factory.reactor
    results: list[object] = []

    async def main() -> None:
        running = Deferred.fromCoroutine(test(**arguments))
        try:
            await running.addTimeout(within, reactor)
        except BaseException as error:
            try:
                await sockets.close()
            except AssertionError:
                pass  # the test's own error says more
            if isinstance(error, defer.TimeoutError):
                raise AssertionError(f"the test has not ended within {within:g} s") from error
            raise
        await sockets.close()

    def begin() -> None:
        done = Deferred.fromCoroutine(main())
        done.addBoth(results.append).addBoth(lambda _: reactor.callLater(0, reactor.stop))

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the seed to the report of a test that failed."""
    report = yield
    if report.failed and "memory_network" in getattr(item, "fixturenames", ()):
        seed = item.config.stash[_SEED]
        report.sections.append(
            (
                "txzmq",
                f"The seed was {seed}; pytest --txzmq-seed {seed} '{item.nodeid}' repeats it.",
            )
        )
    return report
