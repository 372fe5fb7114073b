"""Reads the values of a config in JSON, and collects what is wrong with them, each with its place.

The values are as protobuf writes JSON: a duration is "1.5s", an integer may be a string, null is no
value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast

from txzmq import _check
from txzmq.rpc.errors import Code

__all__ = ["NotJsonError", "Place", "ValueReader", "join"]

T = TypeVar("T")

_DURATION: Final = re.compile(r"(-?)(\d*)(?:\.(\d{0,9}))?s", re.ASCII)
#: As in google/protobuf/duration.proto: 10,000 years.
_MAX_SECONDS: Final = 315_576_000_000
_MAX_UINT32: Final = 2**32 - 1


class _Object(dict[str, Any]):
    """A JSON object, and the keys that it has more than once."""

    repeated: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    result = _Object(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        result.repeated = tuple(key for key in result if keys.count(key) > 1)
    return result


def _repeated(value: object, path: str) -> Iterator[str]:
    """The places of keys that occur more than once in their object."""
    if isinstance(value, _Object):
        yield from (join(path, key) for key in value.repeated)
        for key, item in value.items():
            yield from _repeated(item, join(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            yield from _repeated(item, f"{path}[{index}]")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class NotJsonError(ValueError):
    """The whole config is no JSON."""


class Place:
    """A value in the config, and where it stands."""

    __slots__ = ("path", "value")

    def __init__(self, path: str, value: object) -> None:
        self.path = path
        self.value = value


class ValueReader:
    """Collects all errors instead of stopping at the first.

    Its methods return None for a wrong value, so results count only if there are no errors.
    """

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._ignored: list[str] = []

    def _loaded(self, source: str | Mapping[str, Any]) -> object:
        if not isinstance(source, str):
            return source
        try:
            value = json.loads(source, object_pairs_hook=_object, parse_constant=_refuse_constant)
            self._errors += [f"{path}: occurs twice" for path in _repeated(value, "")]
        except (ValueError, RecursionError) as error:
            raise NotJsonError(f"the config is not JSON: {error}") from None
        return value

    def _wrong(self, place: Place, what: str) -> None:
        self._errors.append(f"{place.path}: {what}" if place.path else f"the config {what}")

    def _read(self, place: Place | None, read: Callable[[Place], T | None]) -> T | None:
        return None if place is None else read(place)

    def _required(
        self,
        parent: Place,
        fields: Mapping[str, Place],
        key: str,
        read: Callable[[Place], T | None],
    ) -> T | None:
        # A missing value is reported like null.
        return read(fields.get(key) or Place(join(parent.path, key), None))

    def _fields(self, place: Place, *known: str) -> dict[str, Place]:
        """The known keys of an object that have a value; null counts as none, as in protobuf."""
        if not self._is_object(place):
            return {}
        value = cast("Mapping[str, object]", place.value)
        for key in value:
            if key not in known:
                self._unknown(join(place.path, key), _check.near(key, known))
        return {
            key: Place(join(place.path, key), value[key])
            for key in known
            if value.get(key) is not None
        }

    def _unknown(self, path: str, near: str) -> None:
        """Ignore a key that is not known, unless it is a known one misspelt."""
        if near:
            self._errors.append(f"{path}: is not known{near}")
        else:
            self._ignored.append(path)

    def _items(self, place: Place | None) -> Iterator[Place]:
        if place is None or not self._is_list(place):
            if place is not None:
                self._wrong(place, "must be a list")
            return
        for index, item in enumerate(cast("list[object]", place.value)):
            yield Place(f"{place.path}[{index}]", item)

    def _is_object(self, place: Place) -> bool:
        if isinstance(place.value, Mapping):
            return True
        self._wrong(place, "must be an object")
        return False

    def _is_list(self, place: Place) -> bool:
        return isinstance(place.value, list | tuple)

    def _string(self, place: Place) -> str | None:
        if isinstance(place.value, str):
            return place.value
        self._wrong(place, "must be a string")
        return None

    def _bool(self, place: Place) -> bool | None:
        if isinstance(place.value, bool):
            return place.value
        self._wrong(place, "must be true or false")
        return None

    def _integer(self, place: Place, least: int = 0) -> int | None:
        number = _whole_number(place.value)
        if number is not None and least <= number <= _MAX_UINT32:
            return number
        self._wrong(place, f"must be an integer of {least} or more")
        return None

    def _positive_integer(self, place: Place) -> int | None:
        return self._integer(place, 1)

    def _percent(self, place: Place) -> int | None:
        number = _whole_number(place.value)
        if number is not None and 0 <= number <= 100:
            return number
        self._wrong(place, "must be an integer from 0 to 100")
        return None

    def _positive(self, place: Place) -> float | None:
        value = place.value
        # The upper bound refuses infinity and NaN too.
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
            return float(value)
        self._wrong(place, "must be a number above 0")
        return None

    def _duration(self, place: Place) -> float | None:
        seconds = _seconds(place.value)
        if seconds is None:
            self._wrong(place, 'must be a duration such as "1.5s"')
        elif seconds < 0:
            self._wrong(place, "must not be below 0s")
            return None
        return seconds

    def _positive_duration(self, place: Place) -> float | None:
        seconds = _seconds(place.value)
        if seconds is None:
            self._wrong(place, 'must be a duration such as "1.5s"')
        elif seconds <= 0:
            self._wrong(place, "must be above 0s")
            return None
        return seconds

    def _codes(self, place: Place) -> frozenset[Code]:
        codes: set[Code] = set()
        for item in self._items(place):
            code = _code(item.value)
            if code is None:
                self._wrong(item, f"must be a status code such as UNAVAILABLE, not {item.value!r}")
            elif code is Code.OK:
                self._wrong(item, "must be a status code of a failure, not OK")
            else:
                codes.add(code)
        return frozenset(codes)

    def _some_codes(self, place: Place) -> frozenset[Code]:
        if place.value in ([], ()):
            self._wrong(place, "must name a status code")
        return self._codes(place)


def join(path: str, key: str) -> str:
    """The place of a key in an object."""
    return f"{path}.{key}" if path else key


def _whole_number(value: object) -> int | None:
    """An integer as protobuf reads JSON: a number without a fraction, or a string of digits."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,20}", value, re.ASCII):
        return int(value)
    return None


def _seconds(value: object) -> float | None:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not (match[2] or match[3]) or len(match[2]) > 12:
        return None
    seconds = float(f"{match[2] or 0}.{match[3] or 0}")
    if seconds > _MAX_SECONDS:
        return None
    return -seconds if match[1] else seconds


def _code(value: object) -> Code | None:
    if isinstance(value, str):
        return Code.__members__.get(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= max(Code):
        return Code(value)
    return None
