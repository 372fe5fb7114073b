"""Names: exact cases, and what must hold for all of them."""

from __future__ import annotations

import keyword
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txzmq_codegen import names
from txzmq_codegen.forbidden import PYTHONS

#: What protoc takes for an identifier.
IDENTIFIERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
#: Short ones over few letters, so that they meet.
NEAR_IDENTIFIERS = st.text("aAbB_1", min_size=1, max_size=4).filter(lambda it: not it[0].isdigit())
PATHS = st.text(min_size=1, max_size=10).filter(lambda it: "/" not in it and "." not in it)


def test_keywords_are_those_of_python() -> None:
    assert frozenset(keyword.kwlist) == names.KEYWORDS


@pytest.mark.parametrize(
    ("rpc", "name"),
    [
        ("SayHello", "say_hello"),
        ("sayHello", "say_hello"),
        ("say_hello", "say_hello"),
        ("GetHTTPResponse", "get_http_response"),
        ("HTTP", "http"),
        ("GetV1Beta1", "get_v1_beta1"),
        ("A", "a"),
        ("aB", "a_b"),
        ("Get_Foo", "get_foo"),
        ("import", "import_"),
        ("Import", "import_"),
        ("None", "none"),
        ("Self", "self_"),
        ("Mro", "mro_"),
        ("match", "match"),
        ("print", "print"),
        ("__init__", "init__"),
        ("_Private", "private"),
        ("_", "rpc_"),
        ("_1", "rpc_1"),
    ],
)
def test_one_rpc(rpc: str, name: str) -> None:
    assert names.method_names([rpc]) == {rpc: name}


def test_rpcs_that_would_share_a_name_keep_their_spelling() -> None:
    rpcs = ["GetFoo", "getFoo", "Get_Foo", "Other"]
    assert names.method_names(rpcs) == {
        "GetFoo": "GetFoo",
        "getFoo": "getFoo",
        "Get_Foo": "Get_Foo",
        "Other": "other",
    }


@given(st.lists(IDENTIFIERS | NEAR_IDENTIFIERS, unique=True, max_size=8))
def test_method_names_are_public_identifiers(rpcs: list[str]) -> None:
    for name in names.method_names(rpcs).values():
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)
        assert not keyword.iskeyword(name)
        assert name not in names.SOFT_CLASHES


@given(st.lists(NEAR_IDENTIFIERS, unique=True, max_size=8))
def test_rpcs_share_a_name_only_if_leading_underscores_or_a_keyword_is_all_that_differs(
    rpcs: list[str],
) -> None:
    found = names.method_names(rpcs)
    for one in rpcs:
        for other in rpcs:
            if one != other and found[one] == found[other]:
                assert one.strip("_") == other.strip("_")


@given(st.lists(IDENTIFIERS | NEAR_IDENTIFIERS, unique=True, max_size=8))
def test_method_names_do_not_depend_on_the_order(rpcs: list[str]) -> None:
    assert names.method_names(rpcs) == names.method_names(rpcs[::-1])


@given(IDENTIFIERS)
def test_snake_case_stays_snake_case(name: str) -> None:
    assert names.snake(names.snake(name)) == names.snake(name)


@given(st.lists(IDENTIFIERS | st.sampled_from(["Foo", "FooFake", "UnimplementedFoo"]), unique=True))
def test_class_names_are_distinct(services: list[str]) -> None:
    found = [name for classes in names.service_classes(services).values() for name in classes]
    assert len(found) == len(set(found))
    assert all(name.isidentifier() and not keyword.iskeyword(name) for name in found)


@given(PATHS)
def test_module_parts_can_be_imported(part: str) -> None:
    name = names.module_part(part)
    assert name.isidentifier()
    assert not keyword.iskeyword(name)
    assert names.module_part(name) == name


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("orders", "orders"),
        ("my-file", "my_file"),
        ("1st", "n1st"),
        ("lambda", "lambda_"),
        ("None", "None_"),
        ("a b", "a_b"),
        ("", "n"),
    ],
)
def test_one_module_part(part: str, name: str) -> None:
    assert names.module_part(part) == name


def test_all_names_of_pythons_own_are_known() -> None:
    class Plain:
        pass

    def special(value: object) -> set[str]:
        return {name for name in dir(value) if name.startswith("__") and name.endswith("__")}

    found = special(Plain) | special(type) | special(sys.modules[__name__])
    assert found <= PYTHONS
