"""What is said of messages that break the rules in their protos."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

pytest.importorskip("protovalidate", reason="protovalidate is not installed: PyPy has no wheel")
pytest.importorskip("grpc_tools", reason="the protos with rules are compiled by grpcio-tools")

import protovalidate
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import succeeds
from tests.rpc.given import untyped
from tests.rpc.validated import (
    WRONG,
    Accounts,
    account,
    accounts,
    compiled,
    found,
    on_client,
    on_paths,
    on_server,
)
from txzmq.rpc import Code, InvalidArgument
from txzmq.rpc.validation import (
    MAX_VIOLATIONS,
    ClientValidationInterceptor,
    ServerValidationInterceptor,
    to_bad_request,
    validate,
)


def refusal(message: Any, **options: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as raised:
        validate(message, **options)
    return raised.value


# -- what an error says -------------------------------------------------------------------------


def test_a_message_that_keeps_its_rules_passes() -> None:
    validate(account())


def test_a_message_without_rules_passes() -> None:
    validate(accounts("CreateResponse")(id="anything"))


def test_an_error_names_field_description_and_rule() -> None:
    error = refusal(account(email="nobody"))
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message == (
        "accounts.v1.CreateRequest breaks a rule: email: must be a valid email address"
    )
    assert error.detail(BadRequest) == BadRequest(
        field_violations=[
            BadRequest.FieldViolation(
                field="email", description="must be a valid email address", reason="string.email"
            )
        ]
    )


def test_all_violations_are_told() -> None:
    tag = accounts("Tag")
    error = refusal(account(email="x", age=3, tags=[tag(name="ok"), tag(name="?"), tag()]))
    assert found(error) == [
        ("email", "string.email"),
        ("age", "int32.gte_lte"),
        ("tags[1].name", "string.pattern"),
        ("tags[2].name", "string.pattern"),
    ]
    assert error.message.startswith("accounts.v1.CreateRequest breaks 4 rules: email: ")
    assert error.message.endswith("; and 1 more")


def test_a_rule_of_the_whole_message_has_no_field() -> None:
    error = refusal(account(first_name="Grace"))
    assert found(error) == [("", "last_name_with_first_name")]
    assert error.message.endswith(" breaks a rule: a first name needs a last name")


def test_keys_and_values_of_maps_are_told_apart() -> None:
    error = refusal(account(labels={"a": "x", "env": "", 'b"\n': ""}))
    (request,) = error.details_of(BadRequest)
    assert {(each.field, each.description) for each in request.field_violations} == {
        ('labels["a"]', "key: must be at least 3 characters"),
        ('labels["env"]', "must be at least 1 characters"),
        ('labels["b\\"\\n"]', "must be at least 1 characters"),
    }
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ("flags { key: true value { value: 0 } }", "flags[true].value"),
        ("signed { key: -7 value { value: 0 } }", "signed[-7].value"),
        (
            "unsigned { key: 18446744073709551615 value { value: 0 } }",
            "unsigned[18446744073709551615].value",
        ),
        ("named { key: 'é' value { value: 0 } }", 'named["é"].value'),
        ("named { key: '' value { value: 0 } }", 'named[""].value'),
        ("listed { value: 1 } listed { value: 0 }", "listed[1].value"),
        ("single { value: 0 }", "single.value"),
    ],
)
def test_a_path_is_written_as_protovalidate_writes_it(fields: str, path: str) -> None:
    assert found(refusal(on_paths("Root", f"a: 'x' {fields}"))) == [(path, "int32.gt")]


def test_a_oneof_is_named_by_its_own_name() -> None:
    assert found(refusal(on_paths("Root", ""))) == [("choice", "required")]


def test_a_description_that_a_rule_makes_is_told() -> None:
    assert refusal(on_paths("Root", "a: 'x' quotient: 10")).message == (
        "paths.v1.Root breaks a rule: quotient: is small"
    )


def test_a_predefined_rule_of_ones_own_is_known_from_the_protos() -> None:
    assert found(refusal(on_paths("Root", "a: 'x' pairs: 3"))) == [("pairs", "int32.even")]
    validate(on_paths("Root", "a: 'x' pairs: 4"))


# -- limits -------------------------------------------------------------------------------------


def many(count: int) -> Any:
    return account(tags=[accounts("Tag")(name="?")] * count)


def test_a_request_with_many_violations_gets_an_error_that_says_how_many() -> None:
    error = refusal(many(MAX_VIOLATIONS + 1))
    assert len(found(error)) == MAX_VIOLATIONS
    assert error.message.endswith(
        f"; and {MAX_VIOLATIONS - 2} more (the details have {MAX_VIOLATIONS} of them)"
    )
    assert " breaks 101 rules: " in error.message


def test_as_many_violations_as_are_allowed_are_all() -> None:
    error = refusal(many(5), max_violations=5)
    assert len(found(error)) == 5
    assert "the details have" not in error.message


def test_with_one_violation_the_check_ends_at_the_first() -> None:
    error = refusal(many(5), max_violations=1)
    assert found(error) == [("tags[0].name", "string.pattern")]
    assert " breaks a rule: " in error.message
    assert error.message.endswith(" (the check ended there)")


def test_the_check_of_a_large_message_ends_at_the_first_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To look for 2,000,000 in 4 MB would block the reactor for minutes, and take 6 GB."""
    asked: list[bool] = []

    def collect(message: Message, *, fail_fast: bool) -> Any:
        asked.append(fail_fast)
        return protovalidate.collect_violations(message, fail_fast=fail_fast)

    monkeypatch.setattr("txzmq.rpc.validation.collect_violations", collect)
    message = account(tags=[accounts("Tag")()] * 5, last_name="x" * 8200)
    error = refusal(message)
    assert found(error) == [("last_name", "string.max_len")]
    assert error.message.endswith("at most 64 characters (the check ended there)")
    assert asked == [True]
    message.last_name = ""
    assert len(found(refusal(message))) == 5
    assert asked == [True, True, False]


def test_what_comes_from_the_request_is_cut() -> None:
    long = "k" * 100_000
    error = refusal(on_paths("Root", f"a: 'x' echoed: '{long}'"))
    (echoed,) = error.details_of(BadRequest)[0].field_violations
    assert echoed.description == f"refused: {'k' * (1024 - 9)}..."
    assert len(error.message) < 400
    key = f"named {{ key: '{long}' value {{ value: 0 }} }}"
    error = refusal(on_paths("Root", f"a: 'x' {key}"))
    assert found(error) == [(f'named["{"k" * 128}..."].value', "int32.gt")]
    assert len(error.message) < 400


def test_violations_that_do_not_fit_into_a_reply_are_left_out() -> None:
    world = on_server(max_violations=1000)
    with pytest.raises(InvalidArgument) as raised:
        world.call(Accounts.CREATE, many(1000))
    told = len(found(raised.value))
    assert 32 < told < 1000
    assert raised.value.message.endswith(f"; and 997 more (the details have {told} of them)")


@given(
    st.lists(st.text(max_size=3000), max_size=60, unique=True),
    st.integers(min_value=1, max_value=200),
)
def test_an_error_always_fits_into_a_reply(keys: list[str], most: int) -> None:
    world = on_server(max_violations=most)
    with pytest.raises(InvalidArgument) as raised:
        world.call(Accounts.CREATE, account(labels=dict.fromkeys(["env", *keys], "")))
    told = len(found(raised.value))  # or a header too large would have left it out
    assert 1 <= told <= most
    assert world.service.seen == []


# -- what it is made with -----------------------------------------------------------------------


def test_a_validator_of_ones_own_is_asked() -> None:
    validator = protovalidate.Validator()
    for world in (on_server(validator=validator), on_client(validator=validator)):
        with pytest.raises(InvalidArgument):
            world.call(Accounts.CREATE, account(**WRONG))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"max_violations": 0}, ValueError, "max_violations must be an integer of 1 or more"),
        ({"max_violations": "1"}, TypeError, "max_violations must be an integer of 1 or more"),
        ({"validator": 3}, TypeError, "validator must be a protovalidate.Validator or None, not 3"),
    ],
)
def test_a_wrong_option_is_told_at_once(options: Any, error: type[Exception], said: str) -> None:
    for make in (
        ServerValidationInterceptor,
        ClientValidationInterceptor,
        partial(untyped(validate), account()),
    ):
        with pytest.raises(error, match=said):
            untyped(make)(**options)


def test_what_is_no_message_cannot_be_validated() -> None:
    with pytest.raises(TypeError, match="message must be a protobuf message, not 'x'"):
        validate(untyped("x"))


def test_a_converted_violation_is_what_protovalidate_found() -> None:
    violations = protovalidate.collect_violations(many(3))
    converted = to_bad_request(violations).field_violations
    assert [(each.reason, each.description) for each in converted] == [
        (violation.proto.rule_id, violation.proto.message) for violation in violations
    ]


@pytest.mark.parametrize("missing", ["protovalidate", "google.rpc"])
def test_without_the_extra_the_error_says_what_to_install(missing: str) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
import txzmq.rpc, txzmq.testing
try:
    import txzmq.rpc.validation
except ImportError as error:
    print(error)
"""
    assert "pip install 'txzmq[validate]'" in succeeds(["-c", program])


def test_nobody_else_imports_protovalidate() -> None:
    program = """
import sys
from txzmq.rpc import *
from txzmq.testing import *
print([name for name in sys.modules if name.partition(".")[0] in ("protovalidate", "protobuf")])
"""
    assert succeeds(["-c", program]) == "[]"


def test_the_copy_of_the_rules_is_what_the_package_describes() -> None:
    """A later package may have more of them."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from protovalidate._gen.buf.validate import (  # its only description of the file
        validate_pb,
    )

    packaged = FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    (copied,) = [
        file
        for file in compiled("buf/validate/validate.proto").file
        if file.name == "buf/validate/validate.proto"
    ]
    known = set(fields_of(packaged))
    assert len(known) > 200
    assert set(fields_of(copied)) <= known


def fields_of(file: Any) -> Iterator[tuple[str, str, int, int, str]]:
    for message in file.message_type:
        for field in message.field:
            yield message.name, field.name, field.number, field.type, field.type_name
