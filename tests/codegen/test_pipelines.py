"""The commands of the page on contracts in CI, run in a repository with changes to find."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.codegen.support import ROOT

yaml: Any = pytest.importorskip("yaml", reason="PyYAML, which reads pipelines, is not installed")

PAGE = (ROOT / "docs/generator-ci.md").read_text("utf-8")
#: What the environment of a test has, and that of a pipeline has to get.
INSTALLS = "pip install 'txzmq[codegen]' -c constraints.txt"
#: Where .ci/run puts buf.
BUF = shutil.which("buf") or str(ROOT / "build/buf/node_modules/.bin/buf")

BEFORE = """\
syntax = "proto3";
package acme.v1;
import "txzmq/rpc/v1/options.proto";
service Orders {
  rpc Watch(Order) returns (stream Order) {
    option (txzmq.rpc.v1.stream) = { sharing: SHARED };
  }
}
message Order {
  string name = 1;
  int32 count = 2;
}
"""
#: Changes of the proto, and whether they break callers.
ADDED = BEFORE.replace("int32 count = 2;", "int32 count = 2;\n  string note = 3;")
BROKEN = BEFORE.replace("int32 count", "string count")
#: What somebody else did on the target branch meanwhile.
MEANWHILE = BEFORE.replace("string name = 1;", "string name = 1;\n  bool gift = 4;")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def pipelines() -> dict[str, Any]:
    """The page's files of YAML: each by its name, the second of a name with a number."""
    found: dict[str, Any] = {}
    for block in blocks("yaml"):
        name = block.splitlines()[0].removeprefix("# ")
        found[f"{name} 2" if name in found else name] = yaml.safe_load(block)
    return found


def commands(pipeline: str) -> list[str]:
    """What a pipeline runs, but for what installs things."""
    content = pipelines()[pipeline]
    if pipeline.startswith(".github"):
        (job,) = content["jobs"].values()
        found = [step["run"] for step in job["steps"] if "run" in step]
    elif pipeline.startswith(".gitlab"):
        (job,) = content.values()
        found = [*job["before_script"], *job["script"]]
    else:
        ((repo,),) = content.values()
        return [hook["entry"] for hook in repo["hooks"]]
    assert found[0] == INSTALLS
    return found[1:]


class Repository:
    """A repository with protos and generated code, and a branch on which something changes."""

    def __init__(self, folder: Path) -> None:
        """:param folder: holds the repository, and the programs that its commands find."""
        self.folder = folder / "repository"
        tools = folder / "bin"
        self._environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'codegen'}",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            **{f"GIT_{who}_NAME": "somebody" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
        }

    @classmethod
    def made(cls, folder: Path) -> Repository:
        """Make one, whose main branch has gone on after the commit where branches begin."""
        made = cls(folder)
        for path in (made.folder, folder / "bin"):
            path.mkdir()
        _program(folder / "bin/python", f'exec {shlex.quote(sys.executable)} "$@"')
        # As npx does it, with the buf that is there: the first arguments name the package.
        _program(folder / "bin/npx", f'shift 2; exec {shlex.quote(BUF)} "$@"')
        made.run("git init --quiet --initial-branch main")
        (settings,) = blocks("toml")
        (made.folder / "pyproject.toml").write_text(settings, "utf-8")
        (made.folder / ".gitignore").write_text("build/\n", "utf-8")
        made.change(BEFORE)
        made.change(MEANWHILE)
        made.run("git update-ref refs/remotes/origin/main main")
        return made

    def run(self, command: str, *, status: int = 0) -> str:
        """Run a command of the shell; what it printed.

        :raises AssertionError: if it ends with another status.
        """
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == status, f"{command}: status {done.returncode}\n{done.stdout}"
        return done.stdout

    def write(self, proto: str) -> None:
        path = self.folder / "protos/acme/v1/orders.proto"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(proto, "utf-8")

    def change(self, proto: str, *, generate: bool = True) -> None:
        """Commit another proto, with the code that it generates."""
        self.write(proto)
        if generate:
            self.run("python -m txzmq.codegen")
        self.run("git add --all && git commit --quiet --message 'a change'")

    def branch(self, proto: str, *, generate: bool = True) -> None:
        """Change it on a branch, which begins before what the main branch has last."""
        self.run("git checkout --quiet -b change main~1")
        self.change(proto, generate=generate)
        base = self.run("git merge-base main change").strip()
        self._environment["CI_MERGE_REQUEST_DIFF_BASE_SHA"] = base

    def merge(self, proto: str) -> None:
        """Check out the merge with the target, as a pipeline of GitHub does."""
        both = proto.replace("string name = 1;", "string name = 1;\n  bool gift = 4;")
        self.run("git checkout --quiet --detach main")
        self.run("git merge --quiet --no-commit --strategy ours change")
        self.change(both)


def _program(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n", "utf-8")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("template")
    Repository.made(folder)
    return folder


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Repository:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return Repository(tmp_path)


GITHUB = ".github/workflows/protos.yml"
GITLAB = ".gitlab-ci.yml"
HOOKS = ".pre-commit-config.yaml"
CONTRACT = ".gitlab-ci.yml 2"


def test_the_page_has_these_pipelines() -> None:
    assert list(pipelines()) == [GITHUB, GITLAB, HOOKS, CONTRACT]


@pytest.mark.parametrize("pipeline", [GITHUB, GITLAB])
def test_a_pipeline_lets_a_harmless_change_pass(pipeline: str, repository: Repository) -> None:
    repository.branch(ADDED)
    if pipeline == GITHUB:
        repository.merge(ADDED)
    for command in commands(pipeline):
        repository.run(command)


@pytest.mark.parametrize("pipeline", [GITHUB, GITLAB])
def test_a_pipeline_finds_code_that_was_not_generated_anew(
    pipeline: str, repository: Repository
) -> None:
    repository.branch(ADDED, generate=False)
    said = repository.run(commands(pipeline)[0], status=3)
    assert "src/acme/generated/acme/v1/orders_pb2.py: changed" in said
    assert "+    note: _builtins.str" in said


@pytest.mark.parametrize("pipeline", [GITHUB, GITLAB])
def test_a_pipeline_finds_a_change_that_breaks_callers(
    pipeline: str, repository: Repository
) -> None:
    repository.branch(BROKEN)
    if pipeline == GITHUB:
        repository.merge(BROKEN)
    check, against = commands(pipeline)
    repository.run(check)
    said = repository.run(against, status=1)
    assert "field 2 (count) of acme.v1.Order changed its type" in said
    assert said.count("error:") == 1


def test_the_hooks_generate_and_find_a_change_that_breaks_callers(repository: Repository) -> None:
    generate, breaking = commands(HOOKS)
    repository.branch(ADDED, generate=False)
    repository.run(generate)
    assert repository.run("git status --porcelain").split() != []
    repository.run("git commit --quiet --all --message generated")
    repository.run(generate)
    assert repository.run("git status --porcelain") == ""
    repository.run(breaking)
    repository.change(BROKEN)
    assert "[FIELD_SAME_TYPE]" in repository.run(breaking, status=1)


def test_compared_with_the_target_itself_a_branch_would_seem_to_delete(
    repository: Repository,
) -> None:
    """Which is why the recipes compare with where the branch began."""
    repository.branch(ADDED)
    said = repository.run("python -m txzmq.codegen --check --against origin/main", status=1)
    assert "gift" in said


def test_a_release_is_compared_with(repository: Repository) -> None:
    (release,) = (block.removeprefix("$ ").strip() for block in blocks("console"))
    repository.run("git checkout --quiet --detach main~1")
    repository.run(release)
    against, describe, _ = commands(CONTRACT)
    repository.change(ADDED)
    repository.run(against)
    repository.run(describe)
    assert (repository.folder / "build/protos.binpb").exists()
    repository.change(BROKEN)
    assert "[FIELD_SAME_TYPE]" in repository.run(against, status=1)


def test_buf_finds_the_same_in_the_same_files(repository: Repository) -> None:
    if not Path(BUF).exists():
        pytest.skip("buf is not installed; .ci/run installs it by npm")
    (release,) = (block.removeprefix("$ ").strip() for block in blocks("console"))
    repository.run("git checkout --quiet --detach main~1")
    repository.run(release)
    _, describe, buf = commands(CONTRACT)
    repository.change(ADDED)
    repository.run(describe)
    repository.run(buf)
    repository.change(BROKEN)
    repository.run(describe)
    assert 'Field "2" with name "count"' in repository.run(buf, status=100)


def test_ci_installs_the_buf_of_the_page() -> None:
    (package,) = set(re.findall(r"@bufbuild/buf@[\d.]+", PAGE))
    assert package in (ROOT / ".ci/run").read_text("utf-8")
