"""Rooms, who is in them, and what was said."""

from __future__ import annotations

import secrets
from collections import deque

from generated.demo.chat.v1.chat_pb2 import (
    JoinRequest,
    JoinResponse,
    Message,
    Present,
    SayRequest,
    SayResponse,
    Welcome,
)
from generated.demo.chat.v1.chat_txzmq import ChatBase
from txzmq.rpc import (
    AlreadyExists,
    Context,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    StreamWriter,
)

#: Messages that a room keeps, rooms that there may be, and characters of a name and of a text.
HISTORY, ROOMS, NAME, TEXT = 100, 100, 30, 1_000


class Guest:
    """Somebody in a room."""

    def __init__(self, name: str, room: Room) -> None:
        self.name = name
        self.room = room
        self.ticket = secrets.token_urlsafe()
        self.hears: StreamWriter[JoinResponse] = StreamWriter()


class Room:
    """The guests, by name, and the last messages."""

    def __init__(self) -> None:
        self.id = secrets.token_urlsafe(8)
        self.guests: dict[str, Guest] = {}
        self.messages: deque[Message] = deque(maxlen=HISTORY)
        self.last = 0


class Chat(ChatBase):
    """All rooms."""

    def __init__(self) -> None:
        # The one that was entered last is behind the others.
        self._rooms: dict[str, Room] = {}
        self._guests: dict[str, Guest] = {}

    def join(self, request: JoinRequest, context: Context) -> StreamWriter[JoinResponse]:
        name, room_name = _checked("name", request.name), _checked("room", request.room)
        room = self._enter(room_name)
        if name in room.guests:
            raise AlreadyExists(f"somebody in this room is called {name}")
        guest = room.guests[name] = Guest(name, room)
        self._guests[guest.ticket] = guest
        context.cancelled.addCallback(lambda _: self._leave(guest))
        welcome = Welcome(ticket=guest.ticket, room_id=room.id)
        guest.hears.write(JoinResponse(welcome=welcome))
        for message in room.messages:
            if message.number > request.after:
                guest.hears.write(JoinResponse(message=message))
        self._tell_present(room)
        return guest.hears

    def say(self, request: SayRequest, context: Context) -> SayResponse:
        guest = self._guests.get(request.ticket)
        if guest is None:
            raise PermissionDenied("this ticket is for no room: join one first")
        if not request.text.strip() or len(request.text) > TEXT:
            raise InvalidArgument(f"text: must have 1 to {TEXT} characters")
        room = guest.room
        room.last += 1
        message = Message(number=room.last, name=guest.name, text=request.text)
        room.messages.append(message)
        self._tell(room, JoinResponse(message=message))
        return SayResponse()

    def _enter(self, name: str) -> Room:
        room = self._rooms.pop(name, None) or self._new_room()
        self._rooms[name] = room
        return room

    def _new_room(self) -> Room:
        if len(self._rooms) >= ROOMS:
            empty = [name for name, room in self._rooms.items() if not room.guests]
            if not empty:
                raise ResourceExhausted(f"there are {ROOMS} rooms, with somebody in each")
            del self._rooms[empty[0]]
        return Room()

    def _leave(self, guest: Guest) -> None:
        if self._guests.pop(guest.ticket, None) is not None:
            del guest.room.guests[guest.name]
            self._tell_present(guest.room)

    def _tell_present(self, room: Room) -> None:
        self._tell(room, JoinResponse(present=Present(names=sorted(room.guests))))

    def _tell(self, room: Room, event: JoinResponse) -> None:
        for guest in list(room.guests.values()):
            try:
                guest.hears.write(event)
            except BufferError:  # it does not read, and must not take more memory
                guest.hears.fail(ResourceExhausted("too much was not read; join again"))
                self._leave(guest)


def _checked(field: str, value: str) -> str:
    value = value.strip()
    if not value or len(value) > NAME or not value.isprintable():
        raise InvalidArgument(f"{field}: must have 1 to {NAME} printable characters")
    return value
