"""What only a process of its own can show: forks, and a garbage collector always at work."""

from __future__ import annotations

from tests.programs import running, succeeds


def test_p5_a_child_forked_in_the_midst_of_calls() -> None:
    with running("-X", "dev", "-m", "tests.rpc.forking") as program:
        assert program.wait() == 0, repr(program)
        assert program.output[-2:] == ["child done", "parent done"]


def test_p9_everything_is_made_dropped_and_forgotten() -> None:
    shown = succeeds(["-X", "dev", "-m", "tests.rpc.churn"])
    assert shown.splitlines() == ["nothing is left", "what was forgotten is gone"]
