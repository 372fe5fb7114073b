"""What else a channel takes from its service config: timeouts, sizes, waiting, balancing."""

from __future__ import annotations

import pytest

from tests.rpc.retried_calls import PLAIN, Field, config
from tests.rpc.service import Echo, text
from txzmq.rpc import Channel, ResourceExhausted, ServiceConfigError
from txzmq.testing import MemoryNetwork


def test_timeouts_waiting_and_sizes_come_from_the_config() -> None:
    settings = {
        "timeout": "2s",
        "waitForReady": True,
        "maxRequestMessageBytes": 100,
        "maxResponseMessageBytes": 10,
    }
    field = Field([Echo()], config(settings))
    field.network.result(field.call(PLAIN))
    field.network.result(field.call(PLAIN, timeout=1))
    field.network.result(field.call(PLAIN, timeout=60))
    left = [context.time_remaining() for context in field.services[0].contexts]
    assert left == pytest.approx([2, 1, 2])
    with pytest.raises(ResourceExhausted, match="maxRequestMessageBytes"):
        field.network.result(field.channel.unary_unary(PLAIN, text("x" * 100)))
    with pytest.raises(ResourceExhausted, match="response"):
        field.network.result(field.channel.unary_unary(PLAIN, text("x" * 20)))
    field.close()
    lonely = Channel(field.network, "inproc://nobody", service_config=config(settings))
    field.network.run()
    waits = lonely.unary_unary(PLAIN, text("x"))
    field.network.run()
    assert not waits.called
    waits.addErrback(lambda _: None)
    lonely.close()
    field.network.advance(1)


def test_the_config_names_the_balancing_policy() -> None:
    field = Field([Echo(), Echo()], '{"loadBalancingConfig": [{"pick_first": {}}]}')
    for _ in range(10):
        field.network.result(field.call())
    assert sorted(len(service.seen) for service in field.services) == [0, 10]
    field.close()


def test_a_config_that_is_wrong_is_refused() -> None:
    with pytest.raises(ServiceConfigError, match="methodConfig"):
        Channel(MemoryNetwork(), "inproc://x", service_config={"methodConfig": 1})
