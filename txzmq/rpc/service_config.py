"""gRPC's service config: how a client's calls behave, by method, as JSON.

The format is that of
https://github.com/grpc/grpc-proto/blob/master/grpc/service_config/service_config.proto as protobuf
writes JSON, with the rules of gRFC A6 (retries) and gRFC A21 (errors): unknown keys are ignored,
and a wrong value of a known key makes the whole config invalid. So does an unknown key that is
almost a known one, since it is misspelt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast, final

from txzmq import _check
from txzmq.rpc.balancing import POLICIES, BalancingPolicy, PolicyBuilder
from txzmq.rpc.errors import Code

__all__ = [
    "MAX_ATTEMPTS",
    "HedgingPolicy",
    "MethodConfig",
    "RetryPolicy",
    "RetryThrottling",
    "ServiceConfig",
    "ServiceConfigError",
]

#: Attempts that a policy may ask for; more counts as this many (gRFC A6, "Limits").
MAX_ATTEMPTS: Final = 5


class ServiceConfigError(ValueError):
    """A service config is invalid.

    :ivar errors: all of its errors, each with its place:
        ``methodConfig[0].retryPolicy.maxAttempts: must be an integer of 2 or more``.
    :ivar parameter: what the config was passed as, which stands before each error in the message;
        empty if it was parsed by itself.
    """

    def __init__(self, errors: tuple[str, ...], parameter: str = "") -> None:
        before = parameter and f"{parameter}: "
        super().__init__("\n".join(before + error for error in errors))
        self.errors = errors
        self.parameter = parameter

    def __reduce__(self) -> tuple[type[ServiceConfigError], tuple[tuple[str, ...], str]]:
        return type(self), (self.errors, self.parameter)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """When a failed call is tried again."""

    #: Attempts in all, the first one included.
    max_attempts: int
    #: Seconds before the first retry; ±20 %, like all delays.
    initial_backoff: float
    #: Seconds of the longest delay, before the ±20 %.
    max_backoff: float
    #: The factor from each delay to the next.
    backoff_multiplier: float
    #: The codes after which a call is tried again.
    retryable_status_codes: frozenset[Code]

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check.integer("max_attempts", self.max_attempts, 1)
        _check.number("initial_backoff", self.initial_backoff, above=True)
        _check.number("max_backoff", self.max_backoff, above=True)
        _check.number("backoff_multiplier", self.backoff_multiplier, above=True)
        _check_codes("retryable_status_codes", self.retryable_status_codes)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HedgingPolicy:
    """When further attempts are sent without waiting for the first one's end."""

    #: Attempts in all, the first one included.
    max_attempts: int
    #: Seconds between two attempts; 0 sends all at once.
    hedging_delay: float = 0.0
    #: Codes after which another attempt may still succeed; any other ends the call.
    non_fatal_status_codes: frozenset[Code] = frozenset()

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check.integer("max_attempts", self.max_attempts, 1)
        _check.number("hedging_delay", self.hedging_delay)
        _check_codes("non_fatal_status_codes", self.non_fatal_status_codes)


def _check_codes(name: str, codes: object) -> None:
    _check.instance(name, codes, (frozenset, set), "a frozenset of Code")
    for code in cast("frozenset[object]", codes):
        _check.instance(f"each of {name}", code, Code, "a Code")
        if code is Code.OK:
            raise ValueError(f"{name} must be codes of failures, not OK")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RetryThrottling:
    """When a channel stops repeating calls, because too many fail (gRFC A6, "Throttling").

    The defaults hold where a service config has no ``retryThrottling``: in the long run, a server
    that always fails gets no more attempts than calls, and no mixture of success and failure
    brings more than 1.1 attempts per call and 5 besides.
    """

    #: Tokens at the start, and at most. A failure takes one; at half of them repeating stops.
    max_tokens: int = 10
    #: Tokens that a success adds; exact to a thousandth.
    token_ratio: float = 0.1

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check.integer("max_tokens", self.max_tokens, 1)
        _check.number("token_ratio", self.token_ratio, above=True)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class MethodConfig:
    """How calls of a method behave; None leaves it to the channel."""

    #: Seconds; a call with a timeout of its own takes the smaller one.
    timeout: float | None = None
    wait_for_ready: bool | None = None
    #: Bytes of a serialised request; the smaller of this and the channel's limit counts.
    max_request_message_bytes: int | None = None
    #: Bytes of a serialised response, likewise.
    max_response_message_bytes: int | None = None
    retry_policy: RetryPolicy | None = None
    hedging_policy: HedgingPolicy | None = None

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        if self.timeout is not None:
            _check.number("timeout", self.timeout, endless="None")
        if self.wait_for_ready is not None:
            _check.boolean("wait_for_ready", self.wait_for_ready)
        for name in ("max_request_message_bytes", "max_response_message_bytes"):
            if getattr(self, name) is not None:
                _check.integer(name, getattr(self, name))
        for name, policy in (("retry_policy", RetryPolicy), ("hedging_policy", HedgingPolicy)):
            if getattr(self, name) is not None:
                what = f"a {policy.__name__} or None"
                _check.instance(name, getattr(self, name), policy, what)


class _ByPath(dict[str, MethodConfig]):
    """Configs by ``/package.Service/Method``: each path is looked up once, then it is a key."""

    def __init__(self, by_name: Mapping[tuple[str, str], MethodConfig]) -> None:
        super().__init__()
        self._by_name = by_name

    def __missing__(self, path: str) -> MethodConfig:
        _, _, rest = path.partition("/")
        service, _, method = rest.partition("/")
        by_name = self._by_name
        for name in ((service, method), (service, ""), ("", "")):
            if name in by_name:
                found = by_name[name]
                break
        else:
            found = MethodConfig()
        self[path] = found
        return found


@final
class ServiceConfig:
    """A valid service config.

    :ivar retry_throttling: None if the config has none.
    :ivar health_check_service: of which service each server is asked whether it serves it, an empty
        name for the server as a whole; None if it is not asked.
    :ivar policy_name: the balancing policy; None if the config has none.
    :ivar ignored: the places of unknown keys, which are ignored: a later version's, or gRPC's own.
    """

    __slots__ = (
        "_by_path",
        "_new_policy",
        "health_check_service",
        "ignored",
        "policy_name",
        "retry_throttling",
    )

    def __init__(
        self,
        by_name: Mapping[tuple[str, str], MethodConfig] | None = None,
        *,
        retry_throttling: RetryThrottling | None = None,
        policy_name: str | None = None,
        new_policy: Callable[[], BalancingPolicy] | None = None,
        health_check_service: str | None = None,
        ignored: tuple[str, ...] = (),
    ) -> None:
        """
        :param by_name: configs by service and method; an empty method stands for all of a service,
            and two empty strings for all methods.
        :param new_policy: makes the policy that *policy_name* names.
        :raises TypeError: for a value of a wrong type.
        """
        if by_name is not None:
            _check_by_name(by_name)
        if retry_throttling is not None:
            _check.instance(
                "retry_throttling", retry_throttling, RetryThrottling, "a RetryThrottling or None"
            )
        if policy_name is not None:
            _check.text("policy_name", policy_name)
        if new_policy is not None:
            _check.function("new_policy", new_policy, ())
        if health_check_service is not None:
            what = "the full name of a service, or an empty one"
            _check.text("health_check_service", health_check_service, what, empty=True)
        _check.instance("ignored", ignored, tuple, "a tuple of str")
        self._by_path = _ByPath(dict(by_name or {}))
        self._new_policy = new_policy
        self.retry_throttling = retry_throttling
        self.policy_name = policy_name
        self.health_check_service = health_check_service
        self.ignored = ignored

    @classmethod
    def parse(
        cls,
        source: str | Mapping[str, Any],
        *,
        policies: Mapping[str, PolicyBuilder] = POLICIES,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> ServiceConfig:
        """Read a service config.

        :param source: the JSON, or what ``json.loads`` makes of it.
        :param policies: the balancing policies that the config may name; add your own to
            :data:`~txzmq.rpc.balancing.POLICIES`.
        :param max_attempts: a larger ``maxAttempts`` counts as this many.
        :raises ServiceConfigError: if the config is invalid; it names every error.
        :raises TypeError: for a value of a wrong type.
        """
        _check.instance("source", source, (str, Mapping, list), "JSON or a mapping")
        _check.instance("policies", policies, Mapping, "a mapping of names to functions")
        _check.integer("max_attempts", max_attempts, 1)
        return _Reader(policies, max_attempts).config(source)

    def for_method(self, path: str) -> MethodConfig:
        """The config of ``/package.Service/Method``: its own, its service's or the default one.

        Only the most specific one counts; configs are not merged.
        """
        return self._by_path[path]

    def new_policy(self) -> BalancingPolicy | None:
        """A new balancing policy for one channel; None if the config has none."""
        return None if self._new_policy is None else self._new_policy()

    def __repr__(self) -> str:
        return f"<ServiceConfig policy={self.policy_name} ignored={list(self.ignored)}>"


def _check_by_name(by_name: object) -> None:
    what = "a mapping of (service, method) to MethodConfig"
    if not isinstance(by_name, Mapping):
        raise _check.wrong_type("by_name", by_name, what)
    # The cast is for pyright, which knows a mapping of what as little as the caller may.
    for name, config in cast("Mapping[object, object]", by_name).items():
        # The cast is for mypy and pyright: a pair of what?
        _check.instance("by_name", name, tuple, what)
        pair = cast("tuple[object, ...]", name)
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise TypeError(f"by_name must be {what}, not of {pair}")
        _check.instance("by_name", config, MethodConfig, what)


# -- reading -----------------------------------------------------------------------------------

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
        yield from (_join(path, key) for key in value.repeated)
        for key, item in value.items():
            yield from _repeated(item, _join(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            yield from _repeated(item, f"{path}[{index}]")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Place:
    """A value in the config, and where it stands."""

    __slots__ = ("path", "value")

    def __init__(self, path: str, value: object) -> None:
        self.path = path
        self.value = value


class _Reader:
    """Collects all errors instead of stopping at the first.

    Its methods return None for a wrong value, so results count only if there are no errors.
    """

    def __init__(self, policies: Mapping[str, PolicyBuilder], max_attempts: int) -> None:
        self._policies = policies
        self._max_attempts = max_attempts
        self._errors: list[str] = []
        self._ignored: list[str] = []
        self._name_places: dict[tuple[str, str], str] = {}

    def config(self, source: str | Mapping[str, Any]) -> ServiceConfig:
        root = _Place("", self._loaded(source))
        fields = self._fields(
            root,
            "healthCheckConfig",
            "loadBalancingConfig",
            "loadBalancingPolicy",
            "methodConfig",
            "retryThrottling",
        )
        by_name: dict[tuple[str, str], MethodConfig] = {}
        for item in self._items(fields.get("methodConfig")):
            names, config = self._method_config(item)
            by_name.update(dict.fromkeys(names, config))
        throttling = self._read(fields.get("retryThrottling"), self._retry_throttling)
        health_check = self._read(fields.get("healthCheckConfig"), self._health_check)
        policy = self._read(fields.get("loadBalancingConfig"), self._balancing)
        if policy is None:  # the older key counts only without the newer one
            policy = self._read(fields.get("loadBalancingPolicy"), self._balancing_by_name)
        if self._errors:
            raise ServiceConfigError(tuple(self._errors))
        name, new_policy = policy or (None, None)
        return ServiceConfig(
            by_name,
            retry_throttling=throttling,
            policy_name=name,
            new_policy=new_policy,
            health_check_service=health_check,
            ignored=tuple(self._ignored),
        )

    def _loaded(self, source: str | Mapping[str, Any]) -> object:
        if not isinstance(source, str):
            return source
        try:
            value = json.loads(source, object_pairs_hook=_object, parse_constant=_refuse_constant)
            self._errors += [f"{path}: occurs twice" for path in _repeated(value, "")]
        except (ValueError, RecursionError) as error:
            raise ServiceConfigError((f"the config is not JSON: {error}",)) from None
        return value

    # -- the parts of a config ---------------------------------------------------------------

    def _method_config(self, place: _Place) -> tuple[list[tuple[str, str]], MethodConfig]:
        fields = self._fields(
            place,
            "name",
            "timeout",
            "waitForReady",
            "maxRequestMessageBytes",
            "maxResponseMessageBytes",
            "retryPolicy",
            "hedgingPolicy",
        )
        if "retryPolicy" in fields and "hedgingPolicy" in fields:
            self._wrong(place, "may have a retryPolicy or a hedgingPolicy, not both")
        names = [self._name(item) for item in self._items(fields.get("name"))]
        config = MethodConfig(
            timeout=self._read(fields.get("timeout"), self._duration),
            wait_for_ready=self._read(fields.get("waitForReady"), self._bool),
            max_request_message_bytes=self._read(
                fields.get("maxRequestMessageBytes"), self._integer
            ),
            max_response_message_bytes=self._read(
                fields.get("maxResponseMessageBytes"), self._integer
            ),
            retry_policy=self._read(fields.get("retryPolicy"), self._retry_policy),
            hedging_policy=self._read(fields.get("hedgingPolicy"), self._hedging_policy),
        )
        return [name for name in names if name is not None], config

    def _name(self, place: _Place) -> tuple[str, str] | None:
        if not self._is_object(place):
            return None
        fields = self._fields(place, "service", "method")
        service = self._read(fields.get("service"), self._string) or ""
        method = self._read(fields.get("method"), self._string) or ""
        if method and not service:
            self._wrong(place, f"names the method {method!r} without a service")
            return None
        for key, value in (("service", service), ("method", method)):
            if "/" in value:
                self._wrong(_Place(f"{place.path}.{key}", value), "must not contain /")
        earlier = self._name_places.setdefault((service, method), place.path)
        if earlier != place.path:
            self._wrong(place, f"is the same as {earlier}")
        return service, method

    def _retry_policy(self, place: _Place) -> RetryPolicy | None:
        if not self._is_object(place):
            return None
        fields = self._fields(
            place,
            "maxAttempts",
            "initialBackoff",
            "maxBackoff",
            "backoffMultiplier",
            "retryableStatusCodes",
        )
        attempts = self._required(place, fields, "maxAttempts", self._attempts)
        initial = self._required(place, fields, "initialBackoff", self._positive_duration)
        longest = self._required(place, fields, "maxBackoff", self._positive_duration)
        multiplier = self._required(place, fields, "backoffMultiplier", self._positive)
        codes = self._required(place, fields, "retryableStatusCodes", self._some_codes)
        if None in (attempts, initial, longest, multiplier, codes):
            return None
        return RetryPolicy(
            max_attempts=cast("int", attempts),
            initial_backoff=cast("float", initial),
            max_backoff=cast("float", longest),
            backoff_multiplier=cast("float", multiplier),
            retryable_status_codes=cast("frozenset[Code]", codes),
        )

    def _hedging_policy(self, place: _Place) -> HedgingPolicy | None:
        if not self._is_object(place):
            return None
        fields = self._fields(place, "maxAttempts", "hedgingDelay", "nonFatalStatusCodes")
        attempts = self._required(place, fields, "maxAttempts", self._attempts)
        delay = self._read(fields.get("hedgingDelay"), self._duration)
        codes = self._read(fields.get("nonFatalStatusCodes"), self._codes)
        if attempts is None:
            return None
        return HedgingPolicy(
            max_attempts=attempts,
            hedging_delay=delay or 0.0,
            non_fatal_status_codes=codes or frozenset(),
        )

    def _health_check(self, place: _Place) -> str | None:
        # Without a name nothing is asked (gRFC A17); an empty one is a name.
        return self._read(self._fields(place, "serviceName").get("serviceName"), self._string)

    def _retry_throttling(self, place: _Place) -> RetryThrottling | None:
        if not self._is_object(place):
            return None
        fields = self._fields(place, "maxTokens", "tokenRatio")
        tokens = self._required(place, fields, "maxTokens", self._positive_integer)
        ratio = self._required(place, fields, "tokenRatio", self._positive)
        if ratio is not None and ratio < 0.001:
            self._wrong(fields["tokenRatio"], "must be 0.001 or more")
        if tokens is None or ratio is None:
            return None
        return RetryThrottling(max_tokens=tokens, token_ratio=ratio)

    def _balancing(self, place: _Place) -> tuple[str, Callable[[], BalancingPolicy]] | None:
        """The first policy in the list that is known."""
        items = list(self._items(place))
        for item in items:
            if not self._is_object(item):
                return None
            entry = cast("Mapping[str, object]", item.value)
            if len(entry) != 1:
                self._wrong(item, f"must name one policy, not {len(entry)}")
                return None
            ((name, settings),) = entry.items()
            if name in self._policies:
                return self._policy(name, _Place(_join(item.path, name), settings))
        if items:
            names = [next(iter(cast("Mapping[str, object]", item.value))) for item in items]
            near = next(filter(None, (_check.near(name, self._policies) for name in names)), "")
            self._wrong(place, f"names none of the policies {', '.join(self._policies)}{near}")
        return None

    def _balancing_by_name(self, place: _Place) -> tuple[str, Callable[[], BalancingPolicy]] | None:
        name = self._string(place)
        if name is None:
            return None
        if name.lower() not in self._policies:
            near = _check.near(name, self._policies)
            self._wrong(place, f"names none of the policies {', '.join(self._policies)}{near}")
            return None
        return self._policy(name.lower(), _Place(place.path, {}))

    def _policy(self, name: str, place: _Place) -> tuple[str, Callable[[], BalancingPolicy]] | None:
        if not self._is_object(place):
            return None
        build = self._policies[name]
        settings = dict(cast("Mapping[str, object]", place.value))
        try:
            build(settings)
        except ValueError as error:
            self._errors.append(_join(place.path, str(error)))
        return name, lambda: build(settings)

    # -- values ------------------------------------------------------------------------------

    def _wrong(self, place: _Place, what: str) -> None:
        self._errors.append(f"{place.path}: {what}" if place.path else f"the config {what}")

    def _read(self, place: _Place | None, read: Callable[[_Place], T | None]) -> T | None:
        return None if place is None else read(place)

    def _required(
        self,
        parent: _Place,
        fields: Mapping[str, _Place],
        key: str,
        read: Callable[[_Place], T | None],
    ) -> T | None:
        # A missing value is reported like null.
        return read(fields.get(key) or _Place(_join(parent.path, key), None))

    def _fields(self, place: _Place, *known: str) -> dict[str, _Place]:
        """The known keys of an object that have a value; null counts as none, as in protobuf."""
        if not self._is_object(place):
            return {}
        value = cast("Mapping[str, object]", place.value)
        for key in value:
            if key not in known:
                self._unknown(_join(place.path, key), _check.near(key, known))
        return {
            key: _Place(_join(place.path, key), value[key])
            for key in known
            if value.get(key) is not None
        }

    def _unknown(self, path: str, near: str) -> None:
        """Ignore a key that is not known, unless it is a known one misspelt."""
        if near:
            self._errors.append(f"{path}: is not known{near}")
        else:
            self._ignored.append(path)

    def _items(self, place: _Place | None) -> Iterator[_Place]:
        if place is None or not self._is_list(place):
            if place is not None:
                self._wrong(place, "must be a list")
            return
        for index, item in enumerate(cast("list[object]", place.value)):
            yield _Place(f"{place.path}[{index}]", item)

    def _is_object(self, place: _Place) -> bool:
        if isinstance(place.value, Mapping):
            return True
        self._wrong(place, "must be an object")
        return False

    def _is_list(self, place: _Place) -> bool:
        return isinstance(place.value, list | tuple)

    def _string(self, place: _Place) -> str | None:
        if isinstance(place.value, str):
            return place.value
        self._wrong(place, "must be a string")
        return None

    def _bool(self, place: _Place) -> bool | None:
        if isinstance(place.value, bool):
            return place.value
        self._wrong(place, "must be true or false")
        return None

    def _integer(self, place: _Place, least: int = 0) -> int | None:
        number = _whole_number(place.value)
        if number is not None and least <= number <= _MAX_UINT32:
            return number
        self._wrong(place, f"must be an integer of {least} or more")
        return None

    def _positive_integer(self, place: _Place) -> int | None:
        return self._integer(place, 1)

    def _attempts(self, place: _Place) -> int | None:
        number = self._integer(place, 2)
        return None if number is None else min(number, self._max_attempts)

    def _positive(self, place: _Place) -> float | None:
        value = place.value
        # The upper bound refuses infinity and NaN too.
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
            return float(value)
        self._wrong(place, "must be a number above 0")
        return None

    def _duration(self, place: _Place) -> float | None:
        seconds = _seconds(place.value)
        if seconds is None:
            self._wrong(place, 'must be a duration such as "1.5s"')
        elif seconds < 0:
            self._wrong(place, "must not be below 0s")
            return None
        return seconds

    def _positive_duration(self, place: _Place) -> float | None:
        seconds = _seconds(place.value)
        if seconds is None:
            self._wrong(place, 'must be a duration such as "1.5s"')
        elif seconds <= 0:
            self._wrong(place, "must be above 0s")
            return None
        return seconds

    def _codes(self, place: _Place) -> frozenset[Code]:
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

    def _some_codes(self, place: _Place) -> frozenset[Code]:
        if place.value in ([], ()):
            self._wrong(place, "must name a status code")
        return self._codes(place)


def _join(path: str, key: str) -> str:
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
