"""Processes that die, are stopped, come back; by the rows of reliability's table of failures.

Figures are measured by ``make bench-field``; what is asserted here is that a call does not wait for
its deadline, which is an hour away.
"""

from __future__ import annotations

import socket

from tests.field.namespaces import Wire
from tests.field.support import History, channel_in, echo_server
from tests.programs import running
from tests.rpc.service import Echo, Stubborn, text
from tests.support import Loop
from txzmq import ZmqFactory
from txzmq.rpc import Channel, ConnectivityState, DeadlineExceeded, Server, Unavailable

HOUR = 3600
FAILED = ConnectivityState.TRANSIENT_FAILURE


def test_n1_a_killed_server_ends_each_call_once(one_loop: Loop, hosts: Wire) -> None:
    with echo_server(hosts) as server, channel_in(one_loop, hosts.client, server.endpoint) as calls:

        async def main() -> None:
            calls.call_many(100, answered=False, timeout=HOUR)
            await calls.call(timeout=HOUR)
            server.kill()
            await one_loop.until(lambda: calls.ends == calls.made)
            calls.check()
            calls.check_lost(100)
            await calls.call(timeout=HOUR)
            assert "was not sent" in calls.errors[101].message
            calls.close()

        one_loop.run(main)


def test_n2_a_killed_client_ends_its_handlers(hosts: Wire) -> None:
    with (
        echo_server(hosts) as server,
        hosts.client.running("-m", "tests.field.client", server.endpoint, "100") as client,
    ):
        client.expect("the calls are with the server")
        for number in range(100):
            server.program.expect(f"executing {number}")
        client.kill()
        for number in range(100):
            server.program.expect(f"{number}: the client has gone")


def test_n3_a_restart_on_the_same_port(one_loop: Loop, hosts: Wire) -> None:
    with echo_server(hosts) as server, channel_in(one_loop, hosts.client, server.endpoint) as calls:

        async def main() -> None:
            await calls.call(timeout=HOUR)
            for restart in range(1, 4):
                calls.call_many(10, answered=False, timeout=HOUR)
                await calls.call(timeout=HOUR)
                server.restart()
                await calls.call_until_answered()
                await one_loop.until(lambda: calls.ends == calls.made)
                calls.check()
                assert len(calls.errors) >= 10 * restart
                assert all(isinstance(error, Unavailable) for error in calls.errors.values())
            calls.close()

        one_loop.run(main)


def test_n3_a_server_that_listens_again_is_used_within_a_second(
    one_loop: Loop, hosts: Wire
) -> None:
    with echo_server(hosts) as server, channel_in(one_loop, hosts.client, server.endpoint) as calls:

        async def main() -> None:
            await calls.call(timeout=HOUR)
            took: list[float] = []
            for _ in range(3):
                server.kill()
                await one_loop.until(lambda: calls.channel.state is FAILED)
                await one_loop.sleep(1)  # attempts become rare
                server.restart()
                began = one_loop.reactor.seconds()
                await calls.call(timeout=HOUR, wait_for_ready=True)
                took.append(one_loop.reactor.seconds() - began)
            calls.check()
            calls.close()
            assert sorted(took)[1] < 1  # the middle one: the machine may be busy with others

        one_loop.run(main)


def test_n4_a_reply_to_a_client_that_has_gone_is_dropped(loop: Loop) -> None:
    service = Stubborn()

    async def main() -> None:
        factory, other = ZmqFactory(loop.reactor), ZmqFactory(loop.reactor)
        server = Server(factory, [service])
        endpoint = server.listen("tcp://127.0.0.1:*")
        calls = History(loop, Channel(other, endpoint))
        calls.call_many(3)
        await loop.until(lambda: len(service.results) == 3)
        other.shutdown()
        # A handler that goes on when it is cancelled asks for a second result.
        await loop.until(lambda: len(service.results) == 6)
        calls = History(loop, Channel(factory, endpoint))
        for result in service.results[3:]:
            result.callback(text("too late"))  # and nothing is raised into the handler
        await loop.until(lambda: not server.running)
        answer = calls.call()
        await loop.until(lambda: len(service.results) == 7)
        service.results[6].callback(text("0"))
        await answer
        calls.check()
        factory.shutdown()

    loop.run(main)


def test_a_server_that_is_stopped_for_a_moment_costs_time_and_no_call(
    one_loop: Loop, hosts: Wire
) -> None:
    with echo_server(hosts) as server, channel_in(one_loop, hosts.client, server.endpoint) as calls:

        async def main() -> None:
            await calls.call()
            server.program.stop()
            calls.call_many(20)
            await one_loop.sleep(0.2)
            assert calls.ends == 1
            server.program.go_on()
            await one_loop.until(lambda: calls.ends == 21)
            calls.check()
            assert len(calls.answers) == 21
            calls.close()

        one_loop.run(main)


def test_n12_a_call_whose_time_was_up_is_not_executed_later(loop: Loop) -> None:
    service = Echo()

    async def main() -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            endpoint = f"tcp://127.0.0.1:{reserved.getsockname()[1]}"
            factory = ZmqFactory(loop.reactor)
            calls = History(loop, Channel(factory, endpoint))
            calls.call_many(20, timeout=0.05, wait_for_ready=True)
            await loop.until(lambda: calls.ends == 20)
            assert all(isinstance(error, DeadlineExceeded) for error in calls.errors.values())
        server = Server(factory, [service])
        server.listen(endpoint)
        await calls.call(wait_for_ready=True)
        calls.check()
        assert service.seen == ["20"]
        factory.shutdown()

    loop.run(main)


def test_n12_a_call_that_is_still_wanted_waits_for_its_server(one_loop: Loop) -> None:
    async def main() -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            endpoint = f"tcp://127.0.0.1:{reserved.getsockname()[1]}"
            factory = ZmqFactory(one_loop.reactor)
            calls = History(one_loop, Channel(factory, endpoint))
            calls.call_many(20, timeout=HOUR, wait_for_ready=True)
            await one_loop.sleep(0.3)  # some attempts to connect
        service = Echo()
        Server(factory, [service]).listen(endpoint)
        await one_loop.until(lambda: calls.ends == 20)
        calls.check()
        assert service.seen == [str(number) for number in range(20)]
        factory.shutdown()

    one_loop.run(main)


def test_n13_one_of_two_servers_is_down(loop: Loop) -> None:
    service = Echo()

    async def main() -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            factory = ZmqFactory(loop.reactor)
            live = Server(factory, [service]).listen("tcp://127.0.0.1:*")
            dead = f"tcp://127.0.0.1:{reserved.getsockname()[1]}"
            calls = History(loop, Channel(factory, [dead, live]))
            await calls.call()
            for _ in range(100):
                await calls.call()
            calls.check()
            assert len(calls.answers) == len(service.seen) == 101
            factory.shutdown()

    loop.run(main)


def test_n13_one_of_two_servers_is_killed(one_loop: Loop) -> None:
    address = "tcp://127.0.0.1:*"

    async def main() -> None:
        with (
            running("-m", "tests.field.server", address) as one,
            running("-m", "tests.field.server", address) as two,
        ):
            factory = ZmqFactory(one_loop.reactor)
            endpoints = [program.expect("listening at (.*)")[1] for program in (one, two)]
            calls = History(one_loop, Channel(factory, endpoints))
            await calls.call()
            one.kill()
            calls.call_many(50)  # those that go to the dead one end when the loss is known
            await one_loop.until(lambda: calls.ends == calls.made)
            lost = len(calls.errors)
            for _ in range(100):
                await calls.call()
            calls.check()
            assert len(calls.errors) == lost  # none of the hundred
            factory.shutdown()

    one_loop.run(main)
