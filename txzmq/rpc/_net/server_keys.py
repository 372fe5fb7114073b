"""Which of the keys that a server may have is tried, and how a failure of trust is told."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from txzmq.auth import Credentials, CurveClientCredentials
from txzmq.monitor import SocketEvent
from txzmq.rpc._net.failures import is_mismatch, mismatch, refusal

__all__ = ["ServerKeys"]

#: Addresses of which something is remembered; of more, the oldest are forgotten.
_MOST_ADDRESSES: Final = 1_024


class ServerKeys:
    """What the sockets of a channel know of their servers' keys.

    A socket has one key of its server for its life, libzmq's own attempts to connect included. Each
    says which one it had: meanwhile another socket may have found another key.
    """

    def __init__(self, credentials: Credentials | None) -> None:
        self.credentials = credentials
        # How many keys a server may have.
        self._keys = 1
        if isinstance(credentials, CurveClientCredentials):
            self._keys = len(credentials.server_keys)
        # The one that was right last, anywhere: a server and its publisher have the same.
        self._right = 0
        # By address, which key to try next, and how many were wrong in a row.
        self._wrong: OrderedDict[str, tuple[int, int]] = OrderedDict()
        # The addresses whose servers have let the client in, and have not been silent since.
        self._worked: OrderedDict[str, None] = OrderedDict()
        # By address, the mechanism of who closed the connection without a word; empty if unknown.
        self._mechanisms: OrderedDict[str, str] = OrderedDict()

    def key_for(self, address: str) -> int:
        """Which of the server's keys the next socket has."""
        following, _ = self._wrong.get(address, (self._right, 0))
        return following

    def succeeded(self, address: str, key: int) -> None:
        """A socket's key was right."""
        self._right = key
        self._wrong.pop(address, None)
        self.forget_mechanism(address)
        self._worked[address] = None
        if len(self._worked) > _MOST_ADDRESSES:
            self._worked.popitem(last=False)

    def may_have_ended(self, address: str) -> bool:
        """Whether a server that closes a connection without a word may just have ended.

        It has let the client in before. When it does so once more, it is taken for another server.
        """
        return self._worked.pop(address, address) is None

    def failed(self, address: str, key: int) -> bool:
        """A socket's key was wrong, or may have been; whether all of the server's have been."""
        if self._keys < 2:
            return True
        _, before = self._wrong.pop(address, (0, 0))
        if not before and key != self._right:
            following = self._right  # another socket has found it since
        else:
            following = (key + 1) % self._keys
        self._wrong[address] = following, before + 1
        if len(self._wrong) > _MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        return (before + 1) % self._keys == 0

    def is_broken(self, event: SocketEvent, *, was_ready: bool) -> bool:
        """Whether an event tells that the two sides do not trust each other, or may not."""
        name = event.event.name or ""
        if name == "HANDSHAKE_FAILED_AUTH" or is_mismatch(event):
            return True
        if self.credentials is None or was_ready:
            return False
        return name.startswith("HANDSHAKE_FAILED") or name == "DISCONNECTED"

    def reason(self, event: SocketEvent) -> str:
        """The same in words."""
        return refusal(event, has_keys=self.credentials is not None)

    def mechanism(self, address: str) -> str | None:
        """The mechanism of who listens at an address; None if nobody has asked yet."""
        return self._mechanisms.get(address)

    def found_mechanism(self, address: str, mechanism: str) -> None:
        """Somebody has asked: it is not done anew with each attempt to connect.

        :param mechanism: empty if there was no answer.
        """
        self._mechanisms[address] = mechanism
        if len(self._mechanisms) > _MOST_ADDRESSES:
            self._mechanisms.popitem(last=False)

    def forget_mechanism(self, address: str) -> None:
        """Somebody else may listen there by now."""
        self._mechanisms.pop(address, None)

    def mismatch(self, address: str) -> str:
        """Why who listens at an address cannot be talked to; empty if that is not known."""
        return mismatch(self._mechanisms.get(address, ""), has_keys=self.credentials is not None)
