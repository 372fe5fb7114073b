"""Which of the keys that a server may have is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.auth.support import ALICE, BOB, SERVER, STRANGER, knowing
from txzmq.rpc._net.server_keys import ServerKeys
from txzmq.testing._leftovers import leftovers

RPC, PUBLISHER = "tcp://10.0.0.7:1", "tcp://10.0.0.7:2"


def keys(number: int) -> ServerKeys:
    return ServerKeys(knowing(ALICE, *(SERVER, STRANGER, BOB)[:number]))


def find(table: ServerKeys, address: str, right: int) -> list[int]:
    """Connect until the key is right; which were tried."""
    tried: list[int] = []
    while not tried or tried[-1] != right:
        tried.append(table.key_for(address))
        assert len(tried) <= 4, "it goes round for ever"
        if tried[-1] != right:
            table.failed(address, tried[-1])
    table.succeeded(address, right)
    return tried


def test_keys_are_tried_in_turn_and_the_one_that_was_right_is_first() -> None:
    table = keys(3)
    assert find(table, RPC, 2) == [0, 1, 2]
    assert find(table, PUBLISHER, 2) == [2]
    assert find(table, RPC, 0) == [2, 0]
    assert find(table, PUBLISHER, 1) == [0, 1]
    assert leftovers(table) == []


def test_a_socket_that_fails_behind_another_one_that_has_found_the_key_is_given_that() -> None:
    """Libzmq connects again by itself, with the key that the socket has had from the beginning."""
    table = keys(2)
    socket = table.key_for(PUBLISHER)
    find(table, RPC, 1)  # the server has another key now
    assert not table.failed(PUBLISHER, socket)
    assert table.key_for(PUBLISHER) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_it_is_the_last_when_all_have_been_wrong(number: int) -> None:
    table = keys(number)
    told = [table.failed(RPC, table.key_for(RPC)) for _ in range(2 * number)]
    assert told == [*[False] * (number - 1), True] * 2


def test_who_let_the_client_in_before_may_close_one_connection_without_a_word() -> None:
    table = keys(1)
    assert not table.may_have_ended(RPC), "it has never let anybody in"
    table.succeeded(RPC, 0)
    assert not table.may_have_ended(PUBLISHER)
    assert [table.may_have_ended(RPC) for _ in range(3)] == [True, False, False]
    table.succeeded(RPC, 0)
    assert table.may_have_ended(RPC)


def test_a_client_without_credentials_has_nothing_to_try() -> None:
    table = ServerKeys(None)
    assert table.failed(RPC, table.key_for(RPC))
    assert table.key_for(RPC) == 0


@given(st.lists(st.tuples(st.sampled_from([RPC, PUBLISHER]), st.integers(0, 2)), max_size=30))
def test_every_key_is_found_from_any_state(steps: list[tuple[str, int]]) -> None:
    table = keys(3)
    for address, right in steps:
        assert len(find(table, address, right)) <= 4


def test_addresses_that_come_and_go_are_forgotten() -> None:
    table = keys(2)
    for number in range(5_000):
        table.failed(f"tcp://10.0.0.7:{number}", 0)
        table.found_mechanism(f"tcp://10.0.0.7:{number}", "CURVE")
        table.succeeded(f"tcp://10.0.0.8:{number}", 0)
    assert [table.may_have_ended(f"tcp://10.0.0.8:{number}") for number in (0, 4_999)] == [
        False,
        True,
    ]
    assert len(table._wrong) <= 1_024  # pyright: ignore[reportPrivateUsage]  # what is bounded
    assert table.mechanism("tcp://10.0.0.7:1") is None
    assert table.mechanism("tcp://10.0.0.7:4999") == "CURVE"
