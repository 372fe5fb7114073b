"""gRPC's service config: what is read, what is refused in which words, what holds for whom."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from txzmq.rpc import Code
from txzmq.rpc.balancing import POLICIES, BalancingPolicy, ConsistentHash, PickFirst, RoundRobin
from txzmq.rpc.service_config import (
    HedgingPolicy,
    MethodConfig,
    RetryPolicy,
    RetryThrottling,
    ServiceConfig,
    ServiceConfigError,
)

RETRY: dict[str, Any] = {
    "maxAttempts": 4,
    "initialBackoff": ".1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
HEDGE: dict[str, Any] = {
    "maxAttempts": 3,
    "hedgingDelay": "0.5s",
    "nonFatalStatusCodes": ["UNAVAILABLE", 10],
}
EVERYTHING: dict[str, Any] = {
    "loadBalancingConfig": [{"nobody_has_this": {}}, {"round_robin": {}}, {"pick_first": 7}],
    "methodConfig": [
        {
            "name": [{"service": "a.S", "method": "M"}, {"service": "a.S", "method": "N"}],
            "timeout": "1.000340012s",
            "waitForReady": True,
            "maxRequestMessageBytes": 0,
            "maxResponseMessageBytes": "1024",
            "retryPolicy": RETRY,
        },
        {"name": [{"service": "a.S"}], "hedgingPolicy": HEDGE},
        {"name": [{}], "timeout": "30s"},
        {"timeout": "7s"},
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.25},
    "healthCheckConfig": {"serviceName": "a.S"},
    "newerConfig": {},
}


@pytest.mark.parametrize("source", [EVERYTHING, json.dumps(EVERYTHING)], ids=["dict", "str"])
def test_a_config_with_everything(source: str | dict[str, Any]) -> None:
    config = ServiceConfig.parse(source)
    retry = RetryPolicy(
        max_attempts=4,
        initial_backoff=0.1,
        max_backoff=1.0,
        backoff_multiplier=2.0,
        retryable_status_codes=frozenset({Code.UNAVAILABLE}),
    )
    exact = MethodConfig(
        timeout=1.000340012,
        wait_for_ready=True,
        max_request_message_bytes=0,
        max_response_message_bytes=1024,
        retry_policy=retry,
    )
    hedge = HedgingPolicy(
        max_attempts=3,
        hedging_delay=0.5,
        non_fatal_status_codes=frozenset({Code.UNAVAILABLE, Code.ABORTED}),
    )
    assert config.for_method("/a.S/M") == config.for_method("/a.S/N") == exact
    assert config.for_method("/a.S/Other") == MethodConfig(hedging_policy=hedge)
    assert config.for_method("/b.T/M") == MethodConfig(timeout=30.0)
    assert config.for_method("/a.S/M") is config.for_method("/a.S/M")
    assert config.retry_throttling == RetryThrottling(max_tokens=100, token_ratio=0.25)
    assert config.policy_name == "round_robin"
    first, second = config.new_policy(), config.new_policy()
    assert isinstance(first, RoundRobin)
    assert first is not second, "a policy serves one channel"
    assert config.health_check_service == "a.S"
    assert config.ignored == ("newerConfig",)


@pytest.mark.parametrize("source", ["{}", {}, {"methodConfig": None, "loadBalancingConfig": []}])
def test_an_empty_config(source: str | dict[str, Any]) -> None:
    config = ServiceConfig.parse(source)
    assert config.for_method("/a.S/M") == MethodConfig()
    assert config.for_method("/a.S/M") is config.for_method("/a.S/M"), "looked up once"
    assert (config.retry_throttling, config.policy_name, config.new_policy()) == (None, None, None)


def of_retry(**changes: Any) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, **changes}}]}


def of_hedge(**changes: Any) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], "hedgingPolicy": {**HEDGE, **changes}}]}


def of_method(**fields: Any) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], **fields}]}


def of_names(*names: Any) -> dict[str, Any]:
    return {"methodConfig": [{"name": [name]} for name in names]}


def of_policy(name: str, settings: Any) -> dict[str, Any]:
    return {"loadBalancingConfig": [{name: settings}]}


R, H = "methodConfig[0].retryPolicy", "methodConfig[0].hedgingPolicy"
ATTEMPTS, DURATION = "must be an integer of 2 or more", 'must be a duration such as "1.5s"'
CODE = "must be a status code such as UNAVAILABLE"
WRONG: list[tuple[Any, list[str]]] = [
    # the shape
    ([], ["the config must be an object"]),
    ({"methodConfig": {}}, ["methodConfig: must be a list"]),
    ({"methodConfig": [3]}, ["methodConfig[0]: must be an object"]),
    (of_method(name="x"), ["methodConfig[0].name: must be a list"]),
    (of_method(name=["x"]), ["methodConfig[0].name[0]: must be an object"]),
    (of_method(name=[{"service": 1}]), ["methodConfig[0].name[0].service: must be a string"]),
    # names
    (
        of_names({"method": "M"}),
        ["methodConfig[0].name[0]: names the method 'M' without a service"],
    ),
    (of_names({}, {}), ["methodConfig[1].name[0]: is the same as methodConfig[0].name[0]"]),
    (
        of_names({"service": "s"}, {"service": "s", "method": ""}),
        ["methodConfig[1].name[0]: is the same as methodConfig[0].name[0]"],
    ),
    (
        of_names({"service": "s", "method": "/m"}),
        ["methodConfig[0].name[0].method: must not contain /"],
    ),
    # values of a method
    (of_method(timeout="1"), [f"methodConfig[0].timeout: {DURATION}"]),
    (of_method(timeout=1), [f"methodConfig[0].timeout: {DURATION}"]),
    (of_method(timeout="s"), [f"methodConfig[0].timeout: {DURATION}"]),
    (of_method(timeout=".s"), [f"methodConfig[0].timeout: {DURATION}"]),
    (of_method(timeout="1e3s"), [f"methodConfig[0].timeout: {DURATION}"]),
    (of_method(timeout="0.0000000001s"), [f"methodConfig[0].timeout: {DURATION}"]),
    (of_method(timeout="315576000001s"), [f"methodConfig[0].timeout: {DURATION}"]),
    (of_method(timeout="-1s"), ["methodConfig[0].timeout: must not be below 0s"]),
    (of_method(waitForReady="true"), ["methodConfig[0].waitForReady: must be true or false"]),
    (
        of_method(maxRequestMessageBytes=-1, maxResponseMessageBytes=2**32),
        [
            "methodConfig[0].maxRequestMessageBytes: must be an integer of 0 or more",
            "methodConfig[0].maxResponseMessageBytes: must be an integer of 0 or more",
        ],
    ),
    (
        of_method(retryPolicy=RETRY, hedgingPolicy=HEDGE),
        ["methodConfig[0]: may have a retryPolicy or a hedgingPolicy, not both"],
    ),
    # retries
    (of_method(retryPolicy=[]), [f"{R}: must be an object"]),
    *[
        (of_retry(maxAttempts=wrong), [f"{R}.maxAttempts: {ATTEMPTS}"])
        for wrong in (None, 1, 0, -3, 2.5, True, "two", [2])
    ],
    (of_retry(initialBackoff=None), [f"{R}.initialBackoff: {DURATION}"]),
    (of_retry(initialBackoff="0s"), [f"{R}.initialBackoff: must be above 0s"]),
    (of_retry(maxBackoff="-1s"), [f"{R}.maxBackoff: must be above 0s"]),
    *[
        (of_retry(backoffMultiplier=wrong), [f"{R}.backoffMultiplier: must be a number above 0"])
        for wrong in (None, 0, -1, True, "2", float("inf"), float("nan"))
    ],
    (of_retry(retryableStatusCodes=[]), [f"{R}.retryableStatusCodes: must name a status code"]),
    (of_retry(retryableStatusCodes=None), [f"{R}.retryableStatusCodes: must be a list"]),
    (
        of_retry(retryableStatusCodes=["UNAVAILABLE", "Unavailable", 17, True, "OK"]),
        [
            f"{R}.retryableStatusCodes[1]: {CODE}, not 'Unavailable'",
            f"{R}.retryableStatusCodes[2]: {CODE}, not 17",
            f"{R}.retryableStatusCodes[3]: {CODE}, not True",
            f"{R}.retryableStatusCodes[4]: must be a status code of a failure, not OK",
        ],
    ),
    (
        of_method(retryPolicy={}),
        [
            f"{R}.maxAttempts: {ATTEMPTS}",
            f"{R}.initialBackoff: {DURATION}",
            f"{R}.maxBackoff: {DURATION}",
            f"{R}.backoffMultiplier: must be a number above 0",
            f"{R}.retryableStatusCodes: must be a list",
        ],
    ),
    # hedging
    (of_hedge(maxAttempts=1), [f"{H}.maxAttempts: {ATTEMPTS}"]),
    (of_hedge(hedgingDelay="-0.1s"), [f"{H}.hedgingDelay: must not be below 0s"]),
    (of_hedge(nonFatalStatusCodes="UNAVAILABLE"), [f"{H}.nonFatalStatusCodes: must be a list"]),
    # throttling
    (
        {"retryThrottling": {"maxTokens": 0, "tokenRatio": 0}},
        [
            "retryThrottling.maxTokens: must be an integer of 1 or more",
            "retryThrottling.tokenRatio: must be a number above 0",
        ],
    ),
    (
        {"retryThrottling": {"maxTokens": 1, "tokenRatio": 0.0001}},
        ["retryThrottling.tokenRatio: must be 0.001 or more"],
    ),
    # balancing
    (
        {"loadBalancingConfig": [{"a": {}}, {"b": {}}]},
        [f"loadBalancingConfig: names none of the policies {', '.join(POLICIES)}"],
    ),
    (
        {"loadBalancingPolicy": "a"},
        [f"loadBalancingPolicy: names none of the policies {', '.join(POLICIES)}"],
    ),
    ({"loadBalancingPolicy": 1}, ["loadBalancingPolicy: must be a string"]),
    (
        {"loadBalancingConfig": [{"a": {}, "round_robin": {}}]},
        ["loadBalancingConfig[0]: must name one policy, not 2"],
    ),
    ({"loadBalancingConfig": [{}]}, ["loadBalancingConfig[0]: must name one policy, not 0"]),
    ({"loadBalancingConfig": [7]}, ["loadBalancingConfig[0]: must be an object"]),
    (of_policy("round_robin", []), ["loadBalancingConfig[0].round_robin: must be an object"]),
    (
        of_policy("ring_hash", {}),
        [
            "loadBalancingConfig[0].ring_hash.requestHashHeader: must be the metadata key to hash",
        ],
    ),
    # several at once
    (
        {
            "methodConfig": [{"timeout": 3}, {"retryPolicy": {**RETRY, "maxAttempts": 1}}],
            "retryThrottling": 5,
        },
        [
            f"methodConfig[0].timeout: {DURATION}",
            f"methodConfig[1].retryPolicy.maxAttempts: {ATTEMPTS}",
            "retryThrottling: must be an object",
        ],
    ),
]


@pytest.mark.parametrize(("source", "errors"), WRONG)
def test_what_is_wrong_is_told_with_its_place(source: Any, errors: list[str]) -> None:
    with pytest.raises(ServiceConfigError) as caught:
        ServiceConfig.parse(source)
    assert list(caught.value.errors) == errors
    assert str(caught.value) == "\n".join(errors)
    assert pickle.loads(pickle.dumps(caught.value)).errors == caught.value.errors
    named = ServiceConfigError(("a: is wrong", "b: is wrong"), "service_config")
    assert str(named) == "service_config: a: is wrong\nservice_config: b: is wrong"
    copy = pickle.loads(pickle.dumps(named))
    assert (copy.errors, copy.parameter, str(copy)) == (named.errors, named.parameter, str(named))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the config is not JSON: Expecting value: line 1"),
        ('{"a": NaN}', "the config is not JSON: NaN is not JSON"),
        ("[" * 100_000, "the config is not JSON: maximum recursion"),
        (
            '{"methodConfig": [{"timeout": "1s", "timeout": "2s"}]}',
            r"methodConfig\[0\].timeout: oc",
        ),
        ('{"unknown": {"x": 1, "x": 1}}', "unknown.x: occurs twice"),
        ('{"methodConfig": [], "methodConfig": []}', "methodConfig: occurs twice"),
    ],
)
def test_text_that_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ServiceConfigError, match=words):
        ServiceConfig.parse(text)


def test_what_is_unknown_is_ignored_and_listed() -> None:
    source: dict[str, Any] = {
        "a": 1,
        **of_retry(perAttemptRecvTimeout="1s"),
        "retryThrottling": None,
    }
    source["methodConfig"][0]["name"][0]["b"] = None
    config = ServiceConfig.parse(source)
    assert set(config.ignored) == {
        "a",
        "methodConfig[0].name[0].b",
        "methodConfig[0].retryPolicy.perAttemptRecvTimeout",
    }


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ({"methodConfg": []}, "methodConfg: is not known; did you mean methodConfig?"),
        ({"method_config": []}, "method_config: is not known; did you mean methodConfig?"),
        ({"retryThrotling": {}}, "retryThrotling: is not known; did you mean retryThrottling?"),
        (of_retry(maxAttempt=3), f"{R}.maxAttempt: is not known; did you mean maxAttempts?"),
        (of_method(timout="1s"), "methodConfig[0].timout: is not known; did you mean timeout?"),
    ],
)
def test_a_misspelt_key_is_an_error(source: Any, error: str) -> None:
    """Though gRPC ignores what it does not know: nobody would notice that it has no effect."""
    with pytest.raises(ServiceConfigError) as caught:
        ServiceConfig.parse(source)
    assert list(caught.value.errors) == [error]


@pytest.mark.parametrize("key", ["loadBalancingPolicy", "loadBalancingConfig"])
def test_a_misspelt_policy_is_an_error(key: str) -> None:
    value: Any = "roundrobin" if key.endswith("Policy") else [{"roundrobin": {}}]
    with pytest.raises(ServiceConfigError, match="; did you mean round_robin"):
        ServiceConfig.parse({key: value})


def test_attempts_are_capped() -> None:
    def attempts(source: dict[str, Any], **options: Any) -> int | None:
        config = ServiceConfig.parse(source, **options).for_method("/a/b")
        policy = config.retry_policy or config.hedging_policy
        return None if policy is None else policy.max_attempts

    assert attempts(of_retry(maxAttempts=6)) == attempts(of_hedge(maxAttempts=6.0)) == 5
    assert attempts(of_retry(maxAttempts="4")) == 4
    assert attempts(of_retry(maxAttempts=9), max_attempts=8) == 8


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"loadBalancingPolicy": "ROUND_ROBIN"}, RoundRobin),
        ({"loadBalancingPolicy": "ROUND_ROBIN", **of_policy("pick_first", {})}, PickFirst),
        (of_policy("ring_hash", {"requestHashHeader": "tenant"}), ConsistentHash),
    ],
)
def test_the_balancing_policy(source: dict[str, Any], expected: type) -> None:
    assert type(ServiceConfig.parse(source).new_policy()) is expected


def test_a_policy_of_ones_own_by_name() -> None:
    def build(settings: Mapping[str, object]) -> BalancingPolicy:
        return PickFirst(shuffle=settings["shuffle"] == 1)

    mine = {**POLICIES, "mine": build}
    config = ServiceConfig.parse(of_policy("mine", {"shuffle": 1}), policies=mine)
    assert (config.policy_name, type(config.new_policy())) == ("mine", PickFirst)


NAMES = st.tuples(st.sampled_from(["", "a", "a.b"]), st.sampled_from(["", "M", "N"])).filter(
    lambda name: name[0] != "" or name[1] == ""
)


@settings(derandomize=True, database=None, deadline=None)
@given(st.lists(NAMES, unique=True, max_size=7), st.sampled_from(["a", "a.b", "c"]))
def test_the_most_specific_name_wins(names: list[tuple[str, str]], service: str) -> None:
    entries = [
        {"name": [{"service": s, "method": m}], "timeout": f"{i}s"}
        for i, (s, m) in enumerate(names, 1)
    ]
    config = ServiceConfig.parse({"methodConfig": entries})
    for method in ("M", "N", "O"):
        order = [name for name in ((service, method), (service, ""), ("", "")) if name in names]
        expected = float(names.index(order[0]) + 1) if order else None
        assert config.for_method(f"/{service}/{method}").timeout == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*RETRY, *HEDGE, *EVERYTHING, "name", "x"]), inner)
    ),
    max_leaves=10,
)


@settings(derandomize=True, database=None, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(EVERYTHING)), JSON))
def test_anything_is_read_or_refused(source: dict[str, Any]) -> None:
    try:
        ServiceConfig.parse(source).for_method("/a.S/M")
    except ServiceConfigError:
        pass  # anything else is a bug
