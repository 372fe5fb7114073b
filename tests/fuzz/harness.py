"""What all fuzzing has in common: what a target is, and how libFuzzer is set to it.

A target is a kind of input: seeds, a mutator that knows its structure, and a check that says what
must hold whatever comes. With atheris (``make fuzz``), libFuzzer chooses by the code that an input
reaches; ordinary tests run the corpus, what was found, and some mutants without it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

__all__ = ["CORPUS", "FOUND", "HOMES", "Broken", "Target", "found", "fuzz", "load", "mutants"]

ROOT: Final = Path(__file__).parents[2]
#: The seeds, a folder for each target; ``python -m tests.fuzz.seeds`` writes them.
CORPUS: Final = Path(__file__).parent / "corpus"
#: Inputs that broke something once, each ``TARGET-name``.
FOUND: Final = Path(__file__).parent / "found"

#: In which module a target is. They are imported when they are used: what libFuzzer is to follow
#: must not have been imported before.
HOMES: Final = {
    **dict.fromkeys(("request", "set", "text"), "tests.fuzz.generator"),
    **dict.fromkeys(
        ("batch", "client_wire", "metadata", "publication", "reply_header", "request_header"),
        "tests.fuzz.wire",
    ),
    **dict.fromkeys(("receiver", "server_wire"), "tests.fuzz.wire"),
    "server": "tests.fuzz.server",
    "client": "tests.fuzz.client",
    **dict.fromkeys(("monitor", "sockets", "zap"), "tests.fuzz.sockets"),
    "certificate": "tests.fuzz.certificates",
    "address": "tests.fuzz.addresses",
}


class Broken(AssertionError):
    """What must hold of every input does not."""


class Target(NamedTuple):
    """One kind of input.

    :ivar seed: an input that is right, or nearly so, for each number from 0 on.
    :ivar mutate: another input, made of one and of chance; it takes any bytes.
    :ivar check: raises what should not be raised, :class:`Broken` among others.
    :ivar seeds: with how many seeds a run of libFuzzer begins, which tries them all first.
    :ivar follows: the packages whose code libFuzzer follows.
    :ivar any_bytes: whether libFuzzer's own mutations are of use, too.
    """

    seed: Callable[[int], bytes]
    mutate: Callable[[bytes, random.Random], bytes]
    check: Callable[[bytes], None]
    seeds: int
    follows: tuple[str, ...] = ("txzmq",)
    any_bytes: bool = True


def load(name: str) -> Target:
    """The target with a name.

    :raises KeyError: if there is none.
    """
    targets = cast("dict[str, Target]", importlib.import_module(HOMES[name]).TARGETS)
    return targets[name]


def found(name: str) -> list[Path]:
    """The inputs that broke something of a target once."""
    return sorted(FOUND.glob(f"{name}-*"))


def mutants(target: Target, count: int) -> list[bytes]:
    """So many inputs, the same each time."""
    made: list[bytes] = []
    for number in range(count):
        chance = random.Random(number)
        data = target.seed(chance.randrange(10_000))
        for _ in range(chance.randint(1, 3)):
            data = target.mutate(data, chance)
        made.append(data)
    return made


def fuzz(name: str, seconds: int, seed: int) -> None:
    """Let libFuzzer try; does not return. It ends the process, with status 0 if nothing was found.

    :param seed: of its chance; 0 for another each time.
    """
    # No import at the top: only ``make fuzz`` installs it.
    atheris: Any = importlib.import_module("atheris")
    # It names each module on standard error.
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, atheris.instrument_imports(include=["txzmq", "txzmq_codegen"]):
        target = load(name)
        for package in target.follows:
            importlib.import_module(package)
    build = ROOT / "build" / "fuzz" / name
    seeds = build / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    numbers = range(10_000) if target.seeds < 10_000 else range(target.seeds)
    for number in random.Random(seed or None).sample(numbers, target.seeds):
        (seeds / str(number)).write_bytes(target.seed(number))

    def mutate(data: bytes, most: int, number: int) -> bytes:
        if target.any_bytes and number % 2:
            return cast(bytes, atheris.Mutate(data, most))
        return target.mutate(data, random.Random(number))[:most]

    options = [
        f"-max_total_time={seconds}",
        *([f"-seed={seed}"] if seed else []),
        "-max_len=100000",
        "-verbosity=0",
        "-timeout=60",
        f"-artifact_prefix={build}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(seeds)], target.check, custom_mutator=mutate)
    with contextlib.chdir(ROOT):
        atheris.Fuzz()
