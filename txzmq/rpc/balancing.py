"""Which of a channel's endpoints a call goes to.

The channel tells its policy the endpoints, and which of them are ready, each time that either
changes. The policy returns a picker: a function that chooses a ready endpoint for each call. So a
policy does its work once per change, and a pick is cheap. The names and the meaning are gRPC's:
https://github.com/grpc/grpc/blob/master/doc/load-balancing.md.

Your own policy is a class with one method::

    class Nearest:
        def picker(self, endpoints: Sequence[E], ready: Sequence[E]) -> Picker[E]:
            here = [e for e in ready if "10.1." in e.address] or list(ready)
            return lambda path, metadata, used: random.choice(here) if here else None
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b, shake_128
from heapq import heapify, heapreplace
from itertools import accumulate, chain, cycle, islice, repeat
from math import ceil
from random import Random
from struct import unpack
from typing import Final, Protocol, TypeAlias, TypeVar

from txzmq import _check
from txzmq.rpc.metadata import Metadata, key_takes_bytes

__all__ = [
    "POLICIES",
    "BalancingPolicy",
    "ConsistentHash",
    "Endpoint",
    "LeastLoaded",
    "PickFirst",
    "Picker",
    "PolicyBuilder",
    "RoundRobin",
]


class Endpoint(Protocol):
    """What a policy sees of an endpoint."""

    @property
    def address(self) -> str:
        """Its address, such as ``tcp://10.1.2.3:5000``; each address occurs once in a channel."""
        ...

    @property
    def load(self) -> int:
        """How many calls to it are in flight."""
        ...

    @property
    def weight(self) -> int:
        """Its share of the calls, relative to the other weights, as in SRV records (RFC 2782).

        1 if the resolver gives none; 0 means hardly any calls.
        """
        ...


E = TypeVar("E", bound=Endpoint)

#: Chooses an endpoint for a call: ``pick(path, metadata, used)``.
#:
#: *path* is ``/package.Service/Method`` and *metadata* the call's. *used* are the endpoints that
#: earlier attempts of the same call went to (empty for a first attempt): the picker prefers
#: another one, and chooses one of these if no other is ready. It returns None if none is ready.
Picker: TypeAlias = Callable[[str, Metadata, Collection[E]], E | None]


class BalancingPolicy(Protocol):
    """Chooses endpoints for calls. An instance serves one channel."""

    def picker(self, endpoints: Sequence[E], ready: Sequence[E]) -> Picker[E]:
        """Make the picker for the endpoints as they are now; called at each change.

        :param endpoints: all endpoints of the channel, in the order of their addresses.
        :param ready: the endpoints that calls can be sent to, in the same order.
        :return: the picker that the channel uses until the next change, and not after it.
        """
        ...


def _check_random(random: object) -> None:
    if random is not None:
        _check.instance("random", random, Random, "a random.Random or None")


def _pick_none(path: str, metadata: Metadata, used: Collection[object]) -> None:
    return None


def _prefer_unused(ready: Sequence[E], used: Collection[E]) -> Sequence[E]:
    return [endpoint for endpoint in ready if endpoint not in used] or ready


#: A weight of 0 counts as this share of the lightest weight above 0.
_HARDLY_ANY: Final = 0.01


def _weights(endpoints: Sequence[Endpoint]) -> list[float] | None:
    """The weights, all above 0; None if they are equal, and so make no difference."""
    weights = [endpoint.weight for endpoint in endpoints]
    lightest = min((weight for weight in weights if weight > 0), default=0)
    if not lightest or min(weights) == max(weights):
        return None
    return [weight if weight > 0 else lightest * _HARDLY_ANY for weight in weights]


class PickFirst:
    """All calls go to one endpoint, the first in the order of addresses that is ready.

    They go to that endpoint as long as it is ready, even if an earlier one becomes ready again, and
    after that to the first ready one. (Unlike gRPC's, the channel stays connected to the other
    endpoints, so the change takes no time.)
    """

    def __init__(self, *, shuffle: bool = False, random: Random | None = None) -> None:
        """
        :param shuffle: try the addresses in an order that differs from client to client (gRFC
            A62), so that they do not all choose the same server. A heavier endpoint is first more
            often (gRFC A113), as RFC 2782 has it of SRV records.
        :param random: the source of the order.
        :raises TypeError: for a value of a wrong type.
        """
        _check.boolean("shuffle", shuffle)
        _check_random(random)
        self._shuffle = shuffle
        self._random = random or Random()
        self._current: str | None = None
        # A random number by address, drawn once: a change must not shuffle the order anew.
        self._ranks: dict[str, float] = {}

    def picker(self, endpoints: Sequence[E], ready: Sequence[E]) -> Picker[E]:
        """See :class:`BalancingPolicy`."""
        if not ready:
            self._current = None
            return _pick_none
        if self._shuffle:
            addresses, known = [endpoint.address for endpoint in endpoints], self._ranks
            draw = self._random.expovariate
            self._ranks = {a: known[a] if a in known else draw(1) for a in addresses}
            # Of exponential draws, each divided by its weight, an endpoint has the smallest as
            # often as its share of the weights says.
            weights = dict(zip(addresses, _weights(endpoints) or repeat(1.0), strict=False))
            ready = sorted(ready, key=lambda e: self._ranks[e.address] / weights[e.address])
        chosen = next((e for e in ready if e.address == self._current), ready[0])
        self._current = chosen.address

        def pick(path: str, metadata: Metadata, used: Collection[E]) -> E:
            if used and chosen in used:
                return next((endpoint for endpoint in ready if endpoint not in used), chosen)
            return chosen

        return pick


class RoundRobin:
    """Calls go to the ready endpoints in turn; with weights, in proportion to them."""

    def __init__(self, *, random: Random | None = None) -> None:
        """
        :param random: chooses the endpoint to begin with. Clients that learn of a change at the
            same time must not all begin with the same server.
        :raises TypeError: if *random* is none.
        """
        _check_random(random)
        self._random = random or Random()

    def picker(self, endpoints: Sequence[E], ready: Sequence[E]) -> Picker[E]:
        """See :class:`BalancingPolicy`."""
        if not ready:
            return _pick_none
        weights = _weights(ready)
        if weights is not None:
            return self._weighted_picker(ready, weights)
        start, count = self._random.randrange(len(ready)), len(ready)
        turn = cycle([*ready[start:], *ready[:start]])
        advance = turn.__next__

        def pick(path: str, metadata: Metadata, used: Collection[E]) -> E:
            endpoint = advance()
            if used and endpoint in used:
                others = list(islice(turn, count - 1))
                advance()  # so that one pick is one step
                return next((other for other in others if other not in used), endpoint)
            return endpoint

        return pick

    def _weighted_picker(self, ready: Sequence[E], weights: Sequence[float]) -> Picker[E]:
        """Picks the endpoint whose turn is next; each has turns in proportion to its weight."""
        turns = [
            (self._random.random() / weight, index, 1 / weight)
            for index, weight in enumerate(weights)
        ]
        heapify(turns)

        def pick(path: str, metadata: Metadata, used: Collection[E]) -> E:
            if used:  # out of turn: the attempt must not wait for a light endpoint's turn
                unused = [turn for turn in turns if ready[turn[1]] not in used]
                if unused:
                    return ready[min(unused)[1]]
            when, index, interval = turns[0]
            heapreplace(turns, (when + interval, index, interval))
            return ready[index]

        return pick


class LeastLoaded:
    """A call goes to the one of two random ready endpoints that has fewer calls in flight.

    A slow server gets fewer calls than a fast one, and clients that know nothing of each other do
    not all run to the same idle server (gRFC A48; "The Power of Two Choices"). Where the endpoints
    have weights, a heavier one is drawn more often, and may have more calls in flight.
    """

    def __init__(self, *, choices: int = 2, random: Random | None = None) -> None:
        """
        :param choices: how many random endpoints are compared, 2 to 10.
        :param random: chooses the endpoints that are compared.
        :raises ValueError: if *choices* is not 2 to 10, or TypeError for a value of a wrong type.
        """
        _check.integer("choices", choices, 2, 10)
        _check_random(random)
        self._choices = choices
        self._random = random or Random()

    def picker(self, endpoints: Sequence[E], ready: Sequence[E]) -> Picker[E]:
        """See :class:`BalancingPolicy`."""
        if not ready:
            return _pick_none
        random, sample, choices = self._random.random, self._random.sample, self._choices
        weights = _weights(ready)
        if weights is not None:
            return self._weighted_picker(ready, weights)

        def pick_of(some: Sequence[E]) -> E:
            count = len(some)
            if count == 1:
                return some[0]
            if choices == 2:
                i, j = int(random() * count), int(random() * (count - 1))
                one, other = some[i], some[j + (j >= i)]
                return other if other.load < one.load else one
            # The sample is in random order, so that equals take turns.
            return min(sample(some, min(choices, count)), key=lambda endpoint: endpoint.load)

        def pick(path: str, metadata: Metadata, used: Collection[E]) -> E:
            return pick_of(_prefer_unused(ready, used) if used else ready)

        return pick

    def _weighted_picker(self, ready: Sequence[E], weights: Sequence[float]) -> Picker[E]:
        draw, choices = self._random.choices, self._choices
        both = list(zip(ready, weights, strict=True))
        bounds = list(accumulate(weights))

        def pick(path: str, metadata: Metadata, used: Collection[E]) -> E:
            some = both
            if used:
                some = [(endpoint, weight) for endpoint, weight in both if endpoint not in used]
            if not used or not some:
                drawn = draw(both, cum_weights=bounds, k=choices)
            else:
                drawn = draw(some, [weight for _, weight in some], k=choices)
            return min(drawn, key=lambda one: one[0].load / one[1])[0]

        return pick


#: Places that each endpoint has on the ring: with so many, its share differs from the mean by a
#: sixteenth (standard deviation). With weights, the heaviest endpoint has this many.
_PLACES: Final = 256


@lru_cache(maxsize=4096)
def _places(address: str) -> tuple[int, ...]:
    return unpack(f">{_PLACES}Q", shake_128(address.encode()).digest(8 * _PLACES))


class ConsistentHash:
    """Calls with the same value of a metadata key go to the same endpoint.

    All clients agree on the endpoint, whatever order they know the endpoints in. When an endpoint
    goes, or is not ready, its keys are spread over the others, and no other key moves; when it
    comes back, its keys do too. Calls without the key go to random endpoints.

    Each endpoint stands on a ring (gRFC A42) at many places, which follow from its address; a
    heavier one has more places. When the heaviest of endpoints with different weights goes for
    good, keys of the others move too.
    """

    def __init__(self, key: str, *, random: Random | None = None) -> None:
        """
        :param key: a metadata key, such as ``tenant``. Where it occurs more than once, all values
            count, in their order (gRFC A76).
        :param random: chooses the endpoint for calls without the key.
        :raises ValueError: if *key* is no key of metadata, or TypeError for a wrong type.
        """
        _check.text("key", key, "a key of metadata")
        key_takes_bytes(key)  # as each key of metadata is checked
        _check_random(random)
        self._key = key
        self._random = random or Random()

    def picker(self, endpoints: Sequence[E], ready: Sequence[E]) -> Picker[E]:
        """See :class:`BalancingPolicy`."""
        if not ready:
            return _pick_none
        # In an order that all clients share, in case two endpoints have the same place.
        in_order = sorted(ready, key=lambda endpoint: endpoint.address)
        # Of all endpoints, not of the ready ones: no other key moves when one is not ready.
        shares = dict(zip(endpoints, _weights(endpoints) or repeat(1.0), strict=False))
        most = max(shares.values())
        by_place = {
            place: endpoint
            for endpoint in in_order
            for place in _places(endpoint.address)[: ceil(_PLACES * shares[endpoint] / most)]
        }
        ring = sorted(by_place)
        owners = [by_place[place] for place in ring]
        owners.append(owners[0])  # past the last place the ring begins again
        key, draw = self._key, self._random.getrandbits

        def pick(path: str, metadata: Metadata, used: Collection[E]) -> E:
            place = _place_of(key, metadata)
            start = bisect_right(ring, draw(64) if place is None else place)
            if not used:
                return owners[start]
            onwards = chain(islice(owners, start, None), owners)
            return next((endpoint for endpoint in onwards if endpoint not in used), owners[start])

        return pick


def _place_of(key: str, metadata: Metadata) -> int | None:
    values = [value for name, value in metadata if name == key]
    if not values:
        return None
    joined = b",".join(v if isinstance(v, bytes) else v.encode() for v in values)
    # Python's own hash differs from process to process.
    return int.from_bytes(blake2b(joined, digest_size=8).digest(), "big")


#: Makes a policy from its settings in a service config. For a wrong setting it raises a ValueError
#: whose text begins with the setting's name, as in ``"choiceCount: must be ..."``.
PolicyBuilder: TypeAlias = Callable[[Mapping[str, object]], BalancingPolicy]


def _build_pick_first(settings: Mapping[str, object]) -> BalancingPolicy:
    shuffle = settings.get("shuffleAddressList")
    if shuffle is not None and not isinstance(shuffle, bool):
        raise ValueError("shuffleAddressList: must be true or false")
    return PickFirst(shuffle=bool(shuffle))


def _build_round_robin(settings: Mapping[str, object]) -> BalancingPolicy:
    return RoundRobin()


def _build_least_loaded(settings: Mapping[str, object]) -> BalancingPolicy:
    choices = settings.get("choiceCount")
    if choices is None:
        return LeastLoaded()
    if not isinstance(choices, int) or isinstance(choices, bool) or choices < 2:
        raise ValueError("choiceCount: must be an integer of 2 or more")
    return LeastLoaded(choices=min(choices, 10))  # gRFC A48: more counts as 10


def _build_consistent_hash(settings: Mapping[str, object]) -> BalancingPolicy:
    key = settings.get("requestHashHeader")
    if not isinstance(key, str) or not key:
        raise ValueError("requestHashHeader: must be the metadata key to hash")
    return ConsistentHash(key.lower())


#: The policies by their names in a service config, which are gRPC's.
POLICIES: Final[Mapping[str, PolicyBuilder]] = {
    "pick_first": _build_pick_first,
    "round_robin": _build_round_robin,
    "least_request": _build_least_loaded,
    "least_request_experimental": _build_least_loaded,
    "ring_hash": _build_consistent_hash,
    "ring_hash_experimental": _build_consistent_hash,
}
