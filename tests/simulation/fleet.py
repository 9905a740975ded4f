"""A proxy and its endpoints in virtual time: the policies composed as the daemon composes them, without sockets.

Everything that happens is an event on one heap, and all chance comes from one seed, so a run is the same every time and
minutes take a moment. The endpoints are crude on purpose: so many requests at once, the rest in line, and a script that
says when they are slow, refuse, or answer 503.
"""

import heapq
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf, log
from random import Random

from proxy.model import NO_FACTS
from proxy.policy.admission import Admitted, PendingQueue, QueueParams, ServiceTimes
from proxy.policy.breaker import (
    BreakerParams,
    Circuit,
    CircuitState,
    Permission,
    generation_of,
    hurried_s,
    is_stale,
    permission,
    unpack,
)
from proxy.policy.failures import FailureKind
from proxy.policy.health import Health, HealthParams, HealthState
from proxy.policy.outlier import Ejected, OutlierDetector, OutlierParams, Sample
from proxy.policy.picker import LeastLoaded, SmoothWeightedRoundRobin, connections_per_weight
from proxy.policy.retry import FailedTry, RetriedRequest, RetryBudget, RetryParams, backoff_s, others, why_not
from proxy.policy.slow_start import SlowStartParams, odds
from proxy.policy.standing import (
    IN_USE,
    IN_USE_IN_PANIC,
    Marks,
    PanicParams,
    Standing,
    is_on_trial,
    is_panic,
    standing,
)

GET = RetriedRequest(b"GET")
# Seconds between two looks whether the retry budget has room, as in `dataplane.tries`.
ROOM_LOOK_S = 0.01


class VirtualTime:
    """Calls functions at their time, in order."""

    def __init__(self):
        self.now = 0.0
        self._events = []
        self._numbers = count()

    def at(self, when, call, *given):
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), call, given))

    def run(self, until):
        while self._events and self._events[0][0] <= until:
            self.now, _, call, given = heapq.heappop(self._events)
            call(*given)
        self.now = until


@dataclass(frozen=True, slots=True)
class Condition:
    """How an endpoint is for a while."""

    slower: float = 1.0
    """Times as long as usual."""
    refuses: bool = False
    fails_ratio: float = 0.0
    """Share of its answers that are 503."""


WELL = Condition()


class Service:
    """What is behind an address: `slots` at once, each for `service_s` on average, others in line."""

    def __init__(self, name, script=lambda now: WELL, *, slots=4, service_s=0.05):
        self.name = name
        self.script = script
        self.slots = slots
        self.service_s = service_s
        self.busy = 0
        self.line = deque()
        self.served = 0


class Endpoint:
    """What the proxy keeps of an address; a candidate for a picker."""

    def __init__(self, service, limit, health, now):
        self.id = service.name
        self.service = service
        self.limit = limit
        self.health = health
        self.in_flight = 0
        self.weight = 100
        self.since = now
        self.is_ejected = False
        self.word = 0
        self.failures = self.passed_trials = 0
        self.has_trial = False
        self.sample = []

    def marks(self):
        health = self.health.state if self.health is not None else Marks().health
        return Marks(False, health, self.is_ejected, self.since)


@dataclass(eq=False, slots=True)
class Request:
    arrived: float
    tries: int = 0
    """Endpoints that were asked; those on trial do not count."""
    may_try: bool = True
    """Whether it may be a trial."""
    failed: list = field(default_factory=list)
    has_budget: bool = False
    taken_at: float = 0.0


NOBODY = Request(0.0)


@dataclass(frozen=True, slots=True)
class Policies:
    """The parameters of a fleet."""

    limit: int = 8
    """max_connections of each endpoint."""
    retry: RetryParams = RetryParams()
    outlier: OutlierParams = OutlierParams()
    breaker: BreakerParams = BreakerParams()
    queue: QueueParams = QueueParams()
    slow_start: SlowStartParams = SlowStartParams()
    panic: PanicParams = PanicParams()
    health: HealthParams | None = None


class Fleet:
    """A cluster of `services` behind one worker."""

    def __init__(self, services, seed, **policies):
        """`policies` are fields of `Policies`."""
        self.time = VirtualTime()
        self.rng = Random(seed)
        self.policies = Policies(**policies)
        self.endpoints = []
        self.detector = OutlierDetector(self.policies.outlier, self.rng)
        self.budget = RetryBudget(self.policies.retry)
        self.queue = PendingQueue(self.policies.queue)
        self.times = ServiceTimes()
        self.picker = LeastLoaded(connections_per_weight, SmoothWeightedRoundRobin())
        self.active = 0
        self.failed_trials = None
        """Since all circuits are open; `None` = they are not."""
        self.answers = []
        """(arrived, ended, what) of every request; `what` is ok, failed, late, or refused: without an endpoint, or one
        that it would not wait for too long."""
        self.sent = []
        """(when, endpoint) of every attempt."""
        self.changes = []
        """(when, endpoint, what) of circuits, ejections and health."""
        for service in services:
            self.join(service)
        for endpoint in self.endpoints:
            endpoint.since = 0.0
        self.time.at(1.0, self._sweep)

    # What happens outside.

    def join(self, service):
        health = (
            Health(self.policies.health, self.rng, now=self.time.now)
            if self.policies.health is not None
            else None
        )
        endpoint = Endpoint(service, self.policies.limit, health, self.time.now)
        self.endpoints.append(endpoint)
        self.detector.update([one.id for one in self.endpoints])
        if health is not None:
            self._check(endpoint)
        self._serve_waiting()

    def load(self, rate, start, end):
        """Poisson arrivals."""
        when = start
        while (when := when + self.rng.expovariate(rate)) < end:
            self.time.at(when, self.arrive)

    def arrive(self):
        now = self.time.now
        request = Request(now)
        self.active += 1
        self.budget.on_request()
        self.budget.fold(now)
        self._find(request)

    # The request path.

    def _find(self, request):
        """Send it; with no room anywhere, let it wait."""
        now = self.time.now
        if not len(self.queue) and self._send(request):
            return
        if not self._is_hopeful(request):
            self._end(request, "refused")
            return
        permits = sum(endpoint.limit for endpoint in self._usable()) or len(self._trials(request))
        answer = self.queue.offer(request, permits=permits, mean_s=self.times.mean_s(), now=now)
        if not isinstance(answer, Admitted):
            self._end(request, "refused")
            return
        if answer.displaced is not None:
            self._end(answer.displaced.owner, "refused")
        self.time.at(answer.ticket.deadline, self._expire)

    def _permission(self, endpoint):
        return permission(endpoint.word, self.time.now)

    def _usable(self):
        """Who gets requests, each with its standing."""
        now = self.time.now
        window_s = self.policies.slow_start.window_s
        found = {
            one: standing(one.marks(), self._permission(one), slow_start_s=window_s, now=now)
            for one in self.endpoints
        }
        in_use = IN_USE_IN_PANIC if is_panic(found.values(), self.policies.panic) else IN_USE
        return {one: what for one, what in found.items() if what in in_use}

    def _candidates(self, request):
        return [one for one in others(self._usable(), request.failed) if one.in_flight < one.limit]

    def _drawn(self, candidates):
        """Those among whom the picker chooses; slow start is by odds."""
        usable = self._usable()
        ramping = [one for one, what in usable.items() if what is Standing.SLOW_START]
        ages_s = [self.time.now - one.since for one in ramping]
        shares = dict(zip(ramping, odds(self.policies.slow_start, ages_s, len(usable)), strict=True))
        return [one for one in candidates if self.rng.random() < shares.get(one, 1.0)] or candidates

    def _trials(self, request):
        if not request.may_try and self._usable():
            return []
        return [one for one in others(self._on_trial(), request.failed) if not one.has_trial]

    def _on_trial(self):
        return [one for one in self.endpoints if is_on_trial(one.marks(), self._permission(one))]

    def _is_hopeful(self, request):
        """Whether anything is usable, or being tried, that has not failed it."""
        return bool(others([*self._usable(), *self._on_trial()], request.failed))

    def _send(self, request):
        trials = self._trials(request)
        if trials:
            endpoint = trials[0]
            endpoint.has_trial = True
        else:
            endpoint = self.picker.pick(self._drawn(self._candidates(request)), NO_FACTS)
            if endpoint is None:
                return False
        self.sent.append((self.time.now, endpoint.id))
        endpoint.in_flight += 1
        request.tries += not trials
        request.taken_at = self.time.now
        self._begin(endpoint.service, (request, endpoint, generation_of(endpoint.word), bool(trials)))
        return True

    def _begin(self, service, attempt):
        if service.script(self.time.now).refuses:
            self.time.at(
                self.time.now + 0.001, self._done, attempt, FailedTry(FailureKind.CONNECT, is_sent=False)
            )
        elif service.busy >= service.slots:
            service.line.append(attempt)
        else:
            self._work(service, attempt)

    def _work(self, service, attempt):
        condition = service.script(self.time.now)
        service.busy += 1
        lasts_s = service.service_s * condition.slower * (0.5 + self.rng.random())
        failed = FailedTry(FailureKind.STATUS, 503) if self.rng.random() < condition.fails_ratio else None
        if condition.refuses:  # it went down while this one was in line
            lasts_s, failed = 0.0, FailedTry(FailureKind.RESET)
        self.time.at(self.time.now + lasts_s, self._worked, service, attempt, failed)

    def _worked(self, service, attempt, failed):
        service.busy -= 1
        service.served += 1
        if service.line:
            self._work(service, service.line.popleft())
        self._done(attempt, failed)

    def _done(self, attempt, failed):
        request, endpoint, generation, is_trial = attempt
        now = self.time.now
        endpoint.in_flight -= 1
        if is_trial:
            endpoint.has_trial = False
        held_s = now - request.taken_at
        self.times.add(held_s, now=now)
        endpoint.sample.append((failed is not None, held_s))
        self._judge(endpoint, failed is None, generation)
        self._give_back(request)
        if failed is None:
            self._end(request, "ok")
        else:
            request.failed.append(endpoint.id)
            self._retry(request, replace(failed, is_trial=is_trial))
        self._serve_waiting()

    def _retry(self, request, failed):
        """As `dataplane.tries` does it: after a trial at once and outside the budget, else after a pause; without an
        answer to pass on, as soon as the budget has room."""
        params, now = self.policies.retry, self.time.now
        if why_not(params, GET, failed, tries=request.tries) is not None or not self._is_hopeful(request):
            self._end(request, "failed")
        elif failed.is_trial:
            request.may_try = False
            self._find(request)
        else:
            request.has_budget = self.budget.try_take(self.active, now=now)
            if request.has_budget or (not failed.status and self.budget.has_credit(now)):
                pause_s = backoff_s(params, request.tries, self.rng)
                self.time.at(now + pause_s, self._again, request, now + params.max_backoff_s)
            else:
                self._end(request, "failed")

    def _again(self, request, room_until):
        now = self.time.now
        request.has_budget = request.has_budget or self.budget.try_take(self.active, now=now)
        if request.has_budget:
            self._find(request)
        elif now < room_until:
            self.time.at(now + ROOM_LOOK_S, self._again, request, room_until)
        else:
            self._end(request, "failed")

    def _give_back(self, request):
        if request.has_budget:
            request.has_budget = False
            self.budget.give_back()

    def _serve_waiting(self):
        """Late binding: whoever has its turn, among those who can use what is free."""
        self._refuse_hopeless()
        while len(self.queue) and (self._trials(NOBODY) or self._candidates(NOBODY)):
            ticket = self.queue.take(self._can_be_sent, now=self.time.now)
            if ticket is None:
                return
            assert self._send(ticket.owner)

    def _refuse_hopeless(self):
        """Nobody waits for what will not come: a usable endpoint, or one whose circuit may be tried in time."""
        closed = [one for one in self.endpoints if self._permission(one) is Permission.REFUSE]
        trial_at = min([unpack(one.word).until for one in closed], default=inf)
        for ticket in [one for one in self.queue if trial_at >= one.deadline]:
            if not self._is_hopeful(ticket.owner):
                self.queue.leave(ticket)
                self._end(ticket.owner, "refused")

    def _can_be_sent(self, request):
        return bool(self._trials(request) or self._candidates(request))

    def _expire(self):
        for ticket in self.queue.expire(now=self.time.now):
            self._end(ticket.owner, "late")

    def _end(self, request, what):
        self._give_back(request)
        self.active -= 1
        self.answers.append((request.arrived, self.time.now, what))

    # Control.

    def _judge(self, endpoint, passed, generation):
        """What pybreaker does with a result, and the outlier detector."""
        if is_stale(generation, endpoint.word):
            return
        circuit = unpack(endpoint.word)
        if passed:
            self.detector.on_success(endpoint.id)
            endpoint.failures = 0
            if not circuit.state.lets_pass:
                endpoint.passed_trials += 1
                self._set(endpoint, circuit, CircuitState.HALF_OPEN)
                if endpoint.passed_trials >= self.policies.breaker.success_threshold:
                    self._set(endpoint, circuit, CircuitState.CLOSED)
                    endpoint.since = self.time.now
                    self.detector.forgive(endpoint.id)
                    self._hurry_others()
            return
        endpoint.failures += 1
        if not circuit.state.lets_pass or 0 < self.policies.breaker.failure_threshold <= endpoint.failures:
            endpoint.passed_trials = endpoint.failures = 0
            self._set(
                endpoint, circuit, CircuitState.OPEN, self.time.now + self.policies.breaker.recovery_timeout_s
            )
            self._hurry(failed_trials=int(not circuit.state.lets_pass))
        if self.detector.on_failure(endpoint.id):
            self._eject()

    def _set(self, endpoint, circuit, state, until=0.0):
        if state is not circuit.state or state is CircuitState.OPEN:
            self.changes.append((self.time.now, endpoint.id, state.name))
        endpoint.word = circuit.changed(state, until).pack()
        # Who waits may be the one to try it.
        self.time.at(until, self._serve_waiting)

    def _hurry(self, failed_trials):
        """As `controlplane.circuits` does it: while all circuits are open, one is tried sooner."""
        if any(unpack(one.word).state.lets_pass for one in self.endpoints):
            self.failed_trials = None
            return
        self.failed_trials = (self.failed_trials or 0) + failed_trials
        tried = [one for one in self.endpoints if one.marks().health is HealthState.HEALTHY]
        if tried:
            first = min(tried, key=lambda one: unpack(one.word).until)
            self._try_by(first, self.time.now + hurried_s(self.policies.breaker, self.failed_trials))

    def _hurry_others(self):
        """The first of them has closed: the others are tried at once."""
        if self.failed_trials is not None:
            self.failed_trials = None
            for endpoint in self.endpoints:
                self._try_by(endpoint, self.time.now)

    def _try_by(self, endpoint, moment):
        circuit = unpack(endpoint.word)
        if circuit.state is CircuitState.OPEN and circuit.until > moment:
            endpoint.word = Circuit(circuit.state, circuit.generation, moment).pack()
            self.time.at(moment, self._serve_waiting)

    def _sweep(self):
        now = self.time.now
        for endpoint in self.endpoints:
            results, endpoint.sample = endpoint.sample, []
            times = [log(max(seconds, 1e-4)) for failed, seconds in results if not failed]
            failures = sum(failed for failed, _ in results)
            squares = sum(value * value for value in times)
            sample = Sample(len(results), failures, len(times), sum(times), squares)
            self.detector.record(endpoint.id, sample, now=now)
        self._eject()
        self._serve_waiting()
        self.time.at(now + 1.0, self._sweep)

    def _eject(self):
        now = self.time.now
        usable = [
            one.id
            for one in self.endpoints
            if standing(
                Marks(False, one.marks().health), self._permission(one), slow_start_s=0, now=now
            ) in IN_USE
        ]  # fmt: skip
        for change in self.detector.sweep(usable, now=now):
            (endpoint,) = [one for one in self.endpoints if one.id == change.endpoint_id]
            endpoint.is_ejected = isinstance(change, Ejected)
            if not endpoint.is_ejected:
                endpoint.since = now
            self.changes.append((now, endpoint.id, type(change).__name__))

    def _check(self, endpoint):
        now = self.time.now
        if endpoint.health.record(not endpoint.service.script(now).refuses, now=now):
            endpoint.since = now
            self.changes.append((now, endpoint.id, endpoint.health.state.name))
            self._serve_waiting()
        self.time.at(endpoint.health.next_at(), self._check, endpoint)

    # What is read off afterwards.

    def ended(self, start=0.0, end=inf):
        """How the requests ended that arrived in that time."""
        return Counter(what for arrived, _, what in self.answers if start <= arrived < end)

    def quantile(self, ratio, start=0.0, end=inf):
        """Of the times of the requests that were answered."""
        times = sorted(
            done - came for came, done, what in self.answers if what == "ok" and start <= came < end
        )
        return times[int(ratio * (len(times) - 1))]

    def share(self, name, start=0.0, end=inf):
        """The part of all attempts that went to an endpoint."""
        sent = [to for when, to in self.sent if start <= when < end]
        return sent.count(name) / len(sent)

    def changed(self, name, *what):
        """When something became of an endpoint."""
        return [when for when, one, how in self.changes if one == name and (how in what or not what)]
