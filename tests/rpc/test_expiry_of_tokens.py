"""What a client reads out of a token: when it expires, whatever else is in it."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import examples
from txzmq._jwt import expiry_of


def token_of(payload: Any) -> str:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return f"e30.{base64.urlsafe_b64encode(data).rstrip(b'=').decode()}.c2ln"


@pytest.mark.parametrize(
    ("payload", "expires"),
    [
        ({"exp": 5}, 5.0),
        ({"exp": 1.5}, 1.5),
        ({}, math.inf),
        ({"exp": "5"}, math.inf),
        ({"exp": True}, math.inf),
        ({"exp": None}, math.inf),
        ({"exp": 10**400}, math.inf),
        (b'{"exp": NaN}', math.inf),
        (b'{"exp": 1e999}', math.inf),
        ([1], math.inf),
        ("exp", math.inf),
        (b"\xff", math.inf),
        (b"[" * 100_000, math.inf),
    ],
)
def test_a_json_web_token_says_when_it_expires(payload: Any, expires: float) -> None:
    assert expiry_of(token_of(payload)) == expires


@given(st.text(alphabet="abcxyzAZ019-_.=/+~", max_size=60) | st.text(max_size=20))
@settings(max_examples=examples(200))
def test_any_text_has_an_expiry_and_none_raises(text: str) -> None:
    assert isinstance(expiry_of(text), float)
    assert isinstance(expiry_of(f"a.{text}.b"), float)


@given(st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.lists(st.none()))
@settings(max_examples=examples(100))
def test_any_claim_has_an_expiry_and_none_raises(exp: Any) -> None:
    expires = expiry_of(token_of({"exp": exp}))
    assert expires == expires
