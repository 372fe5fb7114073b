"""A corpus of protos, as large as wanted, in the shape of a company's API."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["write_corpus"]

_FILES_PER_PACKAGE: Final = 20

_COMMON: Final = """\
// What the whole API shares.
syntax = "proto3";

package corpus.common.v1;

import "google/protobuf/timestamp.proto";

// Who did something, and when.
message Stamp {
  string user = 1;
  google.protobuf.Timestamp at = 2;
}

// Where to go on.
message Page {
  int32 size = 1;
  string token = 2;
}
"""

_FILE: Final = """\
// Service {number} of the corpus.
syntax = "proto3";

package corpus.p{package:04d}.v1;

import "corpus/common/v1/common.proto";
{neighbour}
// Keeps things number {number}.
service Things{number} {{
  // Reads one thing.
  //
  // NOT_FOUND if there is none of that name.
  rpc GetThing{number}(GetThing{number}Request) returns (Thing{number}) {{
    option idempotency_level = NO_SIDE_EFFECTS;
  }}
  // Lists things, page by page.
  rpc ListThing{number}(ListThing{number}Request) returns (ListThing{number}Response) {{
    option idempotency_level = NO_SIDE_EFFECTS;
  }}
  // Tells of each change.
  rpc WatchThing{number}(GetThing{number}Request) returns (stream Thing{number});
  // Stores many things at once.
  rpc ImportThing{number}(stream Thing{number}) returns (ListThing{number}Response);
}}

// A thing.
message Thing{number} {{
  // Its name, for ever.
  string name = 1;
  int64 size = 2;
  bool active = 3;
  repeated string labels = 4;
  map<string, string> annotations = 5;
  corpus.common.v1.Stamp created = 6;
  optional double weight = 7;
  oneof content {{
    string text = 8;
    bytes data = 9;
  }}
  State{number} state = 10;
{field}}}

enum State{number} {{
  STATE{number}_UNSPECIFIED = 0;
  STATE{number}_READY = 1;
  STATE{number}_GONE = 2;
}}

message GetThing{number}Request {{
  string name = 1;
}}

message ListThing{number}Request {{
  corpus.common.v1.Page page = 1;
  string filter = 2;
}}

message ListThing{number}Response {{
  repeated Thing{number} things = 1;
  corpus.common.v1.Page next = 2;
}}
"""


def write_corpus(folder: Path, services: int) -> None:
    """Write *services* files with one service each, and one that all of them import."""
    common = folder / "corpus/common/v1/common.proto"
    common.parent.mkdir(parents=True)
    common.write_text(_COMMON, "utf-8")
    for number in range(services):
        path = folder / _name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_text(number), "utf-8")


def _name(number: int) -> str:
    return f"corpus/p{number // _FILES_PER_PACKAGE:04d}/v1/things{number}.proto"


def _text(number: int) -> str:
    """The text of a file; all but the first of a package import the one before."""
    package, place = divmod(number, _FILES_PER_PACKAGE)
    neighbour = field = ""
    if place:
        neighbour = f'import "{_name(number - 1)}";\n'
        field = f"  Thing{number - 1} previous = 11;\n"
    return _FILE.format(number=number, package=package, neighbour=neighbour, field=field)


# A corpus in the shape of a public cloud API (googleapis): for each service of the corpus above
# there are as many messages as that has there, with fields whose comments are paragraphs and with
# options of others.

_CLOUD_COMMON: Final = """\
syntax = "proto3";

package cloud.common;

import "google/protobuf/descriptor.proto";

enum Behavior {
  BEHAVIOR_UNSPECIFIED = 0;
  REQUIRED = 1;
  OUTPUT_ONLY = 2;
}

extend google.protobuf.FieldOptions {
  repeated Behavior behavior = 1052;
  string response_field = 1151;
}
"""

_CLOUD_MESSAGE: Final = """
// A resource of kind {kind} in the service {number}. A client creates it, either side changes it,
// and an administrator deletes it. Its name is unique within the project that it belongs to.
message Resource{number}x{kind} {{
  // Which phase the resource is in.
  enum Phase {{
    // No phase is given; this value is not used.
    PHASE_UNSPECIFIED = 0;
    // The resource is being made, and cannot be used yet.
    CREATING = 1;
    // The resource can be used.
    READY = 2;
    // The resource is being deleted.
    DELETING = 3;
  }}

{fields}
}}
"""

_CLOUD_FIELD: Final = """\
  // Output only. What the field {field} of the resource says. It is set by the service when the
  // resource is made, and is no longer than 1,024 characters.
  //
  // See [the guide](https://example.com/guide/resources#field-{field}) for what may be in it.
  {type} field_{field} = {field} [(cloud.common.behavior) = OUTPUT_ONLY,
      (cloud.common.response_field) = "name"];
"""
_CLOUD_TYPES: Final = (
    "string",
    "int64",
    "repeated string",
    "Phase",
    "map<string, string>",
    "google.protobuf.Timestamp",
    "bool",
)
#: Messages of a file, and fields of a message.
_MESSAGES: Final = 5
_FIELDS: Final = 14
#: Of so many files, four have services.
_GROUP: Final = 5


def write_cloud(folder: Path, files: int) -> None:
    """Write *files* files of five messages each, four in five of them with a service."""
    common = folder / "cloud/common/common.proto"
    common.parent.mkdir(parents=True)
    common.write_text(_CLOUD_COMMON, "utf-8")
    for number in range(files):
        path = folder / f"cloud/p{number // _GROUP:04d}/v1/resources{number}.proto"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_cloud_text(number), "utf-8")


def _cloud_text(number: int) -> str:
    fields = "\n".join(
        _CLOUD_FIELD.format(field=field, type=_CLOUD_TYPES[field % len(_CLOUD_TYPES)])
        for field in range(1, _FIELDS + 1)
    )
    head = f"""syntax = "proto3";

package cloud.p{number // _GROUP:04d}.v1;

import "cloud/common/common.proto";
import "google/protobuf/timestamp.proto";
"""
    messages = (
        _CLOUD_MESSAGE.format(kind=kind, number=number, fields=fields) for kind in range(_MESSAGES)
    )
    return head + "".join(messages) + ("" if number % _GROUP == 0 else _cloud_service(number))


def _cloud_service(number: int) -> str:
    rpcs = "\n".join(
        f"  // Does thing {kind} with a resource, and answers with it as it is then.\n"
        f"  rpc Do{kind}(Resource{number}x{kind}) returns (Resource{number}x{kind});"
        for kind in range(_MESSAGES)
    )
    return f"\n// Looks after resources.\nservice Resources{number} {{\n{rpcs}\n}}\n"
