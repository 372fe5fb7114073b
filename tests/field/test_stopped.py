"""Servers that are there and do nothing, which the kernel does not tell; by reliability's rows."""

from __future__ import annotations

import time

from tests.field.support import QUICK, History
from tests.programs import Program, running
from tests.rpc.service import ECHO, text
from tests.support import Logged, Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, ConnectivityState, Count, DeadlineExceeded, Unavailable

HOUR = 3600
ADDRESS = "tcp://127.0.0.1:*"


def test_n7_a_stopped_server_is_told_is_not_used_and_comes_back(one_loop: Loop) -> None:
    async def main() -> None:
        with running("-m", "tests.field.server", ADDRESS) as server:
            factory = ZmqFactory(one_loop.reactor)
            endpoint = server.expect("listening at (.*)")[1]
            calls = History(one_loop, Channel(factory, endpoint, liveness=QUICK), factory)
            calls.call_many(20, answered=False, timeout=HOUR)
            await calls.call(timeout=HOUR)
            for number in range(20):
                server.expect(f"executing {number}")
            server.stop()
            await calls.all_ended()
            calls.check()
            calls.check_lost(20)
            assert all("stopped answering" in error.message for error in calls.errors.values())
            assert calls.channel.counters[Count.STOPPED_ANSWERING] == 1
            # Its kernel accepts connections all the while, and that is not enough to get calls.
            states: set[ConnectivityState] = set()
            for _ in range(20):
                await calls.call(timeout=HOUR)
                states.add(calls.channel.state)
                await one_loop.sleep(0.05)
            assert states == {ConnectivityState.TRANSIENT_FAILURE}
            unsent = [error for number, error in calls.errors.items() if number > 20]
            assert len(unsent) == 20
            assert all("was not sent" in error.message for error in unsent)
            server.go_on()
            await calls.call_until_answered()
            for number in range(20):
                server.expect(f"{number}: the client has gone")
            calls.check()
            calls.close()

    one_loop.run(main)


def test_n7_a_server_that_is_stopped_when_a_client_comes_is_never_ready(one_loop: Loop) -> None:
    async def main() -> None:
        with running("-m", "tests.field.server", ADDRESS) as server:
            factory = ZmqFactory(one_loop.reactor)
            endpoint = server.expect("listening at (.*)")[1]
            server.stop()
            calls = History(one_loop, Channel(factory, endpoint, liveness=QUICK), factory)
            waiting = calls.call(timeout=HOUR, wait_for_ready=True)
            await one_loop.sleep(0.5)
            assert calls.channel.state is not ConnectivityState.READY
            server.go_on()
            await waiting
            assert calls.answers == {0: "0"}
            calls.check()
            calls.close()

    one_loop.run(main)


def test_n8_a_server_whose_reactor_is_blocked_is_told_and_the_other_serves(one_loop: Loop) -> None:
    async def main() -> None:
        with (
            running("-m", "tests.field.server", ADDRESS) as blocked,
            running("-m", "tests.field.server", ADDRESS) as other,
        ):
            factory = ZmqFactory(one_loop.reactor)
            endpoints = [program.expect("listening at (.*)")[1] for program in (blocked, other)]
            victim = Channel(factory, endpoints[0])
            calls = History(one_loop, Channel(factory, endpoints, liveness=QUICK), factory)
            await one_loop.until(
                lambda: all(e.state is ConnectivityState.READY for e in calls.channel.endpoints)
            )
            blocking = victim.unary_unary(ECHO, text("block 5"), timeout=HOUR)
            await one_loop.sleep(0.1)  # it is sent
            blocked.expect("blocked for 5")
            calls.call_many(20, timeout=HOUR)  # half of them to each
            await calls.all_ended()
            calls.check()
            assert len(calls.answers) == len(calls.errors) == 10
            calls.check_lost(10)
            assert all("stopped answering" in error.message for error in calls.errors.values())
            for _ in range(100):
                await calls.call(timeout=HOUR)  # its I/O thread answers, and it gets none
            assert len(calls.answers) == 110
            await blocking
            await one_loop.until(
                lambda: all(e.state is ConnectivityState.READY for e in calls.channel.endpoints)
            )
            calls.call_many(20, timeout=HOUR)
            await calls.all_ended()
            assert len(calls.answers) == 130
            calls.check()
            victim.close()
            calls.close()

    one_loop.run(main)


def test_n8_a_client_whose_own_reactor_was_blocked_blames_no_server(
    one_loop: Loop, logged: Logged
) -> None:
    async def main() -> None:
        with running("-m", "tests.field.server", ADDRESS) as server:
            factory = ZmqFactory(one_loop.reactor)
            endpoint = server.expect("listening at (.*)")[1]
            calls = History(one_loop, Channel(factory, endpoint, liveness=QUICK), factory)
            calls.call_many(20, answered=False, timeout=HOUR)
            await calls.call(timeout=HOUR)
            time.sleep(2.5)  # what is tested: this reactor stands still, longer than servers may
            await one_loop.sleep(0.5)
            calls.call_many(20, timeout=HOUR)
            await one_loop.until(lambda: len(calls.answers) == 21)
            assert not calls.errors
            assert not calls.channel.counters[Count.STOPPED_ANSWERING]
            server.kill()
            await calls.all_ended()
            calls.check()
            calls.check_lost(20)
            calls.close()

    one_loop.run(main)
    blocked = [e for e in logged if "the reactor was blocked" in (e.get("log_format") or "")]
    assert len(blocked) == 1
    assert blocked[0]["late"] > 2


async def lie(calls: History, loop: Loop) -> None:
    """Make calls whose time is up while the server does nothing, and others that have time."""
    calls.call_many(200, answered=False, timeout=1)
    calls.call_many(20, timeout=HOUR)
    await loop.until(lambda: len(calls.errors) == 200)
    assert all(isinstance(error, DeadlineExceeded) for error in calls.errors.values())


async def check_what_lay(calls: History, server: Program) -> None:
    """No handler saw a call whose time was up, and each of the others was answered."""
    await calls.all_ended()
    assert len(calls.answers) == 21
    # A slow machine may stand still once more, and then refuses this one, too.
    later = 221
    await calls.call(timeout=1, answered=False, wait_for_ready=True)
    while not server.has_said(f"executing {later}"):
        later += 1
        await calls.call(timeout=1, answered=False, wait_for_ready=True)
    calls.check()
    calls.close()
    executed = [line for line in server.output if line.startswith("executing")]
    assert set(executed) <= {f"executing {number}" for number in range(221, later + 1)}


def test_n12_what_lay_in_the_socket_of_a_stopped_server_is_not_executed(one_loop: Loop) -> None:
    async def main() -> None:
        with running("-m", "tests.field.server", ADDRESS, "--log") as server:
            factory = ZmqFactory(one_loop.reactor)
            endpoint = server.expect("listening at (.*)")[1]
            calls = History(one_loop, Channel(factory, endpoint), factory)
            await calls.call(timeout=HOUR)
            server.stop()
            await lie(calls, one_loop)
            server.go_on()
            server.expect(".*the reactor stood still for up to .* s: the process was stopped, .*")
            await check_what_lay(calls, server)

    one_loop.run(main)


def test_n12_what_lay_in_the_socket_while_a_handler_blocked_is_not_executed(
    one_loop: Loop,
) -> None:
    async def main() -> None:
        with running("-m", "tests.field.server", ADDRESS, "--log") as server:
            factory = ZmqFactory(one_loop.reactor)
            endpoint = server.expect("listening at (.*)")[1]
            calls = History(one_loop, Channel(factory, endpoint), factory)
            await calls.call(timeout=HOUR)
            victim = Channel(factory, endpoint)
            blocking = victim.unary_unary(ECHO, text("block 4"), timeout=HOUR)
            await one_loop.sleep(0.1)  # it is sent
            server.expect("blocked for 4")
            await lie(calls, one_loop)
            await blocking
            server.expect(".*the reactor was blocked for 4.. s by the handler of /test.Echo/Echo")
            victim.close()
            await check_what_lay(calls, server)

    one_loop.run(main)


def test_n7_what_a_stopped_server_has_is_not_sent_to_another(one_loop: Loop) -> None:
    """At most once: calls that may have been executed are not made again."""

    async def main() -> None:
        with (
            running("-m", "tests.field.server", ADDRESS) as one,
            running("-m", "tests.field.server", ADDRESS) as two,
        ):
            factory = ZmqFactory(one_loop.reactor)
            endpoints = [program.expect("listening at (.*)")[1] for program in (one, two)]
            calls = History(one_loop, Channel(factory, endpoints, liveness=QUICK), factory)
            await one_loop.until(
                lambda: all(e.state is ConnectivityState.READY for e in calls.channel.endpoints)
            )
            one.stop()
            calls.call_many(20, answered=False, timeout=4)
            await calls.all_ended()
            one.go_on()
            lost = [e for e in calls.errors.values() if isinstance(e, Unavailable)]
            assert len(lost) == 10
            await calls.call_until_answered()
            calls.check()
            calls.close()
            executed: list[str] = []
            for program in (one, two):
                program.terminate()
                executed += [line for line in program.output if line.startswith("executing")]
            assert len(executed) == len(set(executed)) >= 10

    one_loop.run(main)
