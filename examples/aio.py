"""A program of asyncio's: ``python -m examples.aio``, after ``make demo``.

A server and a client in one process. Nothing here is Twisted's: ``aio.run`` has its reactor run on
asyncio's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from generated.demo.greeter.v1.greeter_pb2 import HelloReply, HelloRequest
from generated.demo.greeter.v1.greeter_txzmq import GreeterBase, GreeterClient
from generated.demo.streams.v1.streams_pb2 import JoinRequest, JoinResponse
from generated.demo.streams.v1.streams_txzmq import ChatBase, ChatClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, InvalidArgument, RequestStream, Server, aio


class Greeter(GreeterBase):
    async def say_hello(self, request: HelloRequest, context: Context) -> HelloReply:
        if not request.name:
            raise InvalidArgument("whom shall I greet?")
        try:
            # Stands for a library of asyncio's: a database, an HTTP client.
            await asyncio.sleep(60 if request.name == "Sloth" else 0)
        except asyncio.CancelledError:
            print("  nobody waits: the handler ends")
            raise
        return HelloReply(message=f"Hello, {request.name}!")


class Chat(ChatBase):
    async def join(
        self, requests: RequestStream[JoinRequest], context: Context
    ) -> AsyncIterator[JoinResponse]:
        async for request in requests:
            await asyncio.sleep(0)
            yield JoinResponse(name="echo", text=request.text)


async def calls(client: GreeterClient) -> None:
    reply = await client.say_hello(HelloRequest(name="Ada"), timeout=1.5)
    print(" ", reply.message)
    names = ["Edsger", "Barbara"]
    for reply in await asyncio.gather(
        *(client.say_hello(HelloRequest(name=name)) for name in names)
    ):
        print(" ", reply.message)
    try:
        await client.say_hello(HelloRequest(name=""))
    except InvalidArgument as error:
        print("  refused:", error.message)


async def calls_that_end_early(client: GreeterClient) -> None:
    try:
        async with asyncio.timeout(0.1):  # ends the call, and the server's handler with it
            await client.say_hello(HelloRequest(name="Sloth"))
    except TimeoutError:
        print("  too late")


async def greet(client: GreeterClient, name: str) -> None:
    reply = await client.say_hello(HelloRequest(name=name))
    print(" ", reply.message)


async def calls_in_a_group(client: GreeterClient) -> None:
    async with asyncio.TaskGroup() as group:  # one that fails ends the others
        group.create_task(greet(client, "Grace"))
        group.create_task(greet(client, "Alan"))


async def streams(client: ChatClient) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()

    async def say() -> AsyncIterator[JoinRequest]:
        while line := await lines.get():
            yield JoinRequest(text=line)

    lines.put_nowait("one")
    async with client.join(say()) as heard:
        async for response in heard:
            print(f"  {response.name}: {response.text}")
            if response.text == "three":
                break  # ends the stream, and the server's handler with it
            lines.put_nowait("two" if response.text == "one" else "three")


async def main() -> None:
    factory = ZmqFactory()
    factory.registerForShutdown()
    server = Server(factory, [Greeter(), Chat()], handlers="asyncio")
    channel = Channel(factory, server.listen("tcp://127.0.0.1:*"))
    client = GreeterClient(channel)
    try:
        print("calls")
        await calls(client)
        print("ending early")
        await calls_that_end_early(client)
        print("a group")
        await calls_in_a_group(client)
        print("streams")
        await streams(ChatClient(channel))
    finally:
        channel.close()
        await server.stop(grace=5)


if __name__ == "__main__":
    aio.run(main)
