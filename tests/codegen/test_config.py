"""``[tool.txzmq.codegen]``: what may stand there, where it is looked for, and mistakes."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codegen.support import run, write_protos
from txzmq_codegen.config import Config, configure
from txzmq_codegen.problems import UsageError

#: The keys, each with values that it takes, as TOML, and what becomes of them in the file's folder.
KEYS: dict[str, dict[str, Any]] = {
    "protos": {
        '"p"': (Path("p"),),
        '["p", "q/r"]': (Path("p"), Path("q/r")),
    },
    "include": {'"i"': (Path("i"),), "[]": (), '["i", "../j"]': (Path("i"), Path("../j"))},
    "include-imports": {"true": True, "false": False},
    "output": {'"src/gen"': Path("src/gen"), '"."': Path()},
    "imports": {'"relative"': "relative", '"absolute"': "absolute"},
    "prune": {"true": True, "false": False},
    "against": {'"main"': "main", '"v1.0~2"': "v1.0~2"},
    "breaking": {'"FILE"': "FILE", '"WIRE"': "WIRE"},
    "descriptor-set": {'"d/set.binpb"': Path("d/set.binpb")},
    "error-format": {'"text"': "text", '"json"': "json"},
}
WRONG = {
    "protos": (
        "1",
        "true",
        "[1]",
        '["p", 2]',
        '[["p"]]',
        '{ a = "p" }',
        '""',
        '["p", ""]',
        r'"\u0000"',
    ),
    "include": ("1", "[1.5]", "{}", '""', r'["\u0000"]'),
    "output": ("1", '["a"]', "false", '""', r'"a\u0000b"', "1979-05-27"),
    "include-imports": ('"yes"', "1", "[]"),
    "imports": ('"sideways"', "1", '["relative"]', "true", '""'),
    "prune": ('"yes"', "1", "0", '"true"', "[]"),
    "against": ("1", '["main"]', '""', r'"\u0000"', "true"),
    "breaking": ('"file"', '"PACKAGE"', "nan", '["FILE"]'),
    "descriptor-set": ("1", "[]", '""', "{}"),
    "error-format": ('"xml"', "0", '["json"]'),
}
MUST_BE = {
    "protos": "a list of paths",
    "include": "a list of paths",
    "output": "a path",
    "include-imports": "true or false",
    "imports": "'relative' or 'absolute'",
    "prune": "true or false",
    "against": "a commit, or the path of a descriptor set",
    "breaking": "'FILE' or 'WIRE'",
    "descriptor-set": "a path",
    "error-format": "'text' or 'json'",
}


def write(folder: Path, text: str | bytes) -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "pyproject.toml").write_bytes(data)
    return folder


def table(folder: Path, **keys: str) -> Path:
    lines = "".join(f"{key.replace('_', '-')} = {value}\n" for key, value in keys.items())
    return write(folder, f"[tool.txzmq.codegen]\n{lines}")


def refused(folder: Path, *arguments: str) -> list[str]:
    """What is said of the configuration that a run in *folder* finds."""
    with pytest.raises(UsageError) as caught:
        configure(arguments, folder)
    return [str(error) for error in (caught.value, *caught.value.others)]


def test_every_key_is_tested_here() -> None:
    assert KEYS.keys() == WRONG.keys() == MUST_BE.keys()
    commands = {"check", "diff", "watch", "print_include", "pool", "init", "service"}
    assert {key.replace("-", "_") for key in KEYS} | commands == set(Config._fields)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in KEYS for value in KEYS[key]])
def test_a_key_sets_the_option_of_its_name(tmp_path: Path, key: str, value: str) -> None:
    table(tmp_path, **{key: value})
    # The root of a project can be the output only so.
    options = ["--imports", "absolute"] if key == "output" else []
    config = configure([*options, *(["given"] if key != "protos" else [])], tmp_path)
    assert getattr(config, key.replace("-", "_")) == KEYS[key][value]


def test_an_absolute_path_stays_where_it_is(tmp_path: Path) -> None:
    (path,) = configure([], table(tmp_path, protos='"/abs/p"')).protos
    assert (tmp_path / path).resolve() == Path("/abs/p")


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in WRONG for value in WRONG[key]])
def test_a_wrong_value_is_told_with_what_would_be_right(
    tmp_path: Path, key: str, value: str
) -> None:
    (said,) = refused(table(tmp_path, **{key: value}), "given")
    assert said.startswith(f"pyproject.toml: {key} must be {MUST_BE[key]}, not ")


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert configure(["p"], tmp_path) == Config(
        protos=(Path("p"),),
        include=(),
        include_imports=False,
        output=Path("generated"),
        imports="relative",
        prune=False,
        check=False,
        diff=False,
        watch=False,
        against=None,
        breaking="FILE",
        descriptor_set=None,
        error_format="text",
        print_include=False,
        pool=None,
        init=None,
        service="Hello",
    )


@pytest.mark.parametrize(
    "text", ["", "[tool]\n", "[tool.other]\nx = 1\n", "[tool.txzmq]\n", "[tool.txzmq.codegen]\n"]
)
def test_a_file_that_says_nothing_changes_nothing(tmp_path: Path, text: str) -> None:
    assert configure(["p"], write(tmp_path, text)) == configure(["p"], tmp_path.parent)


def test_the_command_line_wins(tmp_path: Path) -> None:
    keys = {
        "protos": '["a"]',
        "include": '["b"]',
        "output": '"c"',
        "imports": '"absolute"',
        "prune": "false",
        "against": '"d"',
        "breaking": '"WIRE"',
        "descriptor_set": '"e"',
        "error_format": '"json"',
    }
    options = "p -I q -o r --imports relative --prune --against s --breaking FILE"
    more = "--descriptor-set t --error-format text --check --diff"
    config = configure(f"{options} {more}".split(), table(tmp_path, **keys))
    assert config == configure(f"{options} {more}".split(), tmp_path.parent)


def test_each_option_of_the_file_holds_if_the_command_line_does_not_give_it(tmp_path: Path) -> None:
    config = configure(["-o", "r"], table(tmp_path, protos='"p"', output='"o"', prune="true"))
    assert (config.protos, config.output, config.prune) == ((Path("p"),), Path("r"), True)


def test_the_nearest_file_counts_and_its_paths_start_at_its_folder(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    table(tmp_path, protos='"far"')
    keys = {"protos": '["p"]', "include": '["i"]', "output": '"o"', "descriptor_set": '"d"'}
    table(tmp_path / "a", **keys)
    config = configure([], inner)
    assert config.protos == (Path("../p"),)
    assert config.include == (Path("../i"),)
    assert (config.output, config.descriptor_set) == (Path("../o"), Path("../d"))


def test_a_file_without_our_table_still_ends_the_search(tmp_path: Path) -> None:
    inner = tmp_path / "a"
    inner.mkdir()
    table(tmp_path, protos='"far"')
    assert refused(write(inner, "[project]\n")) == ["no protos given"]


def test_a_folder_called_like_the_file_is_passed_by(tmp_path: Path) -> None:
    inner = tmp_path / "a"
    (inner / "pyproject.toml").mkdir(parents=True)
    table(tmp_path, protos='"p"')
    assert configure([], inner).protos == (Path("../p"),)


def test_a_set_to_compare_with_lies_where_the_file_says(tmp_path: Path) -> None:
    inner = tmp_path / "a"
    inner.mkdir()
    (tmp_path / "before.binpb").touch()
    table(tmp_path, protos='"p"', against='"before.binpb"')
    assert configure([], inner).against == "../before.binpb"


@pytest.mark.parametrize("arguments", [[], ["--check"], ["-o", "out"]])
@pytest.mark.parametrize("keys", [{}, {"protos": "[]"}, {"output": '"gen"'}])
def test_without_protos_there_is_nothing_to_do(
    tmp_path: Path, keys: Mapping[str, str], arguments: list[str]
) -> None:
    assert refused(table(tmp_path, **keys), *arguments) == ["no protos given"]


_ALL = ", ".join(KEYS)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("protoss", "did you mean protos?"),
        ("Output", "did you mean output?"),
        ("error_format", "did you mean error-format?"),
        ("descriptor_set", "did you mean descriptor-set?"),
        ("xyz", f"there are {_ALL}"),
    ],
)
def test_an_unknown_key_is_told(tmp_path: Path, key: str, near: str) -> None:
    folder = write(tmp_path, f'[tool.txzmq.codegen]\n{key} = "x"\n')
    said = f"pyproject.toml: unknown key {key!r} in [tool.txzmq.codegen]; {near}"
    assert refused(folder, "p") == [said]


@pytest.mark.parametrize("key", ["check", "diff", "watch", "print-include", "init", "service"])
def test_a_command_is_no_key(tmp_path: Path, key: str) -> None:
    (said,) = refused(write(tmp_path, f"[tool.txzmq.codegen]\n{key} = true\n"), "p")
    belongs = "belongs on the command line, not in [tool.txzmq.codegen]"
    assert said == f"pyproject.toml: {key} {belongs}"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        "[tool.txzmq.codgen]\nprune = true\n"
        "[tool.txzmq-codegen]\nprune = true\n"
        '[tool.txzmq.codegen]\nprotoss = "p"\nimports = 3\ncheck = true\noutput = "fine"\n'
        'prune = "no"\n',
    )
    write_protos({"x.proto": 'syntax = "proto3";'}, tmp_path / "p")
    ran = run("p", folder=tmp_path)
    assert ran.status == 2
    head = "error: pyproject.toml: "
    assert ran.err.splitlines() == [
        f"{head}unknown table [tool.txzmq-codegen]; did you mean [tool.txzmq.codegen]?",
        f"{head}unknown table 'codgen' in [tool.txzmq]; there is [tool.txzmq.codegen] only",
        f"{head}unknown key 'protoss' in [tool.txzmq.codegen]; did you mean protos?",
        f"{head}imports must be 'relative' or 'absolute', not 3",
        f"{head}check belongs on the command line, not in [tool.txzmq.codegen]",
        f"{head}prune must be true or false, not 'no'",
    ]
    assert not (tmp_path / "generated").exists()


@pytest.mark.parametrize("name", ["txzmq-codegen", "txzmq_codegen", '"txzmq.codegen"', "TxZMQ"])
def test_a_table_beside_ours_that_looks_like_it_is_told(tmp_path: Path, name: str) -> None:
    (said,) = refused(write(tmp_path, f'[tool.{name}]\nprotos = "p"\n'), "p")
    assert said.endswith("; did you mean [tool.txzmq.codegen]?")


@pytest.mark.parametrize("name", ["ruff", "txzmq-other", "codegen", "zmq"])
def test_tables_of_other_tools_are_their_business(tmp_path: Path, name: str) -> None:
    config = configure(["p"], write(tmp_path, f'[tool.{name}]\nprotos = "q"\n'))
    assert config.protos == (Path("p"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tool = 3\n", "[tool] must be a table, not 3"),
        ("[tool]\ntxzmq = []\n", "[tool.txzmq] must be a table, not []"),
        ('[tool.txzmq]\ncodegen = "x"\n', "[tool.txzmq.codegen] must be a table, not 'x'"),
        ("[[tool.txzmq.codegen]]\n", "[tool.txzmq.codegen] must be a table, not [{}]"),
        ("[tool.txzmq]\nprune = true\n", "unknown key 'prune' in [tool.txzmq]; there is [tool."),
        ("[tool.txzmq.codegen]\nprune = true\nprune = true\n", "Cannot overwrite a value"),
        ("[tool", "Expected ']' at the end of a table declaration"),
        (b"\xff\n", "it is not UTF-8"),
        ("\x00", "Invalid statement"),
        (f"a = {'[' * 5000}{']' * 5000}\n", "its values are nested too deeply"),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path: Path, text: str | bytes, said: str) -> None:
    (found,) = refused(write(tmp_path, text), "p")
    assert found.startswith(f"pyproject.toml: {said}")


def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    write(tmp_path, "")
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert refused(tmp_path, "p") == ["pyproject.toml: Permission denied"]


def test_a_current_folder_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> Path:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "cwd", gone)
    assert run("p", folder=tmp_path) == (2, "", "error: [Errno 2] No such file or directory\n")


_TOML_KEYS = st.sampled_from([*KEYS, "check", "protoss", "x", "tool", "codegen", "error_format"])
_TOML_VALUES = st.one_of(
    st.sampled_from([value for values in (*KEYS.values(), *WRONG.values()) for value in values]),
    st.integers().map(str),
    st.booleans().map(lambda value: str(value).lower()),
)
_TABLES = st.sampled_from(
    ["tool.txzmq.codegen", "tool.txzmq", "tool", "tool.txzmq.codgen", "tool.other", "a"]
)


@given(st.lists(st.tuples(_TABLES, st.dictionaries(_TOML_KEYS, _TOML_VALUES, max_size=6))))
def test_any_table_gives_options_or_says_what_is_wrong(
    tables: list[tuple[str, dict[str, str]]],
) -> None:
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
        for name, keys in tables
    )
    _options_or_an_error(text.encode())


@given(st.binary())
def test_any_bytes_give_options_or_say_what_is_wrong(data: bytes) -> None:
    _options_or_an_error(data)


@given(st.text())
def test_any_value_gives_options_or_says_what_is_wrong(value: str) -> None:
    _options_or_an_error(
        f"[tool.txzmq.codegen]\nprotos = '''{value}'''\n".encode("utf-8", "replace")
    )


def _options_or_an_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), data)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                config = configure(["given"], Path(folder))
        except UsageError as error:
            for one in (error, *error.others):
                assert str(one).startswith(("pyproject.toml: ", ". is the root"))
            return
    assert config.protos == (Path("given"),)
    assert config.imports in ("relative", "absolute")
    assert config.breaking in ("FILE", "WIRE")
    assert isinstance(config.prune, bool)
    assert "\0" not in os.fspath(config.output)


@pytest.mark.parametrize("name", ["txzmq.codegen", "txzmq", "txzmq-codegen"])
def test_a_table_that_is_not_below_tool_is_told(tmp_path: Path, name: str) -> None:
    (said,) = refused(write(tmp_path, f'[{name}]\nprotos = "p"\n'), "p")
    top = name.removesuffix(".codegen")
    assert said == f"pyproject.toml: unknown table [{top}]; did you mean [tool.txzmq.codegen]?"
