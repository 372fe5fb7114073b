"""The test cases for trial, as users run them: in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path

from tests.testing.support import SERVICE, run

HEAD = f"{SERVICE}\nfrom txzmq.testing import Faults\nfrom txzmq.testing.trial import *\n"


def run_trial(folder: Path, tests: str, **environment: str) -> tuple[int, str]:
    (folder / "test_it.py").write_text(HEAD + tests)
    return run(folder, "-m", "twisted.trial", "test_it", **environment)


def test_services_are_served_in_memory_and_at_sockets(tmp_path: Path) -> None:
    status, output = run_trial(
        tmp_path,
        """
class InMemory(MemoryTestCase):
    def test_call(self) -> None:
        call = self.serve(Echo()).unary_unary(ECHO, text("x"))
        self.assertEqual(self.result(call).value, "x")

    def test_time(self) -> None:
        call = self.serve(Waiting()).unary_unary(ECHO, text("x"), timeout=3000)
        error = self.assertRaises(Exception, self.result, call, within=3001)
        self.assertIn("time was up", str(error))

class AtSockets(SocketTestCase):
    async def test_call(self) -> None:
        channel = self.serve(Echo(), Streaming())
        self.assertEqual((await channel.unary_unary(ECHO, text("x"))).value, "x")
        items = [item.value async for item in channel.unary_stream(COUNT, text("3"))]
        self.assertEqual(items, ["0", "1", "2"])
""",
    )
    assert (status, "PASSED (successes=3)" in output) == (0, True), output


def test_what_is_left_fails_and_the_seed_repeats_it(tmp_path: Path) -> None:
    tests = """
class Stuck(MemoryTestCase):
    faults = Faults(delay=0.01)

    def test_stubborn(self) -> None:
        self.serve(Stubborn()).unary_unary(ECHO, text("x")).addErrback(lambda _: None)
        self.network.advance(1)
        print("drawn", self.network.random.random(), self.network.faults.delay)
"""
    status, output = run_trial(tmp_path, tests)
    assert status == 1
    assert "its handler was cancelled and has not ended" in output
    seed = re.search(r"Stuck.test_stubborn: the seed was (\d+); TXZMQ_SEED=\1 repeats it", output)
    drawn = re.search(r"drawn \S+ 0.01", output)
    assert seed is not None, output
    assert drawn is not None
    _, again = run_trial(tmp_path, tests, TXZMQ_SEED=seed[1])
    assert drawn[0] in again
    _, wrong = run_trial(tmp_path, tests, TXZMQ_SEED="many")
    assert "TXZMQ_SEED='many' must be an integer" in wrong
