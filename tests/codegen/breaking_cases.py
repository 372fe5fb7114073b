"""Changes of protos, and the rules that they break: what ``test_breaking.py`` goes through."""

from __future__ import annotations

from typing import NamedTuple

HEAD = 'syntax = "proto3";\npackage acme;\n'
HEAD2 = 'syntax = "proto2";\npackage acme;\n'
EDITION = 'edition = "2023";\npackage acme;\n'
OPTIONS = HEAD + 'import "txzmq/rpc/v1/options.proto";\n'
EXPLICIT = "'optional with explicit presence'"
IMPLICIT = "'optional with implicit presence'"
#: What protoc makes of map<string, int32> m.
ENTRY = "message MEntry { string key = 1; int32 value = 2; }"
QA = "message Q { string a = 1; }\nmessage A { string a = 1; }\n"


class Change(NamedTuple):
    """One change, and the rules that it breaks in either category."""

    before: str
    after: str
    file: str = ""
    wire: str = ""
    head: str = HEAD
    #: What is said in the category FILE, where the words depend on the change.
    said: tuple[str, ...] = ()


def service(rpc: str) -> str:
    return QA + f"service S {{\n  {rpc}\n}}\n"


def guarded(word: str = "", of_service: str = "") -> str:
    """A service that requires a word of its own, of its rpc, or of both."""
    of_all = f'option (txzmq.rpc.v1.service_requires) = "{of_service}";' if of_service else ""
    own = f'option (txzmq.rpc.v1.requires) = "{word}";' if word else ""
    return service(f"{of_all}\n  rpc Do(Q) returns (A) {{ {own} }}")


CHANGES = {
    "nothing": Change(QA, QA),
    "something new": Change(QA, QA + "message New {}\nservice S { rpc Do(Q) returns (A); }\n"),
    "a new field": Change("message M {}\n", "message M { string a = 1; }\n"),
    "comments and order": Change(QA, "// Said.\n" + "".join(reversed(QA.splitlines(True)))),
    "message deleted": Change(QA, "message Q { string a = 1; }\n", "MESSAGE_NO_DELETE"),
    "nested message deleted": Change(
        "message M { message N {} }\n", "message M {}\n", "MESSAGE_NO_DELETE"
    ),
    "enum deleted": Change("enum E { Z = 0; }\n" + QA, QA, "ENUM_NO_DELETE"),
    "service deleted": Change(service("rpc Do(Q) returns (A);"), QA, "SERVICE_NO_DELETE"),
    "rpc deleted": Change(
        service("rpc Do(Q) returns (A);"), service("rpc Be(Q) returns (A);"), "RPC_NO_DELETE"
    ),
    "request type": Change(
        service("rpc Do(Q) returns (A);"),
        service("rpc Do(A) returns (A);"),
        "RPC_SAME_REQUEST_TYPE",
        "RPC_SAME_REQUEST_TYPE",
    ),
    "response type": Change(
        service("rpc Do(Q) returns (A);"),
        service("rpc Do(Q) returns (Q);"),
        "RPC_SAME_RESPONSE_TYPE",
        "RPC_SAME_RESPONSE_TYPE",
    ),
    "client streaming": Change(
        service("rpc Do(Q) returns (A);"),
        service("rpc Do(stream Q) returns (A);"),
        "RPC_SAME_CLIENT_STREAMING",
        "RPC_SAME_CLIENT_STREAMING",
    ),
    "server streaming": Change(
        service("rpc Do(Q) returns (stream A);"),
        service("rpc Do(Q) returns (A);"),
        "RPC_SAME_SERVER_STREAMING",
        "RPC_SAME_SERVER_STREAMING",
    ),
    "idempotency level": Change(
        service("rpc Do(Q) returns (A) { option idempotency_level = IDEMPOTENT; }"),
        service("rpc Do(Q) returns (A);"),
        "RPC_SAME_IDEMPOTENCY_LEVEL",
        "RPC_SAME_IDEMPOTENCY_LEVEL",
    ),
    "another word is required": Change(
        guarded("orders.read"),
        guarded("orders.write"),
        "TXZMQ_RPC_SAME_REQUIRES",
        "TXZMQ_RPC_SAME_REQUIRES",
        head=OPTIONS,
        said=(
            'rpc acme.S.Do changed the word that it requires from "orders.read" to "orders.write"',
        ),
    ),
    "a word is required": Change(
        guarded(),
        guarded("orders.read"),
        "TXZMQ_RPC_SAME_REQUIRES",
        "TXZMQ_RPC_SAME_REQUIRES",
        head=OPTIONS,
        said=('rpc acme.S.Do changed the word that it requires from none to "orders.read"',),
    ),
    "no word is required any more": Change(
        guarded(of_service="orders"),
        guarded(),
        "TXZMQ_RPC_SAME_REQUIRES",
        "TXZMQ_RPC_SAME_REQUIRES",
        head=OPTIONS,
        said=('rpc acme.S.Do changed the word that it requires from "orders" to none',),
    ),
    "the same word, said of the method in place of its service": Change(
        guarded(of_service="orders"), guarded("orders", of_service="other"), head=OPTIONS
    ),
    "python name": Change(
        service("rpc GetFoo(Q) returns (A);"),
        service("rpc GetFoo(Q) returns (A);\n  rpc getFoo(Q) returns (A);"),
        "TXZMQ_RPC_SAME_PYTHON_NAME",
    ),
    "field deleted": Change(
        "message M { string a = 1; }\n",
        "message M {}\n",
        "FIELD_NO_DELETE",
        "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
    ),
    "field deleted and reserved": Change(
        "message M { string a = 1; }\n", "message M { reserved 1; }\n", "FIELD_NO_DELETE"
    ),
    "field renamed": Change(
        "message M { string a = 1; }\n", "message M { string b = 1; }\n", "FIELD_SAME_NAME"
    ),
    "JSON name": Change(
        "message M { string a = 1; }\n",
        'message M { string a = 1 [json_name = "b"]; }\n',
        "FIELD_SAME_JSON_NAME",
    ),
    "field type": Change(
        "message M { string a = 1; }\n",
        "message M { int32 a = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "compatible field type": Change(
        "message M { int32 a = 1; }\n", "message M { uint64 a = 1; }\n", "FIELD_SAME_TYPE"
    ),
    "zigzag is another encoding": Change(
        "message M { int32 a = 1; }\n",
        "message M { sint32 a = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "text becomes bytes": Change(
        "message M { string a = 1; }\n", "message M { bytes a = 1; }\n", "FIELD_SAME_TYPE"
    ),
    "bytes become text": Change(
        "message M { bytes a = 1; }\n",
        "message M { string a = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "message type of a field": Change(
        QA + "message M { Q m = 1; }\n",
        QA + "message M { A m = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "repeated": Change(
        "message M { string a = 1; }\n",
        "message M { repeated string a = 1; }\n",
        "FIELD_SAME_CARDINALITY",
        "FIELD_WIRE_COMPATIBLE_CARDINALITY",
    ),
    "presence": Change(
        "message M { string a = 1; }\n",
        "message M { optional string a = 1; }\n",
        "FIELD_SAME_CARDINALITY",
    ),
    "oneof": Change(
        "message M { oneof o { string a = 1; string b = 2; } }\n",
        "message M { oneof o { string a = 1; } string b = 2; }\n",
        "FIELD_SAME_CARDINALITY FIELD_SAME_ONEOF",
        "FIELD_SAME_ONEOF",
    ),
    "oneof deleted": Change(
        "message M { oneof o { string a = 1; } }\n",
        "message M { oneof p { string a = 1; } }\n",
        "FIELD_SAME_ONEOF ONEOF_NO_DELETE",
        "FIELD_SAME_ONEOF",
    ),
    "default": Change(
        "message M { optional int32 a = 1 [default = 1]; }\n",
        "message M { optional int32 a = 1 [default = 2]; }\n",
        "FIELD_SAME_DEFAULT",
        "FIELD_SAME_DEFAULT",
        HEAD2,
    ),
    "required": Change(
        "message M { optional int32 a = 1; }\n",
        "message M { required int32 a = 1; }\n",
        "FIELD_SAME_CARDINALITY MESSAGE_SAME_REQUIRED_FIELDS",
        "MESSAGE_SAME_REQUIRED_FIELDS",
        HEAD2,
    ),
    "reserved": Change(
        'message M { reserved 1 to 5; reserved "a"; }\n',
        "message M { reserved 1 to 3; }\n",
        "RESERVED_MESSAGE_NO_DELETE RESERVED_MESSAGE_NO_DELETE",
        "RESERVED_MESSAGE_NO_DELETE RESERVED_MESSAGE_NO_DELETE",
    ),
    "reserved otherwise": Change(
        "message M { reserved 1 to 5; }\n", "message M { reserved 1 to 2, 3, 4 to 9; }\n"
    ),
    "enum value deleted": Change(
        "enum E { Z = 0; ONE = 1; }\n",
        "enum E { Z = 0; }\n",
        "ENUM_VALUE_NO_DELETE",
        "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED",
    ),
    "enum value deleted and reserved": Change(
        "enum E { Z = 0; ONE = 1; }\n", "enum E { Z = 0; reserved 1; }\n", "ENUM_VALUE_NO_DELETE"
    ),
    "enum value renamed": Change(
        "enum E { Z = 0; ONE = 1; }\n", "enum E { Z = 0; UNO = 1; }\n", "ENUM_VALUE_SAME_NAME"
    ),
    "enum value gets an alias": Change(
        "enum E { Z = 0; ONE = 1; }\n",
        "enum E { option allow_alias = true; Z = 0; ONE = 1; UNO = 1; }\n",
    ),
    "reserved enum value": Change(
        "enum E { Z = 0; reserved 2 to 4; }\n",
        "enum E { Z = 0; reserved 2; }\n",
        "RESERVED_ENUM_NO_DELETE",
        "RESERVED_ENUM_NO_DELETE",
    ),
    "extension range": Change(
        "message M { extensions 100 to 199; }\n",
        "message M { extensions 100 to 150; }\n",
        "EXTENSION_MESSAGE_NO_DELETE",
        head=HEAD2,
    ),
    "extension": Change(
        "message M { extensions 100 to 199; }\nextend M { optional int32 e = 100; }\n",
        "message M { extensions 100 to 199; }\n",
        "EXTENSION_NO_DELETE",
        head=HEAD2,
    ),
    "map": Change(
        "message M { map<string, string> m = 1; }\n",
        "message M { map<string, int32> m = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "map becomes repeated": Change(
        "message M { map<string, int32> m = 1; }\n",
        "message M { repeated E m = 1; }\nmessage E { string key = 1; int32 value = 2; }\n",
        "FIELD_SAME_CARDINALITY FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
        said=(
            "field 1 (m) of acme.M changed its cardinality from 'map' to 'repeated'",
            "field 1 (m) of acme.M changed its type from 'acme.M.MEntry' to 'acme.E'",
        ),
    ),
    "map becomes repeated of what it was": Change(
        "message M { map<string, int32> m = 1; }\n",
        f"message M {{ {ENTRY} repeated MEntry m = 1; }}\n",
        "FIELD_SAME_CARDINALITY",
        said=("field 1 (m) of acme.M changed its cardinality from 'map' to 'repeated'",),
    ),
    "repeated becomes map": Change(
        f"message M {{ {ENTRY} repeated MEntry m = 1; }}\n",
        "message M { map<string, int32> m = 1; }\n",
        "FIELD_SAME_CARDINALITY",
        said=("field 1 (m) of acme.M changed its cardinality from 'repeated' to 'map'",),
    ),
    "map of a nested message becomes repeated": Change(
        "message M { message N { map<string, int32> m = 1; } }\n",
        f"message M {{ message N {{ {ENTRY} repeated MEntry m = 1; }} }}\n",
        "FIELD_SAME_CARDINALITY",
        said=("field 1 (m) of acme.M.N changed its cardinality from 'map' to 'repeated'",),
    ),
    "map becomes one message": Change(
        "message M { map<string, int32> m = 1; }\n",
        f"message M {{ {ENTRY} MEntry m = 1; }}\n",
        "FIELD_SAME_CARDINALITY",
        "FIELD_WIRE_COMPATIBLE_CARDINALITY",
        said=(f"field 1 (m) of acme.M changed its cardinality from 'map' to {EXPLICIT}",),
    ),
    "an entry of another message's map is no map": Change(
        f"message O {{ {ENTRY} }}\nmessage M {{ map<string, int32> m = 1; O.MEntry o = 2; }}\n",
        f"message O {{ {ENTRY} }}\n"
        "message M { map<string, int32> m = 1; repeated O.MEntry o = 2; }\n",
        "FIELD_SAME_CARDINALITY",
        "FIELD_WIRE_COMPATIBLE_CARDINALITY",
        said=(f"field 2 (o) of acme.M changed its cardinality from {EXPLICIT} to 'repeated'",),
    ),
    "map deleted": Change(
        "message M { map<string, int32> m = 1; }\n",
        "message M { }\n",
        "FIELD_NO_DELETE",
        "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
        said=("field 1 (m) of acme.M was deleted",),
    ),
    "field beside what is reserved deleted": Change(
        "message M { reserved 1 to 2; string a = 3; }\n",
        "message M { reserved 1 to 2; }\n",
        "FIELD_NO_DELETE",
        "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
    ),
    "other numbers reserved": Change(
        "message M { reserved 1 to 5; }\n",
        "message M { reserved 8; }\n",
        "RESERVED_MESSAGE_NO_DELETE",
        "RESERVED_MESSAGE_NO_DELETE",
        said=("reserved 1 to 5 of message acme.M was deleted",),
    ),
    "one reserved enum value": Change(
        "enum E { Z = 0; reserved 2; }\n",
        "enum E { Z = 0; }\n",
        "RESERVED_ENUM_NO_DELETE",
        "RESERVED_ENUM_NO_DELETE",
        said=("reserved 2 to 2 of enum acme.E was deleted",),
    ),
    "extension range deleted": Change(
        "message M { extensions 100 to 199; }\n",
        "message M { }\n",
        "EXTENSION_MESSAGE_NO_DELETE",
        head=HEAD2,
        said=("extensions 100 to 199 of acme.M were deleted",),
    ),
    "extension kept": Change(
        "message M { extensions 100 to 199; }\nextend M { optional int32 e = 100; }\n",
        "message M { extensions 100 to 199; }\nextend M { optional int32 e = 100; }\n",
        head=HEAD2,
    ),
    "required no more": Change(
        "message M { required int32 a = 1; }\n",
        "message M { optional int32 a = 1; }\n",
        "FIELD_SAME_CARDINALITY MESSAGE_SAME_REQUIRED_FIELDS",
        "MESSAGE_SAME_REQUIRED_FIELDS",
        HEAD2,
        said=(
            f"field 1 (a) of acme.M changed its cardinality from 'required' to {EXPLICIT}",
            "field 1 of acme.M is no longer required",
        ),
    ),
    "a new required field": Change(
        "message M { }\n",
        "message M { required int32 a = 1; }\n",
        "MESSAGE_SAME_REQUIRED_FIELDS",
        "MESSAGE_SAME_REQUIRED_FIELDS",
        HEAD2,
        said=("field 1 of acme.M became required",),
    ),
    "numbers become bytes": Change(
        "message M { fixed64 a = 1; }\n",
        "message M { bytes a = 1; }\n",
        "FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "fixed numbers": Change(
        "message M { fixed64 a = 1; fixed32 b = 2; sint32 c = 3; }\n",
        "message M { sfixed64 a = 1; sfixed32 b = 2; sint64 c = 3; }\n",
        "FIELD_SAME_TYPE FIELD_SAME_TYPE FIELD_SAME_TYPE",
    ),
    "fixed numbers of other sizes": Change(
        "message M { fixed64 a = 1; float b = 2; }\n",
        "message M { fixed32 a = 1; double b = 2; }\n",
        "FIELD_SAME_TYPE FIELD_SAME_TYPE",
        "FIELD_WIRE_COMPATIBLE_TYPE FIELD_WIRE_COMPATIBLE_TYPE",
    ),
    "a message has presence anyway": Change(
        QA + "message M { Q q = 1; }\n", QA + "message M { optional Q q = 1; }\n"
    ),
    "presence by the file": Change(
        "option features.field_presence = IMPLICIT;\nmessage M { string a = 1; }\n",
        "message M { string a = 1; }\n",
        "FIELD_SAME_CARDINALITY",
        head=EDITION,
        said=(f"field 1 (a) of acme.M changed its cardinality from {IMPLICIT} to {EXPLICIT}",),
    ),
    "presence by the field": Change(
        "message M { string a = 1 [features.field_presence = IMPLICIT]; }\n",
        "option features.field_presence = IMPLICIT;\nmessage M { string a = 1; }\n",
        head=EDITION,
    ),
    "enum becomes closed": Change(
        "enum E { Z = 0; }\n",
        "enum E { option features.enum_type = CLOSED; Z = 0; }\n",
        "ENUM_SAME_TYPE",
        "ENUM_SAME_TYPE",
        EDITION,
        said=("enum acme.E was open and is closed",),
    ),
    "enum becomes open": Change(
        "option features.enum_type = CLOSED;\nenum E { Z = 0; }\n",
        "option features.enum_type = CLOSED;\n"
        "enum E { option features.enum_type = OPEN; Z = 0; }\n",
        "ENUM_SAME_TYPE",
        "ENUM_SAME_TYPE",
        EDITION,
        said=("enum acme.E was closed and is open",),
    ),
}
