"""The page of the chat among the examples, in two windows of a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.foreign.clients import BUILT
from tests.foreign.conftest import free_port
from tests.programs import ROOT, Program, running, started, succeeds


def told(program: Program) -> Any:
    return json.loads(program.expect(r"\{.*\}")[0])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.skipif(
    not (BUILT / "node_modules/puppeteer-core").exists(), reason="make test-clients installs it"
)
def test_guests_chat_and_join_again(built: None, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/chat", tmp_path / "examples/chat")
    protos = ROOT / "protos"
    succeeds(["-m", "txzmq.codegen", protos / "demo", "--include", protos], tmp_path)
    served = ["-m", "examples.chat", str(free_port())]
    with running(*served, cwd=tmp_path) as server:
        url = server.expect("open (http://.+) in two windows")[1]
        with started("node", str(BUILT / "chat.mjs"), url, stdin=True) as guests:
            hello = "Ann: &lt;b&gt;hello&lt;/b&gt;"  # text, and no HTML
            both = [hello, "Bob: good morning"]
            assert told(guests) == {"ann": both, "bob": both}
            assert server.interrupt() == 0
            with running(*served, cwd=tmp_path) as again:
                again.expect("open .+ in two windows")
                guests.say("go on")
                # The browser tells of the requests that found nobody.
                while "console" in (last := told(guests)):
                    assert "ERR_" in last["console"]
                assert last == {"ann": ["Bob: again"]}
                assert guests.wait() == 0
                assert again.interrupt() == 0
