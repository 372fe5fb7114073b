"""Rules in protos, kept by interceptors: ``make validation-demo`` generates the code and runs it.

A server whose interceptor refuses requests that break a rule; a client that is told which, and one
that checks its requests itself, before it sends them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from google.rpc.error_details_pb2 import BadRequest
from twisted.internet.task import react

from examples.validation.generated.accounts.v1.accounts_pb2 import (
    CreateManyResponse,
    CreateRequest,
    CreateResponse,
    FindRequest,
    Tag,
)
from examples.validation.generated.accounts.v1.accounts_txzmq import AccountsBase, AccountsClient
from txzmq import ZmqFactory
from txzmq.rpc import Channel, Context, InvalidArgument, RequestStream, Server
from txzmq.rpc.validation import ClientValidationInterceptor, ServerValidationInterceptor

ADA = CreateRequest(email="ada@example.org", age=36, first_name="Ada", last_name="Lovelace")
NOBODY = CreateRequest(email="nobody", age=17, tags=[Tag(name="ok"), Tag(name="?")])
NAMELESS = CreateRequest(email="grace@example.org", age=85, first_name="Grace")


class Accounts(AccountsBase):
    """Has no check of its own: what reaches it keeps the rules."""

    def __init__(self) -> None:
        self.emails: list[str] = []

    def _add(self, request: CreateRequest) -> CreateResponse:
        self.emails.append(request.email)
        print(f"  server: an account for {request.email}")
        return CreateResponse(id=str(len(self.emails)))

    def create(self, request: CreateRequest, context: Context) -> CreateResponse:
        return self._add(request)

    async def create_many(
        self, requests: RequestStream[CreateRequest], context: Context
    ) -> CreateManyResponse:
        async for request in requests:
            self._add(request)
        return CreateManyResponse(accounts=len(self.emails))

    async def create_each(
        self, requests: RequestStream[CreateRequest], context: Context
    ) -> AsyncIterator[CreateResponse]:
        async for request in requests:
            yield self._add(request)

    def find(self, request: FindRequest, context: Context) -> Iterator[CreateResponse]:
        for number, email in enumerate(self.emails, 1):
            if email.startswith(request.prefix):
                yield CreateResponse(id=str(number))

    async def watch(self, request: FindRequest, context: Context) -> AsyncIterator[CreateResponse]:
        for response in self.find(request, context):
            yield response


def show(error: InvalidArgument) -> None:
    print(f"  client: {error.code.name}: {error.message}")
    for detail in error.details_of(BadRequest):
        for violation in detail.field_violations:
            print(f"    {violation.field or 'the message'}: {violation.reason}")


async def use(client: AccountsClient) -> None:
    print(" one request")
    try:
        await client.create(NOBODY)
    except InvalidArgument as error:
        show(error)

    print(" a stream of requests")
    try:
        await client.create_many([ADA, NAMELESS])
    except InvalidArgument as error:
        show(error)

    print(" a stream of responses")
    try:
        async for response in client.find(FindRequest(prefix="far too long")):
            print("  client:", response.id)
    except InvalidArgument as error:
        show(error)


async def main(reactor: Any) -> None:
    factory = ZmqFactory(reactor)
    factory.registerForShutdown()
    server = Server(factory, [Accounts()], interceptors=[ServerValidationInterceptor()])
    endpoint = server.listen("tcp://127.0.0.1:*")
    print("the server checks")
    await use(AccountsClient(Channel(factory, endpoint)))
    print("the client checks, too")
    checks = [ClientValidationInterceptor()]
    await use(AccountsClient(Channel(factory, endpoint, interceptors=checks)))


if __name__ == "__main__":
    react(main)
