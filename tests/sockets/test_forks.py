"""Forked children, and children that are spawned: what they get, and that the parent goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.process import reapAllProcesses
from twisted.internet.protocol import ProcessProtocol

from tests.programs import running, succeeds
from tests.sockets.support import Silent, bind, connect_to
from tests.support import Loop
from txzmq import ZmqFactory, ZmqREQConnection

#: Prints the sockets and the like that a process was given, if any.
LIST_SOCKETS = """
import os
folder = "/proc/self/fd"
links = [os.readlink(fd) for fd in os.scandir(folder) if os.path.lexists(fd)]
print([link for link in links if link.startswith(("socket:", "anon_inode:"))])
"""


@pytest.mark.parametrize("when", ["before", "running"])
@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
def test_p5_a_forked_child(when: str, how: str) -> None:
    with running("-X", "dev", "-m", "tests.sockets.forking", when, how) as program:
        assert program.wait() == 0, repr(program)
        told, *rest = program.output
        assert "does nothing in this process, a forked child" in told
        assert rest == ["child done", "parent done"]


OTHER_CONTEXT = """
import os, warnings
import zmq
from twisted.internet import selectreactor

selectreactor.install()  # an epoll would be the parent's, too
from twisted.internet import reactor
from txzmq import ForkedError, ZmqEndpoint, ZmqFactory, ZmqPullConnection

warnings.filterwarnings("ignore", category=DeprecationWarning)  # of threads before a fork
factory = ZmqFactory(reactor)
factory.context.term()
factory.context = zmq.Context()
factory.registerForShutdown()
pull = ZmqPullConnection(factory, ZmqEndpoint("bind", "inproc://pull"))
child = os.fork()
if not child:
    try:
        ZmqPullConnection(factory)
    except ForkedError:
        reactor.fireSystemEvent("shutdown")  # of the reactor that it has from its parent
        os._exit(7)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), factory.closed)
push = factory.context.socket(zmq.PUSH)
push.connect("inproc://pull")
push.send(b"x")
print(pull.socket.recv())
push.close()
factory.shutdown()
"""


def test_a_child_cannot_use_a_context_of_the_applications_own() -> None:
    assert succeeds(["-c", OTHER_CONTEXT]).split() == ["7", "False", "b'x'"]


@pytest.fixture
def factory(one_loop: Loop) -> Iterator[ZmqFactory]:
    factory = ZmqFactory(one_loop.reactor)
    yield factory
    factory.shutdown()


class Output(ProcessProtocol):
    def __init__(self) -> None:
        self.text = b""
        self.ended: Deferred[bytes] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.text += data

    def processEnded(self, reason: object) -> None:
        self.ended.callback(self.text)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no /proc")
def test_spawned_processes_get_no_descriptors(one_loop: Loop, factory: ZmqFactory) -> None:
    async def main() -> None:
        server = Silent(factory, bind("tcp://127.0.0.1:*"))
        client = ZmqREQConnection(factory, connect_to(server))
        client.sendMsg(b"x").addErrback(lambda _: None)
        await one_loop.until(lambda: server.requests)
        output: Any = Output()
        arguments = [sys.executable, "-c", LIST_SOCKETS]
        one_loop.reactor.spawnProcess(output, sys.executable, arguments)
        while not output.ended.called:
            reapAllProcesses()  # the reactor has no handler for SIGCHLD here
            await one_loop.sleep(0.001)
        assert await output.ended == b"[]\n"
        # Even where nobody closes them for the child.
        inherited = subprocess.run(arguments, close_fds=False, stdout=subprocess.PIPE, check=True)
        assert inherited.stdout == b"[]\n"
        factory.shutdown()

    one_loop.run(main)
