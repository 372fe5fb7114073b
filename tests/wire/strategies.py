"""What may stand on the wire, for property tests."""

from __future__ import annotations

import string

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import settings
from hypothesis import strategies as st

from txzmq.rpc._wire.headers import OpenedStream, OpenStream, RequestHead, ResponseHead
from txzmq.rpc.errors import Code
from txzmq.rpc.metadata import Metadata

#: The same examples in each run; a run finds what the last one found.
WIRE = settings(derandomize=True, database=None, deadline=None, max_examples=100)

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
KEY = string.digits + string.ascii_lowercase + "_.-"


def packed(message: Message) -> AnyMessage:
    """A message as a detail of a status."""
    detail = AnyMessage()
    detail.Pack(message)
    return detail


keys = st.text(KEY, min_size=1, max_size=12).filter(
    lambda key: not key.endswith("-bin") and not f"{key}-".startswith("txzmq-")
)
pairs: st.SearchStrategy[tuple[str, str | bytes]] = st.one_of(
    st.tuples(keys, st.text(PRINTABLE, max_size=20)),
    st.tuples(keys.map(lambda key: f"{key}-bin"), st.binary(max_size=20)),
)
metadata: st.SearchStrategy[Metadata] = st.lists(pairs, max_size=5).map(tuple)

words = st.text(PRINTABLE.replace("/", "").replace(" ", ""), min_size=1, max_size=30)
paths = st.tuples(words, words).map("/{0[0]}/{0[1]}".format)
timeouts = st.none() | st.integers(0, 2**53)
request_keys = st.just(b"") | st.binary(min_size=16, max_size=16)
uint32, uint64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
open_streams = st.none() | st.builds(
    OpenStream, uint32, uint64, st.just(b"") | st.binary(min_size=16, max_size=16), uint64
)
request_heads = st.builds(
    RequestHead,
    paths,
    timeouts,
    metadata,
    st.booleans(),
    request_key=request_keys,
    open_stream=open_streams,
    user_agent=st.text(PRINTABLE, max_size=128),
)
topics = st.binary(min_size=16, max_size=16).filter(lambda topic: b"\0" not in topic)
opened_streams = st.none() | st.builds(
    OpenedStream,
    topics,
    st.text(max_size=30),
    st.binary(min_size=8, max_size=8),
    uint64,
    uint32,
    st.booleans(),
    uint32,
    uint64,
    st.just(b"") | topics,
)

# Of types that exist: pure Python's protobuf unpacks what it compares.
details = st.lists(
    st.sampled_from(["", "some words"]).map(lambda text: packed(StringValue(value=text))),
    max_size=2,
).map(tuple)
errors = st.builds(
    ResponseHead,
    st.sampled_from([code for code in Code if code is not Code.OK]),
    st.text(max_size=30),
    details,
    metadata,
    metadata,
    not_executed=st.booleans(),
    draining=st.booleans(),
    stream=st.none(),
    reconnect=st.booleans(),
)
# No message and no details; builds() would infer them from the annotations.
successes = st.tuples(metadata, metadata, st.booleans(), opened_streams, st.booleans()).map(
    lambda parts: ResponseHead(
        initial=parts[0],
        trailing=parts[1],
        draining=parts[2],
        stream=parts[3],
        reconnect=parts[4],
    )
)
response_heads = errors | successes

#: Anything that a peer may send.
frames = st.lists(
    st.one_of(
        st.just(b""),
        st.binary(max_size=40),
        st.binary(min_size=16, max_size=16),
        st.sampled_from([b"\0peer", b"\0proxy", bytes(16), b"\xff" * 16, b"x" * 300]),
    ),
    max_size=12,
)
