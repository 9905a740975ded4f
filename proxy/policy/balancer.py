"""The balancers by name: which picker with which measure of load, and what each needs to be told.

A caller pays for what its balancer needs alone: loads of other workers, times of answers and keys of requests are not
looked at for a balancer that would not use them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from proxy.policy.hashring import HashRing
from proxy.policy.picker import (
    C,
    ConsistentHash,
    LeastLoaded,
    Picker,
    PowerOfTwo,
    RandomPick,
    RoundRobin,
    SmoothWeightedRoundRobin,
    connections_per_weight,
    response_time_per_weight,
)
from proxy.snapshot import ClusterSpec


@dataclass(frozen=True, slots=True)
class Balancer:
    """One way to spread requests."""

    make: Callable[[ClusterSpec, Sequence[Any], Random], Picker[Any]] | None
    """A new picker for a cluster and its members, in the order of the cluster's endpoints; `None` = choices are made by
    `locality`."""
    sees_load: bool = False
    """Looks at requests in flight."""
    sees_time: bool = False
    """Looks at expected response times."""
    sees_key: bool = False
    """Looks at the request's hash key."""
    sees_data: bool = False
    """Looks at the data that the request needs."""
    is_foreseeable: bool = False
    """Loads and keys decide, but for equals; else turns or chance do."""
    keeps_members: bool = False
    """Its picker knows the membership, and must be made anew when that may have changed."""


def _least_connections(spec: ClusterSpec, members: Sequence[Any], rng: Random) -> Picker[Any]:
    # As nginx's least_conn: equals take turns by weight, so weights hold at low load too.
    return LeastLoaded(connections_per_weight, ties=SmoothWeightedRoundRobin())


def _least_response_time(spec: ClusterSpec, members: Sequence[Any], rng: Random) -> Picker[Any]:
    return LeastLoaded(response_time_per_weight, ties=SmoothWeightedRoundRobin())


def _consistent_hashing(spec: ClusterSpec, members: Sequence[Any], rng: Random) -> Picker[Any]:
    percent = spec.hash.max_load_percent if spec.hash is not None else 0
    return ConsistentHash(
        members,
        HashRing(spec.ring, [member.weight for member in members]),
        bound=percent / 100 if percent else None,
        fallback=_least_connections(spec, members, rng),
    )


_BALANCERS = {
    "round_robin": Balancer(lambda spec, members, rng: RoundRobin()),
    "weighted_round_robin": Balancer(lambda spec, members, rng: SmoothWeightedRoundRobin()),
    "least_connections": Balancer(_least_connections, sees_load=True, is_foreseeable=True),
    "least_response_time": Balancer(
        _least_response_time, sees_load=True, sees_time=True, is_foreseeable=True
    ),
    "consistent_hashing": Balancer(
        _consistent_hashing, sees_load=True, sees_key=True, is_foreseeable=True, keeps_members=True
    ),
    "data_locality_aware": Balancer(None, sees_load=True, sees_data=True),
    "random": Balancer(lambda spec, members, rng: RandomPick(rng)),
    "p2c": Balancer(lambda spec, members, rng: PowerOfTwo(connections_per_weight, rng), sees_load=True),
}

BALANCERS: tuple[str, ...] = tuple(_BALANCERS)
"""The names that `balancer` knows, as the configuration has them."""


def balancer(name: str) -> Balancer:
    """The balancer called `name`. Raises `ValueError` for a name that is not in `BALANCERS`."""
    try:
        return _BALANCERS[name]
    except KeyError:
        raise ValueError(f"balancer {name!r} is unknown, expected one of {', '.join(BALANCERS)}") from None


def goes_by_data(spec: ClusterSpec) -> bool:
    """Whether it is to be known where data are: for the cluster's balancer, or to compare it with its shadow."""
    return bool(spec.shadow) or balancer(spec.balancer).sees_data


def make_picker(name: str, spec: ClusterSpec, members: Sequence[C], rng: Random) -> Picker[C] | None:
    """A new picker of the balancer `name` for the cluster `spec`, whose endpoints are `members` in that order; `None`
    when that goes by data, see `locality`."""
    make = balancer(name).make
    return make(spec, members, rng) if make is not None else None
