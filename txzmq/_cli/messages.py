"""Messages as JSON or text, both ways, with types that are known at run time only."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, TypeAlias

from google.protobuf import json_format, text_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from txzmq._cli.json_stream import JsonSplitter, Splitter, TextSplitter, Value
from txzmq._cli.problems import FAILED, Problem, did_you_mean
from txzmq._cli.types import Types
from txzmq._escape import escaped
from txzmq.rpc._any_types import AnyTypes, can_have_any

__all__ = ["Format", "Writer", "parse", "splitter_for"]

Format: TypeAlias = Literal["json", "text"]

#: What protobuf says of a field that there is not, and of those that there are.
_NO_FIELD: Final = re.compile(r'has no field named "(?P<name>[^"]*)"')
_FIELDS: Final = re.compile(r"Available Fields[^:]*: \"?\[(?P<names>[^\]]*)\]")


def splitter_for(given: Format) -> Splitter:
    """What splits a format's input into messages."""
    return JsonSplitter() if given == "json" else TextSplitter()


def parse(
    value: Value, into: type[Message], pool: DescriptorPool, given: Format, *, allow_unknown: bool
) -> Message:
    """A message of a request's text.

    :param allow_unknown: ignore fields that the message does not have.
    :raises Problem: if it is malformed, or lacks a required field.
    """
    message: Any = into()  # protobuf's stubs lack FindInitializationErrors
    try:
        if given == "json":
            json_format.Parse(
                value.text, message, ignore_unknown_fields=allow_unknown, descriptor_pool=pool
            )
        else:
            text_format.Parse(
                value.text, message, allow_unknown_field=allow_unknown, descriptor_pool=pool
            )
    # TypeError: the pool of an Any; RecursionError: JSON of a thousand brackets.
    except (json_format.ParseError, text_format.ParseError, TypeError, RecursionError) as error:
        raise _malformed(value, message, str(error), given) from None
    missing = message.FindInitializationErrors()
    if missing:
        raise Problem(f"the request in line {value.line} lacks {', '.join(missing)}")
    parsed: Message = message
    return parsed


def _malformed(value: Value, message: Message, said: str, given: Format) -> Problem:
    kind = message.DESCRIPTOR.full_name
    said = said.strip() or "it is nested too deeply"
    hint = f"txzmq describe ENDPOINT {kind} shows its fields"
    if found := _NO_FIELD.search(said):
        names = _FIELDS.search(said)
        known = re.findall(r"\w+", names["names"]) if names else []
        hint = did_you_mean(found["name"], known, among="its fields are") or hint
    what = "JSON" if given == "json" else "text"
    first = escaped(said.splitlines()[0].rstrip(".:"))
    return Problem(f"the request in line {value.line} is no {kind} in {what}: {first}", hint)


class Writer:
    """Writes messages; of what an Any has it finds the types, where they can be found."""

    def __init__(
        self, types: Types, wanted: Format = "json", *, emit_defaults: bool = False
    ) -> None:
        self._types = types
        self._format = wanted
        self._emit_defaults = emit_defaults
        self._any = AnyTypes(types)

    async def text(self, message: Message, *, indent: bool) -> str:
        """The message; in JSON, characters that could move a cursor are escaped.

        Of an Any whose type nobody knows, ``@value`` has the bytes as base64.

        :param indent: over several lines, not on one.
        """
        if can_have_any(message.DESCRIPTOR):
            await self._any.resolve(message)
        pool = self._types.pool
        if self._format == "text":
            return text_format.MessageToString(
                message, as_one_line=not indent, as_utf8=True, descriptor_pool=pool
            ).rstrip("\n")
        try:
            said = json_format.MessageToJson(
                message,
                indent=2 if indent else None,
                always_print_fields_with_no_presence=self._emit_defaults,
                ensure_ascii=False,
                descriptor_pool=pool,
            )
        # Such as a Timestamp of the year 10,000, which JSON cannot have.
        except (json_format.Error, ValueError, TypeError, RecursionError) as error:
            raise Problem(
                f"a message cannot be written as JSON: {escaped(str(error))}",
                "--format text shows it",
                status=FAILED,
            ) from None
        return _UNPRINTABLE.sub(_escape, said)


#: Characters outside of ASCII that do not print; within JSON they stand in strings only.
_UNPRINTABLE: Final = re.compile(r"[^\x00-\x7e]")


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
