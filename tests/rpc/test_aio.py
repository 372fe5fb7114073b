"""Programs of asyncio's, by ``txzmq.rpc.aio.run``."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import pytest

from tests.programs import Program, running
from tests.support import is_installed
from txzmq.rpc import aio

TWICE = (
    "AsyncioSelectorReactor is installed already, and a process has one reactor: call "
    "aio.run() once, and before anything imports twisted.internet.reactor"
)
LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop", marks=pytest.mark.skipif(not is_installed("uvloop"), reason="needs uvloop")
    ),
]


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def program(mode: str, loop: str = "asyncio") -> Any:
    return running("-X", "dev", "-m", "tests.rpc.aio_program", mode, loop)


def end_of(program: Program) -> list[str]:
    """What it printed but for tracebacks."""
    return [line for line in program.output if not line.startswith((" ", "Traceback", "Executing"))]


def test_it_returns_the_result_of_main(loop_name: str) -> None:
    with program("result", loop_name) as ran:
        assert ran.wait() == 0
    assert end_of(ran) == [
        "said x",
        "said at the end",
        "said by what is left",
        "the result",
        TWICE,
    ]


def test_it_raises_what_main_raises() -> None:
    with program("fail") as ran:
        assert ran.wait() == 1
    assert end_of(ran)[-2:] == ["said by what is left", "ZeroDivisionError"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, 143, None)],
)
def test_a_signal_cancels_main(
    loop_name: str, number: signal.Signals, status: int, word: str | None
) -> None:
    with program("wait", loop_name) as ran:
        ran.expect("waits")
        ran.process.send_signal(number)
        assert ran.wait() == status
    said = ["said x", "waits", "cancelled", "said at the end", "said by what is left"]
    assert end_of(ran)[: len(said)] == said
    assert end_of(ran)[-1] == (word or said[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_a_second_ctrl_c_ends_it_at_once() -> None:
    with program("stubborn") as ran:
        ran.expect("waits")
        ran.process.send_signal(signal.SIGINT)
        ran.expect("cancelled")
        assert ran.interrupt() == -signal.SIGINT
    assert "KeyboardInterrupt" in ran.output


def test_who_stops_the_reactor_ends_main() -> None:
    with program("stop") as ran:
        assert ran.wait() == 1
    assert "said at the end" in ran.output
    assert ran.output[-1] == "asyncio.exceptions.CancelledError"


# -- what is no program ------------------------------------------------------------------------


async def nothing() -> None:
    """Ends at once."""


def test_main_is_called_by_run_itself() -> None:
    wrong: Any = nothing()
    with pytest.raises(TypeError, match="; pass the function, nothing, and do not call it"):
        aio.run(wrong)
    wrong = 7
    with pytest.raises(TypeError, match="main must be a coroutine function, not 7"):
        aio.run(wrong)
    with pytest.raises(TypeError, match="loop_factory must be"):
        aio.run(nothing, loop_factory=7)  # type: ignore[arg-type]  # a wrong value


def test_another_reactor_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class EPollReactor:
        """Stands for one."""

    monkeypatch.setitem(
        sys.modules, "twisted.internet.reactor", EPollReactor()
    )  # no module, as Twisted's
    with pytest.raises(RuntimeError, match="EPollReactor is installed already"):
        aio.run(nothing)


def test_a_loop_runs() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="cannot be called while asyncio's loop runs"):
            aio.run(nothing)

    asyncio.run(main())
