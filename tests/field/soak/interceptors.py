"""Interceptors of a soak: they count what is in them, and follow a mark there and back."""

from __future__ import annotations

from typing import Any

from tests.field.soak.service import ROUND
from txzmq.rpc import (
    ClientCall,
    ClientProceed,
    Context,
    IdempotencyLevel,
    Kind,
    ServerProceed,
    Unavailable,
)

#: Metadata that a client's interceptor adds to requests, and a server's to responses.
_MARK, _ECHO = "soak-mark", "soak-echo"
#: How often :class:`AroundCalls` makes a call of an idempotent method with one answer.
ROUNDS = 2


class AroundCalls:
    """Around a client's calls; makes those again that failed and may be made again.

    :ivar inside: how many calls are in it.
    :ivar echoes: responses that a server's interceptor had marked.
    :ivar wrong: what did not hold, each in a sentence.
    """

    def __init__(self) -> None:
        self.inside = 0
        self.echoes = 0
        self._entered = 0
        self.wrong: list[str] = []

    async def __call__(self, call: ClientCall, proceed: ClientProceed) -> Any:
        self.inside += 1
        try:
            for number in range(self._rounds(call) - 1):
                try:
                    return await self._proceed(call, proceed, number)
                except Unavailable:
                    pass
            return await self._proceed(call, proceed, self._rounds(call) - 1)
        finally:
            self.inside -= 1

    def _rounds(self, call: ClientCall) -> int:
        method = call.method
        may_be_repeated = method.idempotency_level is IdempotencyLevel.IDEMPOTENT
        return ROUNDS if may_be_repeated and method.kind is Kind.UNARY_UNARY else 1

    async def _proceed(self, call: ClientCall, proceed: ClientProceed, number: int) -> Any:
        self._entered += 1
        mark = str(self._entered)
        metadata = (*call.metadata, (_MARK, mark), (ROUND, str(number)))
        marked = call.replace(metadata=metadata)
        response = await proceed(marked)
        echo = dict(marked.response.trailing).get(_ECHO)
        if echo is not None and not call.method.kind.response_streaming:
            self.echoes += 1
            if echo != mark:
                self.wrong.append(f"A response had the mark {echo!r}, and its request {mark}.")
        return response


class AroundHandlers:
    """Around a server's handlers; sends back the mark of a request.

    :ivar inside: how many calls are in it.
    """

    def __init__(self) -> None:
        self.inside = 0

    async def __call__(self, request: Any, context: Context, proceed: ServerProceed) -> Any:
        self.inside += 1
        try:
            mark = dict(context.metadata).get(_MARK)
            if mark is not None:
                context.set_trailing_metadata({_ECHO: mark})
            return await proceed(request)
        finally:
            self.inside -= 1
