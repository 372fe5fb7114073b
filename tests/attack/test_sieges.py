"""Attackers in processes of their own: the server lives, its memory is bounded, others are served.

What a healthy client saw meanwhile is printed (``pytest -s``), and not judged: how fast a machine
is says nothing of who gets in. The bounds of memory are twice what was seen, and more.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Generator
from typing import NamedTuple

import pytest

from tests.attack.curve import has_sodium
from tests.attack.siege import Client, Siege, siege
from tests.programs import Program
from tests.support import PATIENCE, Loop

pytestmark = [
    pytest.mark.skipif(not has_sodium(), reason="no libsodium, with which attackers encrypt"),
    pytest.mark.skipif(platform.system() != "Linux", reason="memory is read from Linux's /proc"),
]

#: Lines that a server under attack may log; each kind of refusal has a few a minute.
MOST_LINES = 60
#: Megabytes that an attack may leave, which are free for the next: see "Memory that stays".
LEFT = 60 if sys.implementation.name == "cpython" else 120  # whose own collector waits longer


@pytest.fixture(scope="module")
def server() -> Generator[Siege]:
    """One server for one attack after the other; its handshakes may take a second, on CPython."""
    with siege(handshake=PATIENCE / 30) as server:
        yield server


class Ended(NamedTuple):
    """What is to be seen when an attack is over."""

    #: Megabytes that the server's memory may have grown, at its peak.
    peak: float = 100
    #: Lines that the attacker must say.
    says: tuple[str, ...] = ()


ATTACKS = {
    "shake_hands_without_a_key": Ended(),
    "shake_hands_with_a_key": Ended(),
    "hang_up_after_hello": Ended(),
    "hold_half_handshakes": Ended(says=("ended 300",)),
    "hold_connections": Ended(says=("ended 400",)),
    "replay_cookies": Ended(says=("refused", "refused")),
    "downgrade": Ended(),
    "replay": Ended(),
    "tamper": Ended(),
    "say_huge_sizes": Ended(),
    "bring_much_metadata": Ended(),
    "drip_greetings": Ended(says=("ended 100",)),
    "drip_handshakes": Ended(says=("ended 100",)),
    "drip_messages": Ended(),
    # It sends 60 MB, and libzmq keeps them all: nothing bounds that (SECURITY.md).
    "send_without_end": Ended(peak=150),
    "send_many_parts": Ended(),
    "subscribe_to_many": Ended(),
    "subscribe_to_long_ones": Ended(),
    "subscribe_as_strangers": Ended(),
}


def played(
    loop: Loop, server: Siege, name: str, ended: Ended, record: Callable[[str, object], None]
) -> list[str]:
    """Attack, and see how a client is served; the requests of others that the server has served."""
    client = Client(loop, server)
    unhealthy: list[str] = []

    async def main() -> list[str]:
        try:
            channel = client.connect()
            await client.streams(channel)
            at_first = await client.facts(channel)
            server.forget_peak()
            before = server.megabytes()
            with server.attacker(name) as attacker:
                await _said(loop, attacker, "attacking")
                await client.is_served(channel)
                for line in ended.says:
                    await _said(loop, attacker, line)
                assert "a stranger was let in" not in attacker.output
            grown = server.megabytes("VmHWM") - before
            left = await _left(loop, server, before)
            figures = f"{client.figures}; {grown:.0f} MB more at the peak, {left:.0f} MB left"
            print(f"{name}: {figures}")
            record(name, figures)
            assert grown < ended.peak
            assert left < LEFT
            # All connections of the attacker have ended, and nothing of them waits.
            while True:
                facts = await client.facts(channel)
                unhealthy.extend(facts["unhealthy"])
                if facts["descriptors"] <= at_first["descriptors"] and not facts["decisions"]:
                    return unhealthy
                await loop.sleep(0.05)
        finally:
            client.close()

    return loop.run(main, patience=2 * PATIENCE)


async def _left(loop: Loop, server: Siege, before: float) -> float:
    """Megabytes that are left of an attack that is over; libzmq may need a moment to let go."""
    for _ in range(100):
        if server.megabytes() - before < LEFT / 2:
            break
        await loop.sleep(0.02)
    return server.megabytes() - before


async def _said(loop: Loop, attacker: Program, line: str) -> None:
    await loop.until(lambda: attacker.has_said(line) or attacker.process.poll() is not None)
    assert attacker.has_said(line), attacker


def test_those_who_wait_for_a_decision_that_never_comes_keep_nobody_out(
    one_loop: Loop, record_property: Callable[[str, object], None]
) -> None:
    """They are refused after the policy's second, and do not wait in the server for longer."""
    with siege(hangs=True, handshake=PATIENCE / 15) as server:
        name, ended = "ask_who_never_answers", Ended(says=("ended 300",))
        assert played(one_loop, server, name, ended, record_property) == []
        assert len(server.log()) < MOST_LINES


@pytest.mark.parametrize("name", ATTACKS)
def test_a_client_is_served_while_somebody_attacks(
    one_loop: Loop, server: Siege, name: str, record_property: Callable[[str, object], None]
) -> None:
    served = played(one_loop, server, name, ATTACKS[name], record_property)
    assert served == (["replayed"] if name == "replay" else [])
    assert not [line for line in server.log() if "Traceback" in line or "Unhandled" in line]
    assert len(server.log()) < MOST_LINES
