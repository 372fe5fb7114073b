"""``healthCheckConfig`` and ``outlierDetection`` in a service config: what is read and refused."""

from __future__ import annotations

from typing import Any

import pytest

from txzmq.rpc import ServiceConfig, ServiceConfigError
from txzmq.rpc.outlier_detection import (
    FailurePercentageEjection,
    OutlierDetection,
    SuccessRateEjection,
)

NAME = "test.Echo"
HEALTH = {"healthCheckConfig": {"serviceName": NAME}}


def test_the_config_names_a_service_to_check() -> None:
    assert ServiceConfig.parse(HEALTH).health_check_service == NAME
    whole = ServiceConfig.parse({"healthCheckConfig": {"serviceName": ""}})
    assert whole.health_check_service == ""
    nothings: list[dict[str, Any]] = [{}, {"healthCheckConfig": {}}, {"healthCheckConfig": None}]
    for nothing in nothings:
        assert ServiceConfig.parse(nothing).health_check_service is None
    assert ServiceConfig(health_check_service="a").health_check_service == "a"


@pytest.mark.parametrize(
    ("config", "errors"),
    [
        ({"healthCheckConfig": NAME}, ("healthCheckConfig: must be an object",)),
        (
            {"healthCheckConfig": {"serviceName": 1}},
            ("healthCheckConfig.serviceName: must be a string",),
        ),
        (
            {"healthCheckConfig": {"servicename": NAME}},
            ("healthCheckConfig.servicename: is not known; did you mean serviceName?",),
        ),
        (
            {"healthcheckConfig": {}},
            ("healthcheckConfig: is not known; did you mean healthCheckConfig?",),
        ),
    ],
)
def test_what_is_wrong_with_it_is_told(config: dict[str, Any], errors: tuple[str, ...]) -> None:
    with pytest.raises(ServiceConfigError) as caught:
        ServiceConfig.parse(config)
    assert caught.value.errors == errors


def test_a_wrong_name_is_told() -> None:
    with pytest.raises(TypeError, match="health_check_service must be the full name of a service"):
        ServiceConfig(health_check_service=1)  # type: ignore[arg-type]  # what is tried


EVERYTHING: dict[str, Any] = {
    "interval": "1s",
    "baseEjectionTime": "2s",
    "maxEjectionTime": "3.5s",
    "maxEjectionPercent": 40,
    "consecutiveErrors": 7,
    "successRateEjection": {
        "stdevFactor": 1000,
        "enforcementPercentage": 50,
        "minimumHosts": 3,
        "requestVolume": 10,
    },
    "failurePercentageEjection": {
        "threshold": 60,
        "enforcementPercentage": 70,
        "minimumHosts": 4,
        "requestVolume": 20,
    },
}
READ = OutlierDetection(
    interval=1.0,
    base_ejection_time=2.0,
    max_ejection_time=3.5,
    max_ejection_percent=40,
    consecutive_errors=7,
    success_rate=SuccessRateEjection(
        stdev_factor=1000, enforcement_percentage=50, minimum_hosts=3, request_volume=10
    ),
    failure_percentage=FailurePercentageEjection(
        threshold=60, enforcement_percentage=70, minimum_hosts=4, request_volume=20
    ),
)


def test_outlier_detection_is_read() -> None:
    assert ServiceConfig.parse({"outlierDetection": EVERYTHING}).outlier_detection == READ
    assert ServiceConfig.parse({"outlierDetection": {}}).outlier_detection == OutlierDetection()
    assert ServiceConfig.parse("{}").outlier_detection is None
    some: dict[str, Any] = {
        "outlierDetection": {"successRateEjection": {}, "failurePercentageEjection": {}}
    }
    assert ServiceConfig.parse(some).outlier_detection == OutlierDetection(
        success_rate=SuccessRateEjection(), failure_percentage=FailurePercentageEjection()
    )


def test_grpcs_form_is_read() -> None:
    settings: dict[str, Any] = {
        **EVERYTHING,
        "childPolicy": [{"nothing": {}}, {"least_request": {}}],
    }
    config = ServiceConfig.parse(
        {"loadBalancingConfig": [{"outlier_detection_experimental": settings}]}
    )
    assert config.policy_name == "least_request"
    assert config.outlier_detection == READ
    bare: dict[str, Any] = {"childPolicy": [{"round_robin": {}}]}
    config = ServiceConfig.parse(
        {"loadBalancingConfig": [{"outlier_detection_experimental": bare}]}
    )
    assert config.outlier_detection == OutlierDetection(
        consecutive_errors=0, max_ejection_percent=10
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"outlierDetection": []}, "outlierDetection: must be an object"),
    (
        {"outlierDetection": {"interval": "0s"}},
        "outlierDetection.interval: must be above 0s",
    ),
    (
        {"outlierDetection": {"maxEjectionPercent": 101}},
        "outlierDetection.maxEjectionPercent: must be an integer from 0 to 100",
    ),
    (
        {"outlierDetection": {"successRateEjection": {"requestVolume": -1}}},
        "outlierDetection.successRateEjection.requestVolume: must be an integer of 0 or more",
    ),
    (
        {"outlierDetection": {"consecutiveError": 3}},
        "outlierDetection.consecutiveError: is not known; did you mean consecutiveErrors?",
    ),
    (
        {"loadBalancingConfig": [{"outlier_detection_experimental": {}}]},
        "loadBalancingConfig[0].outlier_detection_experimental.childPolicy: must be a list",
    ),
]


@pytest.mark.parametrize(("config", "error"), WRONG)
def test_what_is_wrong_with_outlier_detection_is_told(config: dict[str, Any], error: str) -> None:
    with pytest.raises(ServiceConfigError) as caught:
        ServiceConfig.parse(config)
    assert caught.value.errors == (error,)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (OutlierDetection, {"interval": 0}, "interval must be a number above 0, not 0"),
        (OutlierDetection, {"success_rate": 1}, "success_rate must be a SuccessRateEjection or"),
        (SuccessRateEjection, {"stdev_factor": -1}, "stdev_factor must be an integer of 0 or"),
        (FailurePercentageEjection, {"threshold": 101}, "threshold must be an integer from 0 to"),
    ],
)
def test_wrong_values_of_outlier_detection_are_told(
    kind: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        kind(**values)
    with pytest.raises(TypeError, match="outlier_detection must be an OutlierDetection or None"):
        ServiceConfig(outlier_detection=1)  # type: ignore[arg-type]  # what is tried
