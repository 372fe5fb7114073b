"""The connections of a channel: which one a call takes, and which calls wait for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from txzmq import _check
from txzmq._ordered_set import OrderedSet
from txzmq._task_deferred import TaskDeferred
from txzmq.rpc._client.call import Call
from txzmq.rpc._client.health_check import HealthCheck, HealthCheckOwner
from txzmq.rpc._client.outlier_detector import OutlierDetector
from txzmq.rpc._client.renewal import Renewals
from txzmq.rpc._client.subchannel import Subchannel
from txzmq.rpc._core.coroutines import ending_error
from txzmq.rpc._core.notifier import Notifier
from txzmq.rpc._core.transport import Network
from txzmq.rpc.authentication import BearerCredentials
from txzmq.rpc.balancing import BalancingPolicy
from txzmq.rpc.errors import RpcError, Unauthenticated, Unavailable
from txzmq.rpc.liveness import Liveness
from txzmq.rpc.metadata import Metadata
from txzmq.rpc.outlier_detection import OutlierDetection
from txzmq.rpc.resolvers import ResolvedAddress, Resolver, check_resolved, unresolved
from txzmq.rpc.watching import ConnectivityState, EndpointChange, EndpointStatus, Refusal

__all__ = ["SubchannelPool"]

_log = Logger()
#: So many endpoints are named in an error.
_MOST_REASONS: Final = 4
#: What a channel's state is made of, the best first.
_BEST_FIRST = (
    ConnectivityState.READY,
    ConnectivityState.CONNECTING,
    ConnectivityState.IDLE,
)


class SubchannelPool:
    """The connections of one channel, and the calls that none of them has (a ResolverListener).

    :ivar message_size: bytes that a message may have.
    :ivar batching: whether several requests may travel as one message.
    :ivar state: of the channel.
    :ivar counters: events on the connections.
    :ivar address: none: calls that wait here have no server yet.
    """

    def __init__(
        self,
        network: Network,
        resolver: Resolver,
        policy: BalancingPolicy,
        *,
        liveness: Liveness,
        random: Random,
        notifier: Notifier,
        message_size: int,
        batching: bool,
        user_agent: str,
        publisher_for: Callable[[str, str], str],
        closed: Callable[[], None],
        health_check_service: str | None = None,
        outlier_detection: OutlierDetection | None = None,
        call_credentials: BearerCredentials | None = None,
    ) -> None:
        """Begin to connect.

        :param notifier: told of changes.
        :param user_agent: what servers are told that the client is.
        :param publisher_for: where to subscribe to a publisher, by its address and the server's;
            ValueError for one that is refused.
        :param closed: called when the sockets were closed with their factory.
        :param health_check_service: of which the servers say whether they serve it; None if they
            are not asked.
        :param outlier_detection: when endpoints are ejected; None for never.
        :param call_credentials: what the questions about health carry, as the channel's calls do.
        """
        self.message_size = message_size
        self.batching = batching
        self.user_agent = user_agent
        self.address = ""
        self.closed = closed
        self.publisher_for = publisher_for
        self.liveness = liveness
        self.random = random
        self._health_check_service = health_check_service
        self._call_credentials = call_credentials
        self.state = ConnectivityState.IDLE
        self.counters: Counter[str] = Counter()
        self._notifier = notifier
        self._network = network
        self._clock = network.clock
        self._resolver = resolver
        self._policy = policy
        # Calls that wait for a connection, oldest first.
        self._queue: OrderedSet[Call] = OrderedSet()
        # By address, in the resolver's order.
        self._subchannels: dict[str, Subchannel] = {}
        self._addresses: Sequence[ResolvedAddress] = ()
        # Those of addresses that are no more; they close when their calls have ended.
        self._leaving: dict[str, Subchannel] = {}
        # Connections that take the place of others, and those whose place is taken.
        self._renewals = Renewals(self)
        # What calls fail with that come back from a connection after all was closed.
        self._end: Exception | None = None
        # Why there is no endpoint at all; empty while that is not known.
        self._no_endpoint = ""
        self._waiters: list[Deferred[ConnectivityState]] = []
        # What was dropped on connections that have gone.
        self._dropped: Counter[str] = Counter()
        self._outliers: OutlierDetector | None = None
        if outlier_detection is not None:
            self._outliers = OutlierDetector(outlier_detection, self._clock, random, self.count)
        # A Picker of subchannels.
        self._pick: Callable[[str, Metadata, Collection[Subchannel]], Subchannel | None]
        self._pick = self._first_pick
        self._starting = True
        self._forget_network = network.when_closed(closed)
        try:
            resolver.start(network.clock, self)
        except BaseException:
            self.close(Unavailable("the channel could not be made"))
            notifier.stop()
            raise
        self._starting = False
        self._settle()

    # -- from call to connection -------------------------------------------------------------

    def start(self, call: Call) -> None:
        """Give a call to a connection, or queue it, or fail it."""
        if self._end is not None:
            call.fail(self._end)
            return
        head = call.head
        try:
            # Any: a policy is a user's, and need not keep to its types.
            picked: Any = self._pick(head.path, head.metadata, call.used)
        except BaseException as error:  # noqa: BLE001 - whatever a policy raises ends the call
            call.fail(ending_error(error, "the balancing policy"))
            return
        if isinstance(picked, Subchannel):
            if self._outliers is not None:
                self._outliers.picked(call, picked)
            picked.send(call)
        elif picked is not None:
            what = _check.shown(picked)
            call.fail(TypeError(f"the balancing policy must pick an endpoint or None, not {what}"))
        elif call.spec.wait_for_ready or self.state in _BEST_FIRST:
            call.queued(self)
            self._queue.add(call)
        else:
            call.fail(self._unavailable())

    def _first_pick(
        self, path: str, metadata: Metadata, used: Collection[Subchannel]
    ) -> Subchannel | None:
        """Ask the policy for a picker, which holds until something changes, and pick."""
        endpoints = list(self._subchannels.values())
        pick = self._policy.picker(endpoints, self._ready())
        if not callable(pick):
            raise TypeError(
                f"picker() of the balancing policy must return a function, not {_check.shown(pick)}"
            )
        self._pick = pick
        return pick(path, metadata, used)

    def _ready(self) -> list[Subchannel]:
        """The connections that calls may be sent on: of the best priority that has any."""
        best = None
        ready: list[Subchannel] = []
        for address in self._addresses:
            subchannel = self._subchannels.get(address.address)
            if subchannel is None or subchannel.state is not ConnectivityState.READY:
                continue
            if best is not None and address.priority > best:
                break
            best = address.priority
            ready.append(subchannel)
        return ready

    @property
    def obstacle(self) -> str:
        """Why no connection can be used: of each endpoint, and of each name that is looked up."""
        reasons = [sub.obstacle for sub in self._subchannels.values()]
        if self._no_endpoint and not reasons:
            reasons = [self._no_endpoint]
        else:
            reasons += unresolved(self._resolver, told=bool(self._subchannels))
        reasons = list(filter(None, reasons))
        if not reasons:
            return "the balancing policy has picked none of the endpoints, which are ready"
        if len(reasons) > _MOST_REASONS:
            reasons[_MOST_REASONS:] = [f"and {len(reasons) - _MOST_REASONS} more"]
        return "; ".join(reasons)

    def _unavailable(self) -> RpcError:
        """What a call fails with for which there is no connection."""
        if self._subchannels and all(sub.is_refused for sub in self._subchannels.values()):
            return Unauthenticated(
                f"no server lets this client in, the call was not sent ({self.obstacle})"
            )
        return Unavailable(f"no server can be reached, the call was not sent ({self.obstacle})")

    def withdraw(self, call: Call) -> None:
        """Take a call out of the queue; it is never sent."""
        self._queue.discard(call)

    def cancel(self, call: Call) -> None:
        """As :meth:`withdraw`: no server knows of it."""
        self.withdraw(call)

    def id_of(self, counter: int) -> bytes:
        """Empty: no request was sent by it."""
        return b""

    # -- what the resolver tells -------------------------------------------------------------

    def resolved(self, addresses: Sequence[ResolvedAddress]) -> None:
        """Connect to what is new, and let go of what is no more.

        :raises TypeError: if these are no ``ResolvedAddress``.
        """
        check_resolved(addresses)
        if self.state is ConnectivityState.SHUTDOWN:
            return
        before, self._subchannels = self._subchannels, {}
        new: list[Subchannel] = []
        self._addresses = sorted(addresses, key=lambda address: address.priority)
        self._no_endpoint = "" if addresses else "the resolver knows of no server"
        for resolved in addresses:
            address = resolved.address
            subchannel = before.pop(address, None) or self._returning(address)
            if subchannel is None:
                subchannel = self._connect(address)
                if subchannel is not None:
                    new.append(subchannel)
            if subchannel is not None:
                subchannel.set_weight(resolved.weight)
                self._subchannels[address] = subchannel
        self._leaving.update(before)
        for subchannel in before.values():
            self._renewals.drop(subchannel)  # before it is told to leave
        if self._outliers is not None:
            self._outliers.endpoints(self._subchannels.values())
        # Only now, when all is in order: an observer may close the channel.
        for subchannel in new:
            self._tell(subchannel, ConnectivityState.IDLE)
        for subchannel in before.values():
            if subchannel.state is not ConnectivityState.SHUTDOWN:
                subchannel.leave()
        if not self._starting:
            self._settle()

    def _returning(self, address: str) -> Subchannel | None:
        subchannel = self._leaving.pop(address, None)
        if subchannel is not None:
            subchannel.stay()
        return subchannel

    def _connect(self, address: str) -> Subchannel | None:
        try:
            return Subchannel(self, self._network, address)
        except Exception:
            if self._starting:
                raise
            # One address that is none does not keep the others from being used.
            _log.failure("cannot connect to {address}, which was resolved", address=address)
            self._no_endpoint = f"{address} is no address"
            return None

    def stream_ended(self, subchannel: Subchannel, outcome: BaseException) -> None:
        """A stream has ended on a connection, or could not be opened."""
        if self._outliers is not None:
            self._outliers.stream_ended(subchannel, outcome)

    def health_check(self, subchannel: HealthCheckOwner) -> HealthCheck | None:
        """What watches the health of a subchannel's server."""
        if self._health_check_service is None:
            return None
        return HealthCheck(
            subchannel,
            self._health_check_service,
            clock=self._clock,
            guard=self._network.guard,
            random=self.random,
            liveness=self.liveness,
            call_credentials=self._call_credentials,
        )

    def not_resolved(self, error: Unavailable) -> None:
        """Nothing is known to connect to; it is tried again.

        :raises TypeError: if *error* is none.
        """
        _check.instance("error", error, Unavailable, "an Unavailable")
        self._no_endpoint = error.message
        if not self._starting:
            self._settle()

    # -- what the connections tell -----------------------------------------------------------

    def changed(self, subchannel: Subchannel, previous: ConnectivityState) -> None:
        """A connection's state is another now."""
        if self._renewals.changed(subchannel):
            return
        self._tell(subchannel, previous)
        if subchannel.state is ConnectivityState.TRANSIENT_FAILURE:
            self._ask_resolver(self._resolver.resolve_now)
        self._settle()

    def _ask_resolver(self, ask: Callable[[], None]) -> None:
        try:
            ask()
        except BaseException:  # noqa: BLE001 - whatever a resolver raises, the channel goes on
            _log.failure("the resolver raised an exception")

    def left(self, subchannel: Subchannel, previous: ConnectivityState) -> None:
        """A connection has ended that was asked to."""
        self._dropped += subchannel.wire.dropped
        if not self._renewals.left(subchannel):
            self._leaving.pop(subchannel.address, None)
            self._tell(subchannel, previous)

    def renew(self, subchannel: Subchannel) -> bool:
        """A server asks for another connection; names are looked up again, so that load spreads.

        :return: False where calls are not given to it: not yet, or not any more.
        """
        if self._subchannels.get(subchannel.address) is not subchannel:
            return False
        self._ask_resolver(self._resolver.resolve_now)
        is_in_use = self._subchannels.get(subchannel.address) is subchannel
        if is_in_use:
            self._renewals.begin(subchannel)
        return is_in_use

    def connect_anew(self, address: str) -> Subchannel:
        """Another connection to an address, to take the place of the one that there is.

        :raises Exception: if there is no room for a socket, for instance.
        """
        return Subchannel(self, self._network, address)

    def replace(self, subchannel: Subchannel, successor: Subchannel) -> None:
        """Give calls to the one that takes the other's place."""
        self.count("connection made anew")
        successor.set_weight(subchannel.weight)
        self._subchannels[subchannel.address] = successor
        if self._outliers is not None:
            self._outliers.replaced(subchannel, successor)
        if successor.state is not subchannel.state:
            self._tell(successor, subchannel.state)
        self._settle()

    def count(self, event: str) -> None:
        """Count an event."""
        self.counters[event] += 1

    def refused(self, address: str, reason: str) -> None:
        """A server has refused a connection, or is not the one that it should be."""
        self.count("refused")
        refusal = Refusal(public_key="", address=address, mechanism="", reason=reason)
        self._notifier.refused(refusal)

    def noticed(self, event: str, subchannel: Subchannel) -> None:
        """A connection has counted something."""
        self._notifier.counted(event, subchannel.address)

    def _tell(self, subchannel: Subchannel, previous: ConnectivityState) -> None:
        self._notifier.endpoint(
            EndpointChange(
                address=subchannel.address,
                previous=previous,
                state=subchannel.state,
                reason=subchannel.reason,
            )
        )

    @property
    def statuses(self) -> list[EndpointStatus]:
        """Of all endpoints that there are, in the resolver's order."""
        return [
            EndpointStatus(address=sub.address, state=sub.state, reason=sub.reason, load=sub.load)
            for sub in self._subchannels.values()
        ]

    # -- states ------------------------------------------------------------------------------

    def _aggregate(self) -> ConnectivityState:
        if not self._subchannels and not self._no_endpoint:
            return ConnectivityState.CONNECTING
        states = {subchannel.state for subchannel in self._subchannels.values()}
        for state in _BEST_FIRST:
            if state in states:
                return state
        return ConnectivityState.TRANSIENT_FAILURE

    def _settle(self) -> None:
        """Something has changed: work out what follows for the channel and those who wait."""
        if self.state is ConnectivityState.SHUTDOWN:
            return
        self._pick = self._first_pick
        self._set_state(self._aggregate())
        if self.state is ConnectivityState.READY:
            queue, self._queue = self._queue, OrderedSet()
            now = self._clock.seconds()
            for call in queue:
                if not call.deferred.called:  # by what another's stream of requests did
                    call.has_waited(now)
                    self.start(call)
        elif self.state is ConnectivityState.TRANSIENT_FAILURE:
            for call in [call for call in self._queue if not call.spec.wait_for_ready]:
                if call in self._queue:  # not ended by what the failures of the others led to
                    del self._queue[call]
                    call.fail(self._unavailable())

    def _set_state(self, state: ConnectivityState) -> None:
        if state is self.state:
            return
        previous, self.state = self.state, state
        self._notifier.channel(previous, state)
        if self.state is not state:
            return  # the observer has closed the channel, and those who wait know it
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(state)

    def wait_for_state_change(self, last: ConnectivityState) -> Deferred[ConnectivityState]:
        """See :meth:`txzmq.rpc.Channel.wait_for_state_change`."""
        if self.state is not last:
            return succeed(self.state)
        waiter: Deferred[ConnectivityState] = TaskDeferred(self._waiters.remove)
        self._waiters.append(waiter)
        return waiter

    def close(self, error: Exception) -> None:
        """End all calls with *error*, and all connections."""
        self._end = error
        self._forget_network()
        self._ask_resolver(self._resolver.close)
        subchannels = [*self._subchannels.values(), *self._leaving.values()]
        hidden = list(self._renewals)
        self._renewals.clear()
        calls = list(self._queue)
        self._queue.clear()
        if self._outliers is not None:
            self._outliers.close()
        for subchannel in (*self._leaving.values(), *hidden):
            self._dropped += subchannel.wire.dropped
        self._leaving.clear()
        waiting = [call for sub in (*subchannels, *hidden) for call in sub.calls()]
        for subchannel in hidden:
            subchannel.close()
        for subchannel in subchannels:
            self._tell(subchannel, subchannel.close())
        self._set_state(ConnectivityState.SHUTDOWN)
        for call in (*waiting, *calls):
            call.fail(error)

    @property
    def waiting(self) -> int:
        """How many calls wait for a connection."""
        return len(self._queue)

    @property
    def dropped(self) -> Counter[str]:
        """What was dropped of incoming messages, by reason, over all connections."""
        live = (*self._subchannels.values(), *self._leaving.values(), *self._renewals)
        return sum((sub.wire.dropped for sub in live), self._dropped)
