"""Checks requests against the rules in their protos; needs the extra ``txzmq[validate]``.

The rules are `protovalidate's <https://protovalidate.com>`_, options of ``buf/validate``::

    message CreateAccountRequest {
      string email = 1 [(buf.validate.field).string.email = true];
    }

An interceptor on the server refuses what breaks them, before the handler gets it, with
INVALID_ARGUMENT and a ``google.rpc.BadRequest`` among the error's details::

    server = Server(factory, [Accounts()], interceptors=[ServerValidationInterceptor()])

One on the client refuses it before it is sent::

    channel = Channel(factory, endpoint, interceptors=[ClientValidationInterceptor()])

A message whose proto has no rules passes, and so does a raw message, which nobody parses. Nothing
else in txzmq needs or imports protovalidate.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from google.protobuf.message import Message

from txzmq import _check
from txzmq.rpc._core.coroutines import close_source
from txzmq.rpc._raw_message import RawMessage
from txzmq.rpc.context import Context
from txzmq.rpc.errors import InvalidArgument
from txzmq.rpc.interceptors import ClientCall, ClientProceed, ServerProceed
from txzmq.rpc.streams import RequestStream

try:
    from google.rpc.error_details_pb2 import BadRequest
    from protovalidate import Validator, Violation, collect_violations
except ImportError as error:
    raise ImportError(
        "txzmq.rpc.validation needs protovalidate 2.1 or later and googleapis-common-protos: "
        "pip install 'txzmq[validate]'"
    ) from error

if TYPE_CHECKING:
    from protovalidate import FieldPathElementPb

__all__ = [
    "MAX_VIOLATIONS",
    "ClientValidationInterceptor",
    "ServerValidationInterceptor",
    "to_bad_request",
    "validate",
]

#: How many violations an error tells at most, unless the application says otherwise.
MAX_VIOLATIONS: Final = 100
#: How many of them its message has.
_IN_MESSAGE: Final = 3
#: Characters that a key of a map, and a description, may have; both may come from the request.
_KEY: Final = 128
_DESCRIPTION: Final = 1024
#: Characters that a violation may have in the message.
_SHOWN: Final = 256
#: Bytes of a message of which all violations are looked for. Each takes 60 microseconds and 3 KB,
#: and two bytes of a message can be one.
_COLLECTED: Final = 8 * 1024
#: Bytes of a BadRequest: an error's details have to fit into a header, of 64 KiB.
_BYTES: Final = 32 * 1024

#: Checks a message; the text, in brackets, says which one it is and what becomes of it.
_Check: TypeAlias = Callable[[Message, str], None]


def validate(
    message: Message,
    /,
    *,
    validator: Validator | None = None,
    max_violations: int = MAX_VIOLATIONS,
) -> None:
    """Check a message against the rules in its proto; return nothing if it keeps them.

    For messages that no interceptor sees, such as one that was packed in a ``google.protobuf.Any``.

    :param validator: protovalidate's, with predefined rules of your own for instance; its shared
        one by default.
    :param max_violations: how many violations the error tells at most; with 1, or where the message
        has more than 8 KiB, the check ends at the first one.
    :raises InvalidArgument: if it breaks a rule. Its message names the first violations; its
        details hold a ``google.rpc.BadRequest``, as :func:`to_bad_request` makes it.
    :raises protovalidate.CompilationError: if a rule in the proto is wrong.
    :raises protovalidate.EvaluationError: if a rule could not be evaluated, because it divides by
        zero for instance.
    :raises TypeError: if *message* is no protobuf message.
    :raises ValueError: if *max_violations* is below 1.
    """
    _check.instance("message", message, Message, "a protobuf message")
    _checker(validator, max_violations)(message, "")


def to_bad_request(violations: Iterable[Violation], /) -> BadRequest:
    """What protovalidate found, as ``google.rpc.BadRequest``: one field violation for each.

    ``field`` is the path of the field, ``tags[0].name`` or ``labels["env"]``, empty for a rule of
    the whole message; ``description`` is the rule's message, and begins with ``key:`` where a key
    of a map breaks the rule; ``reason`` is the rule's id, such as ``string.email``. Keys of maps
    are cut after 128 characters, descriptions after 1,024. What does not fit into 32 KiB is left
    out, so that an error can carry it.
    """
    request = BadRequest()
    size = 0
    for violation in violations:
        found = _field_violation(violation)
        size += found.ByteSize() + 4  # at most: its tag and its length
        if size > _BYTES:
            break
        request.field_violations.append(found)
    return request


@final
class ServerValidationInterceptor:
    """Refuses requests that break a rule, before the handler gets them (a ServerInterceptor).

    A call with one request is refused as a whole. Where requests stream, each is checked when the
    handler asks for it: the handler gets those in front of the first that breaks a rule, and
    :class:`~txzmq.rpc.InvalidArgument` in its place, which is the answer unless the handler catches
    it. A rule that cannot be compiled or evaluated is a fault of the server: it is logged, and the
    caller gets UNKNOWN with an id.
    """

    __slots__ = ("_check",)

    def __init__(
        self, *, validator: Validator | None = None, max_violations: int = MAX_VIOLATIONS
    ) -> None:
        """
        :param validator: protovalidate's, with predefined rules of your own for instance; its
            shared one by default.
        :param max_violations: how many violations an error tells at most; with 1, or where the
            message has more than 8 KiB, the check ends at the first one.
        :raises ValueError: if *max_violations* is below 1, or TypeError for values of wrong types.
        """
        self._check = _checker(validator, max_violations)

    def __call__(self, request: Any, context: Context, proceed: ServerProceed) -> Any:
        """Check a request, or have the items of a stream checked, and go on."""
        if isinstance(request, Message):
            self._check(request, "")
        elif isinstance(request, AsyncIterable):
            request = _CheckedStream(request, partial(_check_item, self._check, ""))  # pyright: ignore[reportUnknownArgumentType]  # of the method's type
        return proceed(request)


@final
class ClientValidationInterceptor:
    """Refuses requests that break a rule, before they are sent (a ClientInterceptor).

    The call fails with :class:`~txzmq.rpc.InvalidArgument`. Where requests stream, each is checked
    before it is sent, and one that breaks a rule ends the call: the server's handler is cancelled.
    The server may know other rules, from a newer proto for instance, so it has to check all the
    same. A rule that cannot be compiled or evaluated fails the call with protovalidate's error.
    """

    __slots__ = ("_check",)

    def __init__(
        self, *, validator: Validator | None = None, max_violations: int = MAX_VIOLATIONS
    ) -> None:
        """See :class:`ServerValidationInterceptor`."""
        self._check = _checker(validator, max_violations)

    def __call__(self, call: ClientCall, proceed: ClientProceed) -> Any:
        """Check a request, or have the items of a stream checked, and go on."""
        request = call.request
        if isinstance(request, Message):
            self._check(request, " (it was not sent)")
            return proceed(call)
        if isinstance(request, RawMessage):
            return proceed(call)  # nobody parses it, and so nobody can check it
        check = partial(_check_item, self._check, "; it was not sent")
        if isinstance(request, AsyncIterable):
            stream = _CheckedStream(request, check)  # pyright: ignore[reportUnknownArgumentType]  # of the method's type
            return proceed(call.replace(request=stream))
        if isinstance(request, Iterable):
            items = _CheckedIterable(request, check)  # pyright: ignore[reportUnknownArgumentType]  # of the method's type
            return proceed(call.replace(request=items))
        return proceed(call)  # which says what is wrong with it


class _CheckedStream(RequestStream[Any]):
    """Items, each checked when its reader asks for it."""

    __slots__ = ("_check", "_item", "_items", "_number", "_source")

    def __init__(self, source: AsyncIterable[Any], check: Callable[[Any, int], Any]) -> None:
        """:param check: called with each item and its number, from 1; returns the item."""
        self._source = source
        self._check = check
        self._items: AsyncIterator[Any] | None = None
        self._number = 0
        # The item that breaks a rule: whoever reads on is told again, and gets none behind it.
        self._item: Any = None

    async def __anext__(self) -> Any:
        if self._item is None:
            if self._items is None:
                self._items = aiter(self._source)
            self._item = await anext(self._items)
            self._number += 1
        item = self._check(self._item, self._number)
        self._item = None
        return item

    async def aclose(self) -> None:
        """Close what gives the items, where that can be closed."""
        await close_source(self._source)


class _CheckedIterable(Iterable[Any]):
    """The same, of an iterable that is not asynchronous."""

    __slots__ = ("_check", "_source")

    def __init__(self, source: Iterable[Any], check: Callable[[Any, int], Any]) -> None:
        self._source = source
        self._check = check

    def __iter__(self) -> Iterator[Any]:
        return map(self._check, self._source, itertools.count(1))

    async def aclose(self) -> None:
        """Close what gives the items, where that can be closed."""
        await close_source(self._source)


def _check_item(check: _Check, fate: str, item: Any, number: int) -> Any:
    """Check one item of a stream, and return it."""
    if isinstance(item, Message):
        check(item, f" (item {number} of the stream{fate})")
    return item  # what is no message is refused by whoever takes it


def _checker(validator: object, max_violations: int) -> _Check:
    """What checks messages.

    :raises ValueError: if a value is wrong, or TypeError if its type is.
    """
    _check.integer("max_violations", max_violations, 1)
    if validator is None:
        collect = collect_violations
    elif isinstance(validator, Validator):
        collect = validator.collect_violations
    else:
        raise _check.wrong_type("validator", validator, "a protovalidate.Validator or None")

    def check(message: Message, which: str) -> None:
        violations = collect(message, fail_fast=True)
        if not violations:
            return
        name = f"{message.DESCRIPTOR.full_name}{which}"
        if max_violations == 1 or message.ByteSize() > _COLLECTED:
            raise _error(name, violations[:1], " (the check ended there)")
        violations = collect(message, fail_fast=False)
        raise _error(name, violations[:max_violations], "", len(violations))

    return check


def _error(
    name: str, violations: Sequence[Violation], more: str, count: int = 1
) -> InvalidArgument:
    """The error for a message that breaks rules.

    :param name: of the message; with which one it was, and what became of it.
    :param violations: those to tell.
    :param more: what there is to say besides.
    :param count: how many violations there are.
    """
    request = to_bad_request(violations)
    texts = [_text(found) for found in request.field_violations[:_IN_MESSAGE]]
    if count > len(texts):
        texts.append(f"and {count - len(texts)} more")
    rules = "a rule" if count == 1 else f"{count} rules"
    message = f"{name} breaks {rules}: {'; '.join(texts)}{more}"
    if count > len(request.field_violations):
        message += f" (the details have {len(request.field_violations)} of them)"
    return InvalidArgument(message, details=[request])


def _text(violation: BadRequest.FieldViolation) -> str:
    """A violation, as the message of an error has it."""
    field, description = violation.field, violation.description
    return _cut(f"{field}: {description}" if field else description, _SHOWN)


def _field_violation(violation: Violation) -> BadRequest.FieldViolation:
    proto = violation.proto
    elements = [] if proto.field is None else proto.field.elements
    description = f"key: {proto.message}" if proto.for_key else proto.message
    return BadRequest.FieldViolation(
        field=".".join(map(_element, elements)),
        description=_cut(description, _DESCRIPTION),
        reason=proto.rule_id,
    )


def _element(element: FieldPathElementPb) -> str:
    """One step of a field's path: its name, and the index or key where it has several values."""
    subscript = element.subscript
    if subscript is None:
        return element.field_name
    value = subscript.value
    if isinstance(value, str):
        value = _cut(value, _KEY)
    return f"{element.field_name}[{json.dumps(value, ensure_ascii=False)}]"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
