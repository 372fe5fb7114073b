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
