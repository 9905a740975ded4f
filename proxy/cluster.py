"""Clusters: which endpoints there are, which of them may have a request, and who waits for one.

No I/O and no `await` here: a pick happens in one synchronous call on the state of that moment. A pick is a lease that
is released exactly once, whatever became of the request. A cluster is the same object from snapshot to snapshot, and so
are its endpoints, with their leases and whatever the data plane keeps by endpoint; a request that waits, or is tried
again, meets those that are there by then.

A pick goes through, in this order: is anything usable (`standings`); does somebody wait already; is a circuit to be
tried; whom does the client's cookie name; whom does the balancer choose among those with room; is a permit left. A
cluster with nothing of all that goes straight to the balancer.

What pickers see of an endpoint's load is that of all workers: the own leases, counted at once, and the other workers'
words of the scoreboard, read again when a pick finds them older than `REFRESH_S`. Workers that see the same picture do
not all choose alike, because each adds its own picks to it and begins its turns at another endpoint. Response times are
each worker's own: every worker sees enough answers of an endpoint that it uses, and none of one that it does not.
"""

from collections.abc import Collection, Sequence
from math import ceil, inf

from proxy.connections import ConnectionLimit
from proxy.data_routing import DataRouting
from proxy.endpoint import Endpoint, Hold, Lease
from proxy.errors import Reason, RoutingError
from proxy.holding import Holding
from proxy.model import RequestFacts
from proxy.permits import MAX_PERMITS
from proxy.policy.admission import Ticket
from proxy.policy.balancer import balancer, goes_by_data, make_picker
from proxy.policy.failures import FailureKind
from proxy.policy.hash_key import HashKey
from proxy.policy.ignored import Ignored
from proxy.policy.outlook import Why
from proxy.policy.picker import Picker
from proxy.policy.response_time import ResponseTimes
from proxy.policy.retry import RetryBudget, others
from proxy.policy.stickiness import Stickiness
from proxy.scoreboard import C_STANDINGS, E_IN_FLIGHT, K_IGNORED, K_PANIC_PICKS
from proxy.snapshot import ClusterSpec
from proxy.standings import Standings
from proxy.surroundings import Peers, Surroundings
from proxy.trials import Trials
from proxy.waiting import Waiter, Waiting

# Seconds that the other workers' loads are believed. An endpoint's answer takes milliseconds, so its load hardly
# changes in less.
REFRESH_S = 0.005
# Seconds that they are believed for each word that is read. A word takes 50 to 100 ns, so no more than 2 % of a
# worker's time goes into reading, however many endpoints and workers there are: beyond 1000 words pictures get older.
REFRESH_S_PER_WORD = 5e-6
# Projecting and ordering a response time costs about as much as reading so many words.
WORDS_PER_ESTIMATE = 10
# Seconds that a circuit which may be tried waits for a request that can be repeated if the trial fails. Without an end
# a cluster that gets nothing but other requests would never have its endpoint back.
TRIAL_PATIENCE_S = 1.0

_NO_TRIAL = -1
_IGNORED_WORDS = {why: K_IGNORED + index for index, why in enumerate(Ignored)}


class Cluster:
    """A group of interchangeable endpoints and the picker that chooses among them."""

    __slots__ = (
        "_control_row", "_goes_by_data", "_has_limits", "_holding", "_is_crowded", "_is_plain", "_peers", "_picker",
        "_refresh_at", "_slots", "_standings", "_surroundings", "_times", "_trials", "_waiting", "budget", "data",
        "endpoints", "hash_key", "name", "reads_request", "row", "sees_data", "spec", "stickiness",
    )  # fmt: skip

    def __init__(self, spec: ClusterSpec, surroundings: Surroundings) -> None:
        board = surroundings.scoreboard
        self.name = spec.name
        self.spec = spec
        self.endpoints: tuple[Endpoint, ...] = ()
        self.stickiness: Stickiness[Endpoint] | None = None
        """The cookie that keeps clients with their endpoint; `None` = there is none."""
        self.hash_key: HashKey | None = None
        """What of a request the balancer goes by; `None` = it does not."""
        self.data: DataRouting | None = None
        """Where data are, and how long requests take; `None` = neither the balancer nor its shadow asks."""
        self._goes_by_data = False
        """The balancer does."""
        self.sees_data = False
        """Whether the balancer, or its shadow, goes by the data that requests need."""
        self.reads_request = False
        """Whether `acquire` needs to know more of a request than that there is one."""
        self.budget = RetryBudget(spec.retry)
        """How many retries its requests may have."""
        self._surroundings = surroundings
        self._control_row = board.control_row
        self.row = board.cluster_row(surroundings.worker, spec.slot)
        self._peers = Peers(board, surroundings.worker)
        self._standings = Standings(board)
        self._holding = Holding(board, surroundings.worker, spec.slot)
        self._waiting = Waiting(self, spec.slot, surroundings, self._peers, self._holding)
        self._trials = Trials(surroundings)
        self._picker: Picker[Endpoint] | None = None
        self._times: ResponseTimes | None = None
        self._is_crowded = False
        """Requests wait in other workers, as last read."""
        self._is_plain = False
        """The balancer may choose among all that are usable, and that is all there is to a pick."""

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {self.spec.balancer}, {len(self.endpoints)} endpoints)"

    # ------------------------------------------------------------------ membership

    def update(self, spec: ClusterSpec) -> None:
        """Go on with what a snapshot says. Endpoints that are gone are marked as removed."""
        kinds = [balancer(name) for name in (spec.balancer, spec.shadow) if name]
        members = self._updated_members(spec)
        sees_key = any(kind.sees_key for kind in kinds)
        self.hash_key = HashKey(spec.hash) if sees_key and spec.hash is not None else None
        self.stickiness = Stickiness(spec.sticky, members, spec.name) if spec.sticky is not None else None
        self.sees_data = any(kind.sees_data for kind in kinds)
        self.reads_request = self.hash_key is not None or self.stickiness is not None or self.sees_data
        if not any(kind.sees_time for kind in kinds):
            self._times = None
        elif self._times is None:
            self._times = ResponseTimes()
        # A picker that keeps its members has no turns to go on with.
        if self._picker is None or spec.balancer != self.spec.balancer or kinds[0].keeps_members:
            self._picker = make_picker(spec.balancer, spec, members, self._surroundings.rng)
        self._update_data(spec, members)
        self.budget.update(spec.retry)
        self.spec = spec
        self.endpoints = members
        # Else all workers would begin with the same endpoint.
        start = self._surroundings.worker % len(members) if members else 0
        self._standings.update(spec, members[start:] + members[:start])
        self._slots = [endpoint.spec.slot for endpoint in members]
        self._has_limits = any(endpoint.max_connections for endpoint in members)
        sees_load = any(kind.sees_load for kind in kinds)
        self._refresh_at = -inf if sees_load or self._has_limits or self.data is not None else inf
        self._waiting.update(spec.queue)

    def _update_data(self, spec: ClusterSpec, members: tuple[Endpoint, ...]) -> None:
        """Go on learning, begin with it, or end it. A shadow is compared by what data locality foretells."""
        self._goes_by_data = balancer(spec.balancer).sees_data
        if not goes_by_data(spec):
            self.data = None
            return
        if self.data is None:
            self.data = DataRouting(spec, self._surroundings, self._peers, self.row)
        shadow = make_picker(spec.shadow, spec, members, self._surroundings.rng) if spec.shadow else None
        self.data.update(spec, members, shadow)

    def _updated_members(self, spec: ClusterSpec) -> tuple[Endpoint, ...]:
        known = {endpoint.id: endpoint for endpoint in self.endpoints}
        board, worker = self._surroundings.scoreboard, self._surroundings.worker
        members = []
        for endpoint_spec in spec.endpoints:
            endpoint = known.get(endpoint_spec.id)
            # An instance that was started again may be elsewhere; connections to the old address are not kept.
            if endpoint is None or endpoint.spec.address != endpoint_spec.address:
                endpoint = Endpoint(
                    endpoint_spec,
                    self,
                    row=board.endpoint_row(worker, endpoint_spec.slot),
                    standing=board.standing_row(endpoint_spec.slot),
                    locks=self._surroundings.locks.of(endpoint_spec.slot),
                )
            else:
                endpoint.update(endpoint_spec)
            members.append(endpoint)
        for endpoint in set(self.endpoints).difference(members):
            endpoint.is_removed = True
        return tuple(members)

    def on_removed(self) -> None:
        """The cluster is in no snapshot any more. Who waits may still be served."""
        for endpoint in self.endpoints:
            endpoint.is_removed = True

    @property
    def picker(self) -> Picker[Endpoint] | None:
        """The picker, which is kept while the balancer's name stays, if it can."""
        return self._picker

    @property
    def active(self) -> int:
        """Requests in flight in this worker; those that wait are not among them."""
        return sum([endpoint.in_flight - endpoint.elsewhere for endpoint in self.endpoints])

    def connection_limit(self, endpoint: Endpoint) -> ConnectionLimit:
        """How many connections there may be to `endpoint`, one of this cluster's."""
        return ConnectionLimit(endpoint, self._surroundings)

    # ------------------------------------------------------------------ picks

    def eligible(self, *, now: float) -> tuple[Endpoint, ...]:
        """Who may have a request now, slow start aside; pictures of the endpoints are brought up to date as for a pick.
        Of a cluster in which data count."""
        self._look(now)
        self._refresh(now)
        return tuple([one for one in self._standings.view.usable if one.has_room])

    def acquire(
        self, facts: RequestFacts, *, now: float, failed: Collection[str] = (), may_try: bool = True
    ) -> Lease:
        """Pick an endpoint for a request and count it.

        `failed` are ids that are not to be picked; `may_try` = the request may be the trial of an open circuit. Raises
        `RoutingError`: NO_ENDPOINT when none is usable for this request, OVERLOADED when those that are have no room,
        or others wait for it: then it may be queued.
        """
        standings = self._standings
        if now >= standings.look_at or self._control_row[C_STANDINGS] != standings.seen:
            self._look(now)
        if now >= self._refresh_at:
            self._refresh(now)
        if self._is_plain and not failed:
            picked = self._choose(standings.view.usable, facts, now)
            if picked is None:
                raise self._no_endpoint(now)
            return self._lease(picked, facts, None, now, standings.view.usable)
        if not self._waiting.size and not self._is_crowded:
            lease = self._pick(facts, failed, may_try, now)
            if lease is not None:
                return lease
        if not self.is_hopeful(failed):
            raise self._no_endpoint(now)
        raise RoutingError(Reason.OVERLOADED)

    def _look(self, now: float) -> None:
        """Bring the view of the endpoints up to date."""
        standings = self._standings
        self._trials.look(now)
        if standings.look(now) and self._waiting.size:
            self._waiting.wake()
        view = standings.view
        self._is_plain = not (
            self._has_limits
            or self.stickiness is not None
            or view.trials
            or view.ramping
            or view.in_panic
            or self._waiting.size
            or not view.usable
        )

    def _pick(self, facts: RequestFacts, failed: Collection[str], may_try: bool, now: float) -> Lease | None:
        """A circuit to be tried, else the endpoint that the client's cookie names, else one that the picker chooses
        among those with room; `None` when none has."""
        view = self._standings.view
        if view.trials and (lease := self._try_circuit(facts, failed, may_try, now)) is not None:
            lease.why = Why.TRIAL
            return lease
        if self.stickiness is not None:
            kept = self.stickiness.member(facts.affinity)
            if kept is not None and kept.is_usable and kept.id not in failed:
                lease = self._lease_on(kept, facts, now)
                if lease is not None:
                    lease.why = Why.STICKY
                    return lease
        candidates = self._candidates(failed, now)
        if not candidates and self._has_limits:
            # Another worker's may have become free just now.
            self._refresh(now)
            candidates = self._candidates(failed, now)
        while (picked := self._choose(candidates, facts, now)) is not None:
            lease = self._lease_on(picked, facts, now, () if failed else candidates)
            if lease is not None:
                self.row[K_PANIC_PICKS] += view.in_panic
                if failed:
                    lease.why = Why.RETRY
                elif len(candidates) == 1:
                    lease.why = Why.ONLY
                return lease
            candidates = tuple([one for one in candidates if one is not picked])
        return None

    def _choose(self, candidates: tuple[Endpoint, ...], facts: RequestFacts, now: float) -> Endpoint | None:
        """The balancer's choice."""
        if self._goes_by_data:
            assert self.data is not None
            return self.data.choose(candidates, facts, now=now)
        assert self._picker is not None
        return self._picker.pick(candidates, facts)

    def _candidates(self, failed: Collection[str], now: float) -> tuple[Endpoint, ...]:
        """Those that the picker chooses among: the same tuple as long as nothing changes."""
        view = self._standings.view
        candidates = view.usable
        if failed:
            candidates = tuple(others(candidates, failed))
        if self._has_limits and not all([endpoint.has_room for endpoint in candidates]):
            candidates = tuple([endpoint for endpoint in candidates if endpoint.has_room])
        if view.ramping:
            # With odds instead of a smaller weight slow start is the same for every balancer, hashing included.
            shares, draw = self._standings.shares(now), self._surroundings.rng.random
            candidates = (
                tuple([one for one in candidates if one not in shares or draw() < shares[one]]) or candidates
            )
        return candidates

    def _lease_on(
        self, endpoint: Endpoint, facts: RequestFacts, now: float, candidates: Sequence[Endpoint] = ()
    ) -> Lease | None:
        if not endpoint.max_connections:
            return self._lease(endpoint, facts, None, now, candidates)
        permit = self._permit(endpoint)
        if permit < 0:
            return None
        return self._lease(endpoint, facts, self._hold(permit, _NO_TRIAL, now), now, candidates)

    def _hold(self, permit: int, trial: int, now: float) -> Hold:
        hold = Hold(permit, trial, now)
        if permit >= 0:
            self._holding.begin(hold)
        return hold

    def _lease(
        self,
        endpoint: Endpoint,
        facts: RequestFacts,
        hold: Hold | None,
        now: float,
        candidates: Sequence[Endpoint] = (),
    ) -> Lease:
        """The balancer chose `endpoint` among `candidates`, and the shadow is asked what it would have done; empty =
        the choice was not the balancer's, or one for the same request was compared before."""
        if self.data is None:
            return Lease(endpoint, self._times, hold, now)
        if candidates:
            self.data.compare(endpoint, candidates, facts, now=now)
        placement = self.data.place(endpoint, facts, now=now)
        lease = Lease(endpoint, self._times, hold, now)
        lease.placement, lease.placer, lease.is_watched = placement, self.data, True
        return lease

    def _permit(self, endpoint: Endpoint) -> int:
        """A permit of the endpoint; -1 = there is none.

        Its locks alone would never let more than the limit pass that there is now; the sum keeps those back who would
        pass while requests from before a limit, or from under a higher one, are in flight. It also tells, for less than
        a search, that there is nothing to find.
        """
        limit = endpoint.max_connections
        if endpoint.row[E_IN_FLIGHT] + self._peers.in_flight([endpoint.spec.slot])[0] >= limit:
            return -1
        return endpoint.locks.permits.take(limit)

    def _try_circuit(
        self, facts: RequestFacts, failed: Collection[str], may_try: bool, now: float
    ) -> Lease | None:
        """A lease on an endpoint whose circuit is to be tried, if nobody else is trying it."""
        view = self._standings.view
        for endpoint, since in view.trials:
            if endpoint.id in failed or (not may_try and view.usable and now < since + TRIAL_PATIENCE_S):
                continue
            trial = self._trials.take(endpoint, self.spec.breaker.half_open_max_trials)
            if trial < 0:
                continue
            permit = self._permit(endpoint) if endpoint.max_connections else _NO_TRIAL
            if endpoint.max_connections and permit < 0:
                self._trials.give(endpoint, trial)
                continue
            self._trials.on_begin(endpoint)
            return self._lease(endpoint, facts, self._hold(permit, trial, now), now)
        return None

    def is_hopeful(self, failed: Collection[str]) -> bool:
        """Whether anything is usable for a request that may not have `failed`, is being tried, or is about to be usable
        when its first check has passed, or once it is started."""
        view = self._standings.view
        if self._awaits_instance(failed):
            return True
        return any(one.id not in failed for one in (*view.usable, *view.unchecked)) or any(
            one.id not in failed for one, _ in view.trials
        )

    def _awaits_instance(self, failed: Collection[str] = ()) -> bool:
        """Whether somebody starts an instance, and there is none but such as leave, or have `failed` where more are
        started."""
        spec = self.spec
        if not spec.is_scaled and not spec.is_awaited:
            return False
        return all([one.is_leaving or (spec.is_scaled and one.id in failed) for one in self.endpoints])

    def _no_endpoint(self, now: float) -> RoutingError:
        view = self._standings.view
        wait_s = max(ceil(view.trial_at - now), 1) if view.trial_at < inf else 0
        details = ""
        if view.are_all_open:
            when = f"in {wait_s} s" if wait_s else "when checks pass"
            details = f"all circuits are open, the next trial is {'under way' if view.trials else when}"
        return RoutingError(Reason.NO_ENDPOINT, retry_after_s=wait_s, details=details)

    def _refresh(self, now: float) -> None:
        """Bring the endpoints' figures up to date."""
        endpoints = self.endpoints
        peers = self._peers.look()
        words = len(peers) * len(endpoints)
        loads = self._peers.in_flight(self._slots)
        for endpoint, load in zip(endpoints, loads, strict=True):
            endpoint.in_flight += load - endpoint.elsewhere
            endpoint.elsewhere = load
        if self._times is not None:
            words += WORDS_PER_ESTIMATE * len(endpoints)
            self._times.project(endpoints, now=now)
        if self.data is not None:
            words += self.data.refresh(self._standings.view.usable, now=now)
        self._is_crowded = self._has_limits and self._peers.waiting(self.spec.slot, now) > 0
        self._refresh_at = now + max(REFRESH_S, words * REFRESH_S_PER_WORD)

    def on_ignored(self, why: Ignored) -> None:
        """Something that a request or an answer says about data makes no sense."""
        self.row[_IGNORED_WORDS[why]] += 1

    def why(self, lease: Lease) -> Why | None:
        """Why `lease` went to its endpoint; `None` = it was the turn of one that is chosen without a look at data."""
        if lease.why is not None or lease.placement is None or not self._goes_by_data:
            return lease.why
        assert self.data is not None
        return self.data.why(lease.endpoint, lease.placement)

    # ------------------------------------------------------------------ what became of leases

    def on_result(
        self, endpoint: Endpoint, generation: int, kind: FailureKind | None, wait_s: int = 0, *, now: float
    ) -> None:
        """See `endpoint.Home`."""
        message = self._standings.record(endpoint, generation, kind, wait_s, now=now)
        if message is not None:
            self._surroundings.posts.to_control(message)

    def end_trial(self, endpoint: Endpoint, hold: Hold) -> None:
        """See `endpoint.Home`."""
        self._trials.give(endpoint, hold.trial)
        hold.trial = _NO_TRIAL

    def let_go(
        self, endpoint: Endpoint, hold: Hold, generation: int, kind: FailureKind | None, *, now: float
    ) -> None:
        """See `endpoint.Home`."""
        if hold.trial >= 0:
            if kind in self.spec.breaker.failures:
                self._trials.on_failure(endpoint, hold.trial, generation, now)
            else:
                self._trials.give(endpoint, hold.trial)
        if hold.permit >= 0:
            endpoint.locks.permits.give(hold.permit)
            self._holding.end(hold, now=now)
            self._waiting.on_freed(endpoint.spec.slot, hold.permit, now=now)
        elif self._waiting.size:
            self._waiting.wake()

    # ------------------------------------------------------------------ the queue

    def enqueue(self, waiter: Waiter, urgency: int, deadline: float, *, now: float) -> Ticket[Waiter]:
        """Let a request wait that `acquire` had no room for, until `deadline` (monotonic; `inf` = as long as the queue
        lets it). Raises `RoutingError` (OVERLOADED with Retry-After) when it would wait in vain."""
        ticket = self._waiting.join(waiter, urgency, deadline, now=now)
        self._is_plain = False
        return ticket

    def leave(self, ticket: Ticket[Waiter], now: float) -> None:
        """The client of a request that waits is gone. Does nothing when it does not wait any more."""
        self._waiting.leave(ticket, now=now)

    def tick(self, now: float) -> None:
        """Look for what nobody told those who wait. Happens by itself while somebody does."""
        self._waiting.tick(now)

    def on_free(self, teller: int, permit: list[int] | None, *, now: float) -> None:
        """Another worker says that something is free; `permit` is an endpoint's slot and the permit's number."""
        if permit is not None:
            self._surroundings.locks.of(permit[0]).permits.expect(permit[1])
        self._waiting.on_told(teller, permit, now=now)

    def try_acquire(self, waiter: Waiter, *, now: float) -> Lease | None:
        """See `waiting.Source`."""
        return self._pick(waiter.facts, waiter.failed, waiter.may_try, now)

    def permits(self) -> int:
        """See `waiting.Source`."""
        view = self._standings.view
        expected = view.usable or view.unchecked
        if not expected:
            return MAX_PERMITS if self._awaits_instance() else len(view.trials)
        return min(sum([endpoint.max_connections or MAX_PERMITS for endpoint in expected]), MAX_PERMITS)

    def room(self, *, now: float) -> int:
        """See `waiting.Source`."""
        self._look(now)
        self._refresh(now)
        view = self._standings.view
        return len(view.trials) + sum(
            [max((one.max_connections or MAX_PERMITS) - one.in_flight, 0) for one in view.usable]
        )

    def hopeless(self, waiter: Waiter, deadline: float, *, now: float) -> RoutingError | None:
        """See `waiting.Source`. An open circuit that may be tried before the deadline is something to wait for."""
        if self._standings.view.trial_at < deadline or self.is_hopeful(waiter.failed):
            return None
        return self._no_endpoint(now)
