"""The chat's service, in memory."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError

from examples.chat import service
from examples.chat.service import HISTORY, Chat
from generated.demo.chat.v1.chat_pb2 import JoinRequest, JoinResponse, SayRequest
from generated.demo.chat.v1.chat_txzmq import ChatClient
from txzmq.rpc import AlreadyExists, InvalidArgument, PermissionDenied, ResourceExhausted
from txzmq.testing import ServeInMemory


class Guest:
    """Joins a room, and hears."""

    def __init__(
        self, serve: ServeInMemory, client: ChatClient, name: str, room: str = "r", after: int = 0
    ) -> None:
        self.heard: list[JoinResponse] = []
        self._network = serve.network
        self._client = client
        self._stream = client.join(JoinRequest(room=room, name=name, after=after))
        self.ended = self._stream.each(self.heard.append)
        self._network.run()

    @property
    def texts(self) -> list[str]:
        messages = [each.message for each in self.heard if each.HasField("message")]
        return [f"{each.number} {each.name}: {each.text}" for each in messages]

    @property
    def present(self) -> list[str]:
        return list([each for each in self.heard if each.HasField("present")][-1].present.names)

    def say(self, text: str) -> None:
        request = SayRequest(ticket=self.heard[0].welcome.ticket, text=text)
        self._network.result(self._client.say(request))
        self._network.run()

    def leave(self) -> None:
        self._stream.cancel()
        with pytest.raises(CancelledError):
            self._network.result(self.ended)
        self._network.run()


@pytest.fixture
def client(serve: ServeInMemory) -> ChatClient:
    return ChatClient(serve(Chat()))


def test_guests_of_a_room_hear_each_other(serve: ServeInMemory, client: ChatClient) -> None:
    ann, bob = Guest(serve, client, "Ann"), Guest(serve, client, "Bob")
    cyd = Guest(serve, client, "Cyd", room="another")
    ann.say("hello")
    bob.say("<b>hello</b>")
    assert ann.texts == bob.texts == ["1 Ann: hello", "2 Bob: <b>hello</b>"]
    assert cyd.texts == []
    assert (ann.present, bob.present, cyd.present) == (["Ann", "Bob"], ["Ann", "Bob"], ["Cyd"])
    bob.leave()
    assert ann.present == ["Ann"]
    for each in (ann, cyd):
        each.leave()


def test_who_joins_gets_what_was_said(serve: ServeInMemory, client: ChatClient) -> None:
    ann = Guest(serve, client, "Ann")
    for number in range(HISTORY + 5):
        ann.say(str(number))
    bob = Guest(serve, client, "Bob")
    assert bob.texts == ann.texts[5:]
    again = Guest(serve, client, "Cyd", after=HISTORY + 3)
    assert again.texts == ann.texts[-2:]
    for each in (ann, bob, again):
        each.leave()
    later = Guest(serve, client, "Dan")  # the room was empty for a while
    assert later.texts == bob.texts
    later.leave()


def test_a_name_is_taken_until_its_guest_leaves(serve: ServeInMemory, client: ChatClient) -> None:
    ann = Guest(serve, client, "Ann")
    with pytest.raises(AlreadyExists):
        serve.network.result(Guest(serve, client, " Ann ").ended)
    ann.leave()
    Guest(serve, client, "Ann").leave()


@pytest.mark.parametrize(("name", "room"), [("", "r"), ("x" * 31, "r"), ("a\nb", "r"), ("a", " ")])
def test_wrong_names(serve: ServeInMemory, client: ChatClient, name: str, room: str) -> None:
    with pytest.raises(InvalidArgument, match="must have 1 to 30"):
        serve.network.result(Guest(serve, client, name, room).ended)


def test_only_guests_say_something(serve: ServeInMemory, client: ChatClient) -> None:
    ann = Guest(serve, client, "Ann")
    for text in (" ", "x" * 1_001):
        with pytest.raises(InvalidArgument):
            ann.say(text)
    ann.leave()
    with pytest.raises(PermissionDenied):
        ann.say("I have left")


def test_an_empty_room_makes_place(
    serve: ServeInMemory, client: ChatClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ROOMS", 1)
    ann = Guest(serve, client, "Ann", "first")
    with pytest.raises(ResourceExhausted):
        serve.network.result(Guest(serve, client, "Bob", "second").ended)
    ann.leave()
    Guest(serve, client, "Bob", "second").leave()
