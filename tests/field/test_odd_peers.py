"""Peers that are none, or too many; by the rows of reliability's table of failures."""

from __future__ import annotations

import time

from tests.field.namespaces import Wire
from tests.field.support import channel_in
from tests.support import Loop
from txzmq.rpc import ConnectivityState, EndpointChange, Observer

HOUR = 3600


class Reasons(Observer):
    """Keeps why endpoints could not be reached."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.ready = 0

    def endpoint_changed(self, watched: object, change: EndpointChange) -> None:
        self.reasons.append(change.reason)
        self.ready += change.state is ConnectivityState.READY


def test_n16_a_client_that_reaches_itself_is_not_ready_and_leaves_the_port(
    one_loop: Loop, hosts: Wire
) -> None:
    """A client's port may be the one that it connects to, where nobody listens."""
    host = hosts.server
    host.limit_ports(40_000, 40_001)
    reasons = Reasons()

    async def main() -> None:
        with channel_in(one_loop, host, "tcp://127.0.0.1:40000", observer=reasons) as calls:
            await one_loop.until(lambda: any("itself" in reason for reason in reasons.reasons))
            await calls.call(timeout=HOUR)
            assert "was not sent" in calls.errors[0].message
            assert not reasons.ready
            with host.running("-m", "tests.field.server", "tcp://127.0.0.1:40000") as server:
                server.expect("listening at .*")
                await calls.call_until_answered()
                calls.check()
                calls.close()

    one_loop.run(main)
