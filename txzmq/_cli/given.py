"""The requests that ``-d`` gives: on the command line, in a file, or by standard input."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from txzmq._cli.json_stream import Value
from txzmq._cli.messages import Format, splitter_for
from txzmq._cli.problems import Problem
from txzmq._cli.runtime import Runtime

__all__ = ["given_values"]

_STDIN: Final = "@"


async def given_values(runtime: Runtime, data: str | None, form: Format) -> AsyncIterator[Value]:
    """The texts of messages, one after another, as they come.

    :param data: them; ``@`` for standard input, ``@FILE`` for a file, None for none.
    :raises Problem: if a file cannot be read, or is not UTF-8.
    """
    splitter = splitter_for(form)
    async for text in _pieces(runtime, data):
        for value in splitter.feed(text):
            yield value
    for value in splitter.end():
        yield value


async def _pieces(runtime: Runtime, data: str | None) -> AsyncIterator[str]:
    if data is None:
        return
    if not data.startswith(_STDIN):
        yield data
        return
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    name = data[1:]
    try:
        if name:
            yield decoder.decode(Path(name).read_bytes(), final=True)
            return
        async for piece in runtime.standard_input():
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise Problem(f"{name or 'standard input'} is not UTF-8: {error.reason}") from None
    except OSError as error:
        raise Problem(f"{name or 'standard input'}: {error.strerror}") from None
