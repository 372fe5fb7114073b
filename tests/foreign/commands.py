"""Clients that are commands, one call each: curl and buf."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from google.protobuf import json_format

from tests.foreign.calls import SCHEMA, Call, Outcome, Pairs, Protocol, own
from tests.programs import PATIENCE, ROOT
from txzmq.rpc import Code

#: Of the package for this platform. The program of ``@bufbuild/buf`` itself only starts it, and is
#: not it that would have to be killed.
BUF: Final = next((ROOT / "build/foreign/node_modules/@bufbuild").glob("buf-*/bin/buf"), None)

#: What has become of a command: the call, a folder for files, standard output and standard error.
Parse: TypeAlias = Callable[[Call, bytes, str], Outcome]


class ByCommand:
    """A call by a command, which ends with it."""

    def __init__(self, call: Call, process: subprocess.Popen[bytes], parse: Parse) -> None:
        self._call = call
        self._process = process
        self._parse = parse

    def cancel(self) -> None:
        raise NotImplementedError("a command is killed")

    first = go_on = cancel

    def outcome(self) -> Outcome:
        stdout, stderr = self._process.communicate(timeout=PATIENCE)
        return self._parse(self._call, stdout, stderr.decode())


@contextmanager
def _running(command: Sequence[str | Path], call: Call, parse: Parse) -> Generator[ByCommand]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        with process:
            try:
                yield ByCommand(call, process, parse)
            finally:
                process.kill()
    finally:
        process.wait()


def _json(message: Any) -> str:
    return json_format.MessageToJson(message, indent=None, ensure_ascii=False)


def code_of(name: str) -> Code:
    """As Connect names it."""
    return Code[name.upper().replace("CANCELED", "CANCELLED")]


def error_of(told: dict[str, Any], **more: Any) -> Outcome:
    """An error as Connect has it in JSON."""
    return Outcome(
        code=code_of(told["code"]),
        message=told.get("message", ""),
        details=tuple(
            (detail["type"], base64.b64decode(detail["value"] + "=="))
            for detail in told.get("details", ())
        ),
        **more,
    )


# -- buf -------------------------------------------------------------------------------------------


@contextmanager
def by_buf(target: str, protocol: Protocol, call: Call) -> Generator[ByCommand]:
    """A call by ``buf curl``; of gRPC, it has the types by reflection, as far as that has them."""
    with tempfile.TemporaryDirectory() as folder:
        (requests := Path(folder, "requests")).write_text("\n".join(map(_json, call.requests)))
        (schema := Path(folder, "schema.binpb")).write_bytes(base64.b64decode(SCHEMA))
        headers = [f"-H{key}: {value}" for key, value in call.asked()["metadata"]]
        command = [
            *(BUF or "buf", "curl", "-v", *headers, "--protocol", protocol.replace("-", "")),
            *("-d", f"@{requests}", "--schema", schema, f"--reflect={protocol == 'grpc'}"),
            *(["--timeout", f"{call.timeout}s"] if call.timeout else []),
            f"http://{target}{call.path}",
        ]
        with _running(command, call, _told_by_buf) as running:
            yield running


def _told_by_buf(call: Call, stdout: bytes, stderr: str) -> Outcome:
    # The last request is the call, the one before that of reflection.
    numbers = re.findall(r"^buf: < \(#(\d+)\) HTTP/", stderr, re.MULTILINE)
    number = max(map(int, numbers), default=0)
    received = re.findall(rf"^buf: < \(#{number}\) ?(.*)$", stderr, re.MULTILINE)
    end = received.index("") if "" in received else len(received)
    initial, trailing = (
        own(re.findall(r"^([\w-]+): ?(.*)$", "\n".join(part), re.MULTILINE))
        for part in (received[:end], received[end:])
    )
    outcome: dict[str, Any] = {
        "responses": tuple(_messages(call, stdout.decode())),
        "initial": initial,
        "trailing": trailing,
    }
    # What is verbose comes line by line, and the error as indented JSON.
    error = re.search(r"^\{\n.*?^\}$", stderr, re.MULTILINE | re.DOTALL)
    if error is None:
        assert "Failure:" not in stderr, stderr
        return Outcome(code=Code.OK, **outcome)
    return error_of(json.loads(error[0]), **outcome)


def _messages(call: Call, text: str) -> Generator[Any]:
    """The messages of several documents of JSON."""
    decoder, at = json.JSONDecoder(), 0
    while text := text[at:].lstrip():
        document, at = decoder.raw_decode(text)
        yield json_format.ParseDict(document, call.response())


# -- curl ------------------------------------------------------------------------------------------

_END: Final = 2  # a flag of the last envelope of a stream


@contextmanager
def by_curl(target: str, protocol: Protocol, call: Call) -> Generator[ByCommand]:
    """A call as whoever has read Connect's specification makes it by curl, in JSON or binary."""
    is_json = protocol == "connect-json"
    streams = call.descriptor.client_streaming or call.descriptor.server_streaming
    bodies = [
        _json(request).encode() if is_json else request.SerializeToString()
        for request in call.requests
    ]
    kind = f"application/{'connect+' if streams else ''}{'json' if is_json else 'proto'}"
    # By "KEY;" curl sends a header without a value.
    headers = [f"{key}: {value}" if value else f"{key};" for key, value in call.asked()["metadata"]]
    if call.timeout:
        name = "connect-timeout-ms"
        headers.append(f"{name}: {round(call.timeout * 1_000)}")
    url = f"http://{target}{call.path}"
    with tempfile.TemporaryDirectory() as folder:
        (body := Path(folder, "body")).write_bytes(
            b"".join(bytes([0]) + len(each).to_bytes(4, "big") + each for each in bodies)
            if streams
            else bodies[0]
        )
        if call.get:
            encoding = "json" if is_json else "proto&base64=1"
            message = bodies[0] if is_json else base64.urlsafe_b64encode(bodies[0])
            url += f"?connect=v1&encoding={encoding}&message={quote(message)}"
        else:
            headers.append(f"content-type: {kind}")
            headers.append("expect:")
        data = [] if call.get else ["--data-binary", f"@{body}"]
        command = ["curl", "-sS", "--compressed", "-D/dev/stderr", *data]
        command += [part for header in headers for part in ("-H", header)]
        parse = partial(_told_by_curl, is_json=is_json, streams=streams)
        with _running([*command, url], call, parse) as running:
            yield running


def _told_by_curl(
    call: Call, stdout: bytes, stderr: str, *, is_json: bool, streams: bool
) -> Outcome:
    status, *lines = stderr.splitlines()
    pairs = re.findall(r"^([\w-]+): ?(.*)$", "\n".join(lines), re.MULTILINE)
    if streams:
        return _told_by_stream(call, stdout, own(pairs), is_json=is_json)
    prefix = "trailer-"
    outcome: dict[str, Any] = {
        "initial": own(pairs),
        "trailing": own((k[len(prefix) :], v) for k, v in pairs if k.startswith(prefix)),
    }
    if " 200 " not in f"{status} ":
        return error_of(json.loads(stdout), **outcome)
    return Outcome(code=Code.OK, responses=(_read(call, stdout, is_json=is_json),), **outcome)


def _told_by_stream(call: Call, stdout: bytes, initial: Pairs, *, is_json: bool) -> Outcome:
    responses: list[Any] = []
    while True:
        flags, size = stdout[0], int.from_bytes(stdout[1:5], "big")
        data, stdout = stdout[5 : 5 + size], stdout[5 + size :]
        if flags & _END:
            break
        assert flags == 0, "curl has asked for no compression of messages"
        responses.append(_read(call, data, is_json=is_json))
    assert not stdout, "there is nothing behind the end"
    end = json.loads(data)
    trailing = own(
        (key, value) for key, values in end.get("metadata", {}).items() for value in values
    )
    outcome: dict[str, Any] = {
        "responses": tuple(responses),
        "initial": initial,
        "trailing": trailing,
    }
    return error_of(end["error"], **outcome) if "error" in end else Outcome(code=Code.OK, **outcome)


def _read(call: Call, data: bytes, *, is_json: bool) -> Any:
    return json_format.Parse(data, call.response()) if is_json else call.response(data)
