"""Runs mypy-protobuf, which writes the stubs of messages, in processes of their own.

It takes most of a run's time, and several times the memory of the descriptors that it is given. So
it gets them in batches, each with what its files import and no more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Final

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse

from txzmq_codegen.batches import batches
from txzmq_codegen.protoc import ToolFailed
from txzmq_codegen.stub_input import StubInput
from txzmq_codegen.wire import delimited

__all__ = ["StubWriter", "writing_stubs"]

#: mypy-protobuf 5.0 was built with a newer protobuf than the oldest one that we take. It works
#: there, but for the check of versions in the one generated module that it ships.
_LENIENT: Final = {"TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK": "true"}
#: -m takes modules from the current folder first, where a user may have a mypy_protobuf.
_SAFE: Final = {"PYTHONSAFEPATH": "1"}
_MOST_PROCESSES: Final = 2
#: The bytes of descriptors in a batch. It takes a fifth of a second to start Python, and a batch of
#: this size takes two.
_BATCH: Final = 4 << 20
#: It takes longer to start Python than to write so many stubs.
_WORTH_A_PROCESS: Final = 200


class StubWriter:
    """mypy-protobuf at work, in one or more processes at a time."""

    def __init__(self, batches: Sequence[Sequence[str]], given: StubInput, processes: int) -> None:
        self._given = given
        self._lock = Lock()
        self._ended = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._pool = ThreadPoolExecutor(processes)
        self._results = [(batch, self._pool.submit(self._write, batch)) for batch in batches]

    def result(self) -> Iterator[tuple[str, str]]:
        """Each proto with the text of its ``_pb2.pyi``.

        :raises ToolFailed: if mypy-protobuf failed.
        """
        while self._results:
            batch, texts = self._results.pop(0)
            yield from zip(batch, texts.result(), strict=True)

    def _write(self, batch: Sequence[str]) -> Sequence[str]:
        process = self._start()
        if process is None:
            return ()
        try:
            output, log = process.communicate(self._request(batch))
        finally:
            self._running.discard(process)
        if process.returncode:
            said = log.decode("utf-8", "replace")
            raise ToolFailed(
                f"mypy-protobuf failed with status {process.returncode}\n{said}".rstrip()
            )
        response = CodeGeneratorResponse.FromString(output)
        if response.error:
            raise ToolFailed(f"mypy-protobuf: {response.error}")
        return [file.content for file in response.file]

    def _start(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._ended:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "mypy_protobuf.main"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # What it prints: warnings about comments, and tracebacks.
                stderr=subprocess.PIPE,
                env={**os.environ, **_LENIENT, **_SAFE},
            )
            self._running.add(process)
            return process

    def _request(self, batch: Sequence[str]) -> bytes:
        """A CodeGeneratorRequest, which is never a message here: it would take room twice."""
        wanted = frozenset(batch)
        name, parameter, file = (
            CodeGeneratorRequest.FILE_TO_GENERATE_FIELD_NUMBER,
            CodeGeneratorRequest.PARAMETER_FIELD_NUMBER,
            CodeGeneratorRequest.PROTO_FILE_FIELD_NUMBER,
        )
        parts = [delimited(parameter, b"quiet")]
        parts += [delimited(name, self._given.name(proto).encode()) for proto in batch]
        parts += [
            delimited(file, self._given.encoded(proto, comments=proto in wanted))
            for proto in self._given.imports(batch)
        ]
        return b"".join(parts)

    def end(self) -> None:
        """Kill what still runs, and wait for it."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def writing_stubs(sizes: Mapping[str, int], given: StubInput) -> Generator[StubWriter]:
    """Start mypy-protobuf; whatever happens, it does not outlive the block.

    :param sizes: the protos to write stubs of, and the bytes of each one's descriptor.
    """
    # One processor is left for what this process does meanwhile.
    processors = (os.cpu_count() or 1) - 1
    processes = max(1, min(processors, _MOST_PROCESSES, len(sizes) // _WORTH_A_PROCESS))
    size = min(_BATCH, sum(sizes.values()) // processes + 1)
    writer = StubWriter(list(batches(sizes, size)), given, processes)
    try:
        yield writer
    finally:
        writer.end()
