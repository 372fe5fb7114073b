"""Which clients of streams are alive: heartbeats, and the watch for silent clients.

Of a stream with items that are not acknowledged, :class:`Heartbeats` tells the client every now and
then how much was published, so that it asks for what it misses. Of a stream with nothing to
acknowledge, :class:`Keepalive` sends a heartbeat when the client has said nothing for a while. A
client that answers neither is given up: its private streams are cancelled, and it does not share
runs any more. :class:`Greetings` sends one where somebody may be new.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from txzmq._ordered_set import OrderedSet
from txzmq._reactor import Clock
from txzmq._timer import ResettableTimer
from txzmq.rpc._core.stream_state import ENDED, OPENING
from txzmq.rpc._server.response_stream import ServedStream
from txzmq.rpc._server.shared import SharedRuns

__all__ = ["Greetings", "Heartbeats", "Keepalive"]

#: Seconds from what was published to the first heartbeat that names its number.
_HEARTBEAT: Final = 1.0
#: Seconds between two heartbeats for who is new to a shared run: at least, and for each client that
#: shares it, as all of them get it and answer.
_BETWEEN_GREETINGS: Final = 0.1
_BETWEEN_GREETINGS_PER_CLIENT: Final = 0.0001
#: How many there may be at once, where there were none for a while.
_GREETINGS_AT_ONCE: Final = 16
#: How many times clients are looked at while one may be silent.
_LOOKS: Final = 4


class Heartbeats:
    """Sends heartbeats on streams until everything is acknowledged."""

    def __init__(self, clock: Clock, silence: float) -> None:
        """:param silence: seconds that a client may say nothing while it has to acknowledge."""
        self._clock = clock
        self._silence = silence
        #: Those of which something that was published is not acknowledged.
        self.streams: OrderedSet[ServedStream] = OrderedSet()
        self._timer = ResettableTimer(clock, self._tick)
        self._due = 0.0

    def watch(self, stream: ServedStream) -> None:
        """Something of a stream is published."""
        self.streams.add(stream)
        if not self._timer.is_running:
            self._tick_later()

    def forget(self, stream: ServedStream) -> None:
        """A stream has ended."""
        self.streams.discard(stream)
        if not self.streams:
            self._timer.stop()

    def close(self) -> None:
        """Leave nothing in the reactor."""
        self._timer.stop()

    def _tick_later(self) -> None:
        self._timer.start(_HEARTBEAT)
        self._due = self._clock.seconds() + _HEARTBEAT

    def _tick(self) -> None:
        now = self._clock.seconds()
        silent_since = now - self._silence
        # Then acknowledgements may have arrived that are not read yet.
        reactor_was_blocked = now - self._due > _HEARTBEAT
        for stream in list(self.streams):
            if reactor_was_blocked:
                stream.hear(now)
            elif stream.heard < silent_since and stream.shared is None:
                stream.give_up()
                continue
            stream.tick()
        if self.streams:
            self._tick_later()


class Greetings:
    """Sends a heartbeat where somebody may be new to a stream, on shared runs not too often.

    Else those who join a run, or come back to it, would cost the square of their number; and one
    who subscribes again and again could have all the others answer each time.
    """

    def __init__(self, clock: Clock, shared: SharedRuns[ServedStream]) -> None:
        """:param shared: who shares which runs."""
        self._clock = clock
        self._shared = shared
        # Runs on which heartbeats were sent lately, and until when they count.
        self._until: dict[ServedStream, float] = {}
        # Those of them that are to have another when that is allowed.
        self._waiting: OrderedSet[ServedStream] = OrderedSet()
        self._timer = ResettableTimer(clock, self._look)

    def greet(self, stream: ServedStream) -> None:
        """Send a heartbeat, now or soon."""
        if stream.shared is None:
            stream.publisher.heartbeat(stream)
        elif not self._greet(stream):
            self._waiting.add(stream)

    def _greet(self, run: ServedStream) -> bool:
        """Send a heartbeat unless there were many; whether it was sent."""
        now = self._clock.seconds()
        clients = len(self._shared.silent_since(run))
        pause = max(_BETWEEN_GREETINGS, clients * _BETWEEN_GREETINGS_PER_CLIENT)
        until = max(self._until.get(run, now), now) + pause
        if until > now + _GREETINGS_AT_ONCE * pause:
            return False
        self._until[run] = until
        if not self._timer.is_running:
            self._timer.start(_BETWEEN_GREETINGS)
        run.publisher.heartbeat(run)
        return True

    def _look(self) -> None:
        for run in list(self._waiting):
            if self._greet(run):
                self._waiting.discard(run)
        now = self._clock.seconds()
        for run in [run for run, until in self._until.items() if until <= now]:
            if run not in self._waiting:
                del self._until[run]
        if self._until and not self._timer.is_running:
            self._timer.start(_BETWEEN_GREETINGS)

    def forget(self, stream: ServedStream) -> None:
        """A stream has ended."""
        if self._until.pop(stream, None) is not None:
            self._waiting.discard(stream)
            if not self._until:
                self._timer.stop()

    def close(self) -> None:
        """Leave nothing in the reactor."""
        self._timer.stop()
        self._until.clear()
        self._waiting.clear()


class Keepalive:
    """Gives up clients that have stopped: their private streams, and their share in shared ones.

    A client that has said nothing for half the time that it may be silent is sent a heartbeat,
    which it answers: on one of its private streams of which everything is acknowledged, and on each
    run that it shares. After three quarters it is sent one on each private stream, so that it
    learns which are given up, should it go on later. Only then is it given up.
    """

    def __init__(
        self,
        clock: Clock,
        silence: float,
        streams: Mapping[bytes, ServedStream],
        unacknowledged: OrderedSet[ServedStream],
        shared: SharedRuns[ServedStream],
    ) -> None:
        """
        :param silence: seconds that a client may say nothing.
        :param streams: all streams, by topic.
        :param unacknowledged: those on which :class:`Heartbeats` are sent.
        :param shared: who shares which of them.
        """
        self._clock = clock
        self._silence = silence
        self._streams = streams
        self._unacknowledged = unacknowledged
        self._shared = shared
        self._timer = ResettableTimer(clock, self._look)
        self._due = 0.0
        # When each client said something last that has streams of its own.
        self._heard: dict[bytes, float] = {}
        # Clients that were sent a heartbeat on each of their streams, and those that were on a run
        # which they share: they are given up next.
        self._warned: set[bytes] = set()
        self._warned_of_run: set[tuple[ServedStream, bytes]] = set()

    def start(self) -> None:
        """There are streams: watch their clients."""
        if not self._timer.is_running:
            self._look_later()

    def stop(self) -> None:
        """There are no streams any more."""
        self._timer.stop()
        self._heard.clear()
        self._warned.clear()
        self._warned_of_run.clear()

    def heard(self, peer: bytes) -> None:
        """A client has said something."""
        if self._timer.is_running:
            self._heard[peer] = self._clock.seconds()

    def has_heard(self, peer: bytes, since: float) -> bool:
        """Whether a client has said something since then."""
        last = self._heard.get(peer)
        return last is not None and last >= since

    def _look_later(self) -> None:
        pause = self._silence / _LOOKS
        self._timer.start(pause)
        self._due = self._clock.seconds() + pause

    def _look(self) -> None:
        now = self._clock.seconds()
        # Then what has arrived is not read yet.
        reactor_was_blocked = now - self._due > self._silence / _LOOKS
        self._look_later()
        if reactor_was_blocked:
            self._heard.clear()
        heard: dict[bytes, float] = {}
        asked: set[bytes] = set()
        warned, self._warned = self._warned, set()
        warned_of_run, self._warned_of_run = self._warned_of_run, set()
        for stream in list(self._streams.values()):
            if stream.shared is not None:
                self._look_at_run(stream, now, reactor_was_blocked, warned_of_run)
            elif stream.state is not OPENING:
                last = heard[stream.peer] = self._heard.get(stream.peer, now)
                if stream not in self._unacknowledged:
                    self._check(stream, now - last, asked, warned)
            elif stream.peer in self._heard:
                heard[stream.peer] = self._heard[stream.peer]
        self._heard = heard
        if not self._streams:
            self.stop()

    def _check(
        self, stream: ServedStream, silent: float, asked: set[bytes], warned: set[bytes]
    ) -> None:
        """Ask the client of a stream for a sign of life, or give it up, if it is silent.

        :param silent: seconds since it said something.
        :param asked: the clients that have been asked this time.
        :param warned: the clients that were asked on each of their streams last time.
        """
        peer, silence = stream.peer, self._silence
        if silent < silence / 2:
            return
        if silent >= silence and peer in warned:
            stream.give_up()
            return
        if silent >= silence * 3 / 4:
            self._warned.add(peer)
        elif peer in asked:
            return
        asked.add(peer)
        stream.publisher.heartbeat(stream)

    def _look_at_run(
        self,
        run: ServedStream,
        now: float,
        reactor_was_blocked: bool,
        warned: set[tuple[ServedStream, bytes]],
    ) -> None:
        """Ask the clients that share a run whether they do, and give up those that are silent.

        One heartbeat asks all of them.

        :param warned: the clients that were asked last time, after three quarters.
        """
        silence, asks = self._silence, False
        for peer, last in list(self._shared.silent_since(run).items()):
            silent = now - last
            if reactor_was_blocked:
                self._shared.heard(run, peer, now)
            elif silent >= silence and (run, peer) in warned:
                run.caller_gave_no_sign(peer)
            elif silent >= silence / 2:
                asks = True
                if silent >= silence * 3 / 4:
                    self._warned_of_run.add((run, peer))
        if asks and run.state is not ENDED:
            run.publisher.heartbeat(run)
