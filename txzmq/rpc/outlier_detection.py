"""When a channel leaves an endpoint out because its calls fail (gRFC A50).

The rules and the names are those of
https://github.com/grpc/proposal/blob/master/A50-xds-outlier-detection.md, and of Envoy, from which
gRPC has them. They are part of a service config, ``outlierDetection``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from txzmq import _check

__all__ = ["FailurePercentageEjection", "OutlierDetection", "SuccessRateEjection"]


def _check_percent(name: str, value: object) -> None:
    _check.integer(name, value, 0, 100)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SuccessRateEjection:
    """Ejects an endpoint whose share of successes is far below the mean of all."""

    #: How far: so many thousandths of the standard deviation.
    stdev_factor: int = 1900
    #: Of 100 endpoints that are that bad, so many are ejected.
    enforcement_percentage: int = 100
    #: So many endpoints must have had enough calls.
    minimum_hosts: int = 5
    #: So many calls in an interval are enough.
    request_volume: int = 100

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check_percent("enforcement_percentage", self.enforcement_percentage)
        for name in ("stdev_factor", "minimum_hosts", "request_volume"):
            _check.integer(name, getattr(self, name))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class FailurePercentageEjection:
    """Ejects an endpoint of whose calls more than a share fail."""

    #: The share, in percent.
    threshold: int = 85
    #: Of 100 endpoints that are that bad, so many are ejected.
    enforcement_percentage: int = 100
    #: So many endpoints must have had enough calls.
    minimum_hosts: int = 5
    #: So many calls in an interval are enough.
    request_volume: int = 50

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check_percent("threshold", self.threshold)
        _check_percent("enforcement_percentage", self.enforcement_percentage)
        for name in ("minimum_hosts", "request_volume"):
            _check.integer(name, getattr(self, name))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class OutlierDetection:
    """When endpoints are ejected, and for how long."""

    #: Seconds between two looks at what has been counted.
    interval: float = 10.0
    #: Seconds of an endpoint's first ejection; each further one takes as much longer.
    base_ejection_time: float = 30.0
    #: Seconds of the longest one, unless the first is longer.
    max_ejection_time: float = 300.0
    #: No more of 100 endpoints are ejected at one time. One of several may be, unless it is 0; one
    #: alone never is.
    max_ejection_percent: int = 50
    #: So many calls in a row that fail eject an endpoint at once; 0 for no such rule.
    consecutive_errors: int = 5
    success_rate: SuccessRateEjection | None = None
    failure_percentage: FailurePercentageEjection | None = None

    def __post_init__(self) -> None:
        """:raises ValueError: for a value out of range, and so TypeError."""
        _check.number("interval", self.interval, above=True)
        _check.number("base_ejection_time", self.base_ejection_time, above=True)
        _check.number("max_ejection_time", self.max_ejection_time, above=True)
        _check_percent("max_ejection_percent", self.max_ejection_percent)
        _check.integer("consecutive_errors", self.consecutive_errors)
        for name, kind in (
            ("success_rate", SuccessRateEjection),
            ("failure_percentage", FailurePercentageEjection),
        ):
            if getattr(self, name) is not None:
                _check.instance(name, getattr(self, name), kind, f"a {kind.__name__} or None")
