"""gRPC's service config: how a client's calls behave, by method, as JSON.

The format is that of
https://github.com/grpc/grpc-proto/blob/master/grpc/service_config/service_config.proto as protobuf
writes JSON, with the rules of gRFC A6 (retries) and gRFC A21 (errors): unknown keys are ignored,
and a wrong value of a known key makes the whole config invalid. So does an unknown key that is
almost a known one, since it is misspelt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast, final

from txzmq import _check
from txzmq.rpc._json_values import NotJsonError, Place, ValueReader, join
from txzmq.rpc.balancing import POLICIES, BalancingPolicy, PolicyBuilder
from txzmq.rpc.errors import Code
from txzmq.rpc.outlier_detection import (
    FailurePercentageEjection,
    OutlierDetection,
    SuccessRateEjection,
)

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
        self.by_name = by_name

    def __missing__(self, path: str) -> MethodConfig:
        _, _, rest = path.partition("/")
        service, _, method = rest.partition("/")
        by_name = self.by_name
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
    :ivar outlier_detection: None if no endpoint is ejected.
    :ivar policy_name: the balancing policy; None if the config has none.
    :ivar ignored: the places of unknown keys, which are ignored: a later version's, or gRPC's own.
    """

    __slots__ = (
        "_by_path",
        "_new_policy",
        "health_check_service",
        "ignored",
        "outlier_detection",
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
        outlier_detection: OutlierDetection | None = None,
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
        if outlier_detection is not None:
            what = "an OutlierDetection or None"
            _check.instance("outlier_detection", outlier_detection, OutlierDetection, what)
        _check.instance("ignored", ignored, tuple, "a tuple of str")
        self._by_path = _ByPath(dict(by_name or {}))
        self._new_policy = new_policy
        self.retry_throttling = retry_throttling
        self.policy_name = policy_name
        self.health_check_service = health_check_service
        self.outlier_detection = outlier_detection
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

    def without_attempts(self) -> ServiceConfig:
        """The timeouts and limits of the methods alone, where something else repeats calls."""
        return ServiceConfig(
            {
                name: replace(config, retry_policy=None, hedging_policy=None)
                for name, config in self._by_path.by_name.items()
            }
        )

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


#: The policy of gRPC's that is another one with outlier detection.
_OUTLIERS: Final = "outlier_detection_experimental"


# Any: of whatever types.
def _given(**values: Any) -> dict[str, Any]:
    """Those that the config has; the others have defaults."""
    return {name: value for name, value in values.items() if value is not None}


class _Reader(ValueReader):
    """Reads a service config."""

    def __init__(self, policies: Mapping[str, PolicyBuilder], max_attempts: int) -> None:
        super().__init__()
        self._policies = policies
        self._max_attempts = max_attempts
        # What a balancing policy of gRPC's has besides another policy.
        self._outliers: OutlierDetection | None = None
        self._name_places: dict[tuple[str, str], str] = {}

    def config(self, source: str | Mapping[str, Any]) -> ServiceConfig:
        try:
            root = Place("", self._loaded(source))
        except NotJsonError as error:
            raise ServiceConfigError((str(error),)) from None
        fields = self._fields(
            root,
            "healthCheckConfig",
            "loadBalancingConfig",
            "loadBalancingPolicy",
            "methodConfig",
            "outlierDetection",
            "retryThrottling",
        )
        by_name: dict[tuple[str, str], MethodConfig] = {}
        for item in self._items(fields.get("methodConfig")):
            names, config = self._method_config(item)
            by_name.update(dict.fromkeys(names, config))
        throttling = self._read(fields.get("retryThrottling"), self._retry_throttling)
        health_check = self._read(fields.get("healthCheckConfig"), self._health_check)
        outliers = self._read(fields.get("outlierDetection"), self._outlier_detection)
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
            outlier_detection=outliers or self._outliers,
            ignored=tuple(self._ignored),
        )

    # -- the parts of a config ---------------------------------------------------------------

    def _method_config(self, place: Place) -> tuple[list[tuple[str, str]], MethodConfig]:
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

    def _name(self, place: Place) -> tuple[str, str] | None:
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
                self._wrong(Place(f"{place.path}.{key}", value), "must not contain /")
        earlier = self._name_places.setdefault((service, method), place.path)
        if earlier != place.path:
            self._wrong(place, f"is the same as {earlier}")
        return service, method

    def _retry_policy(self, place: Place) -> RetryPolicy | None:
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

    def _hedging_policy(self, place: Place) -> HedgingPolicy | None:
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

    def _health_check(self, place: Place) -> str | None:
        # Without a name nothing is asked (gRFC A17); an empty one is a name.
        return self._read(self._fields(place, "serviceName").get("serviceName"), self._string)

    def _retry_throttling(self, place: Place) -> RetryThrottling | None:
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

    def _outlier_detection(self, place: Place) -> OutlierDetection | None:
        if not self._is_object(place):
            return None
        fields = self._fields(
            place,
            "interval",
            "baseEjectionTime",
            "maxEjectionTime",
            "maxEjectionPercent",
            "consecutiveErrors",
            "successRateEjection",
            "failurePercentageEjection",
        )
        read = self._read
        return OutlierDetection(
            **_given(
                interval=read(fields.get("interval"), self._positive_duration),
                base_ejection_time=read(fields.get("baseEjectionTime"), self._positive_duration),
                max_ejection_time=read(fields.get("maxEjectionTime"), self._positive_duration),
                max_ejection_percent=read(fields.get("maxEjectionPercent"), self._percent),
                consecutive_errors=read(fields.get("consecutiveErrors"), self._integer),
                success_rate=read(fields.get("successRateEjection"), self._success_rate),
                failure_percentage=read(
                    fields.get("failurePercentageEjection"), self._failure_percentage
                ),
            )
        )

    def _success_rate(self, place: Place) -> SuccessRateEjection | None:
        if not self._is_object(place):
            return None
        fields = self._fields(
            place, "stdevFactor", "enforcementPercentage", "minimumHosts", "requestVolume"
        )
        read = self._read
        return SuccessRateEjection(
            **_given(
                stdev_factor=read(fields.get("stdevFactor"), self._integer),
                enforcement_percentage=read(fields.get("enforcementPercentage"), self._percent),
                minimum_hosts=read(fields.get("minimumHosts"), self._integer),
                request_volume=read(fields.get("requestVolume"), self._integer),
            )
        )

    def _failure_percentage(self, place: Place) -> FailurePercentageEjection | None:
        if not self._is_object(place):
            return None
        fields = self._fields(
            place, "threshold", "enforcementPercentage", "minimumHosts", "requestVolume"
        )
        read = self._read
        return FailurePercentageEjection(
            **_given(
                threshold=read(fields.get("threshold"), self._percent),
                enforcement_percentage=read(fields.get("enforcementPercentage"), self._percent),
                minimum_hosts=read(fields.get("minimumHosts"), self._integer),
                request_volume=read(fields.get("requestVolume"), self._integer),
            )
        )

    def _with_outliers(self, place: Place) -> tuple[str, Callable[[], BalancingPolicy]] | None:
        """GRPC's form of outlier detection: a policy around another one."""
        if not self._is_object(place):
            return None
        settings = dict(cast("Mapping[str, object]", place.value))
        child = settings.pop("childPolicy", None)
        # gRPC has no rule of errors in a row, and another share.
        settings = {"consecutiveErrors": 0, "maxEjectionPercent": 10, **settings}
        self._outliers = self._outlier_detection(Place(place.path, settings))
        return self._required(
            place,
            {} if child is None else {"childPolicy": Place(join(place.path, "childPolicy"), child)},
            "childPolicy",
            self._balancing,
        )

    def _balancing(self, place: Place) -> tuple[str, Callable[[], BalancingPolicy]] | None:
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
            if name == _OUTLIERS:
                return self._with_outliers(Place(join(item.path, name), settings))
            if name in self._policies:
                return self._policy(name, Place(join(item.path, name), settings))
        if items:
            names = [next(iter(cast("Mapping[str, object]", item.value))) for item in items]
            near = next(filter(None, (_check.near(name, self._policies) for name in names)), "")
            self._wrong(place, f"names none of the policies {', '.join(self._policies)}{near}")
        return None

    def _balancing_by_name(self, place: Place) -> tuple[str, Callable[[], BalancingPolicy]] | None:
        name = self._string(place)
        if name is None:
            return None
        if name.lower() not in self._policies:
            near = _check.near(name, self._policies)
            self._wrong(place, f"names none of the policies {', '.join(self._policies)}{near}")
            return None
        return self._policy(name.lower(), Place(place.path, {}))

    def _policy(self, name: str, place: Place) -> tuple[str, Callable[[], BalancingPolicy]] | None:
        if not self._is_object(place):
            return None
        build = self._policies[name]
        settings = dict(cast("Mapping[str, object]", place.value))
        try:
            build(settings)
        except ValueError as error:
            self._errors.append(join(place.path, str(error)))
        return name, lambda: build(settings)

    def _attempts(self, place: Place) -> int | None:
        number = self._integer(place, 2)
        return None if number is None else min(number, self._max_attempts)
