"""The plugin of pytest, as users run it: in a process of its own, where warnings are errors."""

from __future__ import annotations

import re
from pathlib import Path

from tests.testing.support import run, run_tests


def test_services_are_served_in_memory_and_time_is_virtual(tmp_path: Path) -> None:
    status, output = run_tests(
        tmp_path,
        """
def test_a_call(serve: ServeInMemory) -> None:
    channel = serve(Echo())
    reply = serve.network.result(channel.unary_unary(ECHO, text("x")))
    assert reply.value == "x"
    other = serve.connect(channel.target)
    assert serve.network.result(other.unary_unary(ECHO, text("y"))).value == "y"
    assert len(serve.servers) == 1

@pytest.mark.txzmq
async def test_a_stream(serve: ServeInMemory) -> None:
    stream = serve(Streaming()).unary_stream(COUNT, text("3"))
    assert [item.value async for item in stream] == ["0", "1", "2"]

@pytest.mark.txzmq(within=3600)
async def test_a_deadline(serve: ServeInMemory, rpc_clock: Any) -> None:
    with pytest.raises(Exception, match="time was up"):
        await serve(Waiting()).unary_unary(ECHO, text("x"), timeout=3000)
    assert 3000 <= rpc_clock.seconds() < 3001
""",
    )
    assert (status, "3 passed" in output) == (0, True), output


def test_services_are_served_at_sockets(tmp_path: Path) -> None:
    status, output = run_tests(
        tmp_path,
        """
@pytest.mark.txzmq
@pytest.mark.parametrize("value", ["x", "y"])
async def test_a_call(serve_sockets: ServeBySockets, value: str) -> None:
    channel = serve_sockets(Echo(), Streaming())
    assert (await channel.unary_unary(ECHO, text(value))).value == value
    assert len([item async for item in channel.unary_stream(COUNT, text("3"))]) == 3

@pytest.mark.txzmq(within=0.1)
async def test_too_slow(serve_sockets: ServeBySockets) -> None:
    await serve_sockets(Waiting()).unary_unary(ECHO, text("x"))

@pytest.mark.txzmq
async def test_of_its_own_fault(serve_sockets: ServeBySockets) -> None:
    serve_sockets(Echo())
    assert 1 == 2
""",
    )
    assert status == 1, output
    assert "2 failed, 2 passed" in output
    assert "AssertionError: the test has not ended within 0.1 s" in output
    assert "assert 1 == 2" in output


def test_what_is_left_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    status, output = run_tests(
        tmp_path,
        """
def test_stubborn(serve: ServeInMemory) -> None:
    call = serve(Stubborn()).unary_unary(ECHO, text("x"))
    call.addErrback(lambda _: None)
    serve.network.run()

def test_a_timer(serve: ServeInMemory) -> None:
    serve(Echo())
    serve.network.clock.callLater(60, print)

def test_nothing(serve: ServeInMemory) -> None:
    call = serve(Waiting()).unary_unary(ECHO, text("x"))
    call.addErrback(lambda _: None)
    serve.network.run()
""",
    )
    assert status == 1, output
    assert "3 passed, 2 errors" in output
    assert "a call of /test.Echo/Echo: its handler was cancelled and has not ended;" in output
    assert "calls are left in the network's clock" in output
    assert "builtins.print, in 55 s" in output


RANDOM = """
@pytest.mark.txzmq_faults(loss=0.5)
def test_it(serve: ServeInMemory, txzmq_seed: int) -> None:
    assert serve.network.faults.loss == 0.5
    assert serve.network.faults.seed == txzmq_seed
    assert 0, f"drawn {serve.network.random.random()}"
"""


def test_the_seed_of_a_failure_is_printed_and_repeats_it(tmp_path: Path) -> None:
    status, output = run_tests(tmp_path, RANDOM)
    assert status == 1
    printed = re.search(r"pytest (--txzmq-seed \d+) 'test_it.py::test_it' repeats it", output)
    drawn = re.search(r"drawn [\d.]+", output)
    assert printed is not None, output
    assert drawn is not None
    _, again = run_tests(tmp_path, RANDOM, *printed[1].split())
    assert drawn[0] in again
    _, other = run_tests(tmp_path, RANDOM, "--txzmq-seed", "1000001")
    assert drawn[0] not in other
    assert "The seed was 1000001" in other


def test_no_seed_is_printed_of_a_test_without_a_network(tmp_path: Path) -> None:
    _, output = run_tests(tmp_path, "def test_it() -> None:\n    assert 0\n")
    assert "1 failed" in output
    assert "The seed was" not in output


def test_a_plugin_that_is_not_asked_for_does_nothing(tmp_path: Path) -> None:
    status, output = run_tests(
        tmp_path,
        """
def test_it(pytestconfig: pytest.Config) -> None:
    import sys
    assert "txzmq.testing.pytest" not in sys.modules
    assert not pytestconfig.pluginmanager.hasplugin("txzmq.testing.pytest")

def test_fixture(memory_network: object) -> None:
    ...
""",
        plugin=False,
    )
    assert status == 1
    assert "1 passed, 1 error" in output
    assert "fixture 'memory_network' not found" in output


def test_a_conftest_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["txzmq.testing.pytest"]\n')
    tests = "def test_it(memory_network: MemoryNetwork) -> None:\n    memory_network.advance(1)\n"
    status, output = run_tests(tmp_path, tests, plugin=False)
    assert (status, "1 passed" in output) == (0, True), output


#: What is wrong with a test, and what is said of it.
MISTAKES = [
    ("@pytest.mark.txzmq\ndef test_0(serve): ...", "a test marked txzmq is an async def"),
    ("@pytest.mark.txzmq\nasync def test_1(): ...", "takes memory_network, serve or"),
    ("@pytest.mark.txzmq(5)\nasync def test_2(serve): ...", "txzmq takes seconds by name"),
    ("@pytest.mark.txzmq(with_in=5)\nasync def test_3(serve): ...", "takes seconds by name"),
    ("@pytest.mark.txzmq(within='5')\nasync def test_4(serve): ...", "a wrong value: within"),
    ("@pytest.mark.txzmq_faults(los=1)\ndef test_5(serve): ...", "'los'"),
    ("@pytest.mark.txzmq_faults(loss=2)\ndef test_6(serve): ...", "a wrong value: loss must be"),
    ("@pytest.mark.txzmq_faults(2)\ndef test_7(serve): ...", "takes its values by name"),
    (
        "@pytest.mark.txzmq\nasync def test_8(serve):\n    await Deferred()",
        "the coroutine has not ended within 60 virtual seconds; it waits in test_8 (",
    ),
]


def test_a_mistake_is_told(tmp_path: Path) -> None:
    status, output = run_tests(tmp_path, "\n\n".join(test for test, _ in MISTAKES))
    assert status == 1, output
    for _, said in MISTAKES:
        assert said in output
    assert "passed" not in output


def test_without_pytest_the_import_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['pytest'] = None; import txzmq.testing.pytest"
    status, output = run(tmp_path, "-c", program)
    assert status == 1
    assert "ImportError: txzmq.testing.pytest is a plugin of pytest, which is not there" in output
