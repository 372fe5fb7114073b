"""A room where everybody hears everybody: ``python -m examples.streams.chat``.

A stream each way. What one says goes to the others by their writers.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from generated.demo.streams.v1.streams_pb2 import JoinRequest, JoinResponse
from generated.demo.streams.v1.streams_txzmq import ChatBase, ChatClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, RequestStream, ResponseStream, Server, StreamWriter


class Chat(ChatBase):
    """One room."""

    def __init__(self) -> None:
        self.room: dict[str, StreamWriter[JoinResponse]] = {}

    def join(
        self, requests: RequestStream[JoinRequest], context: Context
    ) -> StreamWriter[JoinResponse]:
        name = str(dict(context.metadata)["name"])
        writer: StreamWriter[JoinResponse] = StreamWriter()
        self.room[name] = writer
        Deferred.fromCoroutine(self.listen(name, requests)).addBoth(self.leave, name)
        return writer

    async def listen(self, name: str, requests: RequestStream[JoinRequest]) -> None:
        """Pass on what one says, until that one has nothing more to say, or has gone."""
        async for request in requests:
            for writer in self.room.values():
                writer.write(JoinResponse(name=name, text=request.text))

    def leave(self, _: object, name: str) -> None:
        self.room.pop(name).finish()


class Guest:
    """Says things, and prints what it hears."""

    def __init__(self, name: str, client: ChatClient) -> None:
        self.name = name
        self.saying: StreamWriter[JoinRequest] = StreamWriter()
        stream: ResponseStream[JoinResponse] = client.join(self.saying, metadata={"name": name})
        self.left = stream.each(self.hear)

    def say(self, text: str) -> None:
        self.saying.write(JoinRequest(text=text))

    def hear(self, heard: JoinResponse) -> None:
        print(f"{self.name} hears {heard.name}: {heard.text}")


async def main(reactor: Any) -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    chat = Chat()
    server = Server(factory, [chat])
    client = ChatClient(channel := Channel(factory, server.listen("tcp://127.0.0.1:*")))
    guests = [Guest(name, client) for name in ("Ann", "Bob")]
    while len(chat.room) < 2:
        await deferLater(reactor, 0.01, lambda: None)
    for guest, text in zip(guests, ("hello", "hello yourself"), strict=True):
        guest.say(text)
        await deferLater(reactor, 0.2, lambda: None)
    for guest in guests:
        guest.saying.finish()
        await guest.left
        print(f"{guest.name} has left")
    channel.close()
    await server.stop()


if __name__ == "__main__":
    react(main)
