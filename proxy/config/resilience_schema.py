"""The models of what keeps requests alive through failing endpoints and overload. See `schema`."""

from typing import Annotated

from pydantic import Field, model_validator

from proxy.config.kinds import (
    AskedPath,
    Count,
    Duration,
    Factor,
    FailureWord,
    Flag,
    HeaderName,
    HeaderValues,
    HealthType,
    Method,
    Percent,
    Positive,
    RetryWord,
    Size,
    StatusRange,
    Text,
    Urgency,
    fault_error,
    integer,
)
from proxy.config.section import Section, written
from proxy.config.values import duration_text


def _check_cap(section: Section, key: str, cap_key: str) -> None:
    """A time that is written must not be cut by the longest one, given or not. The default of one bows to a `cap_key`
    that is written."""
    cap_s = getattr(section, cap_key)
    if key not in section.model_fields_set or getattr(section, key) <= cap_s:
        return
    if cap_key in section.model_fields_set:
        raise fault_error(f"is less than {key}", f"at least as long as {key}", key=cap_key)
    longest = duration_text(cap_s)
    raise fault_error(
        f"is more than {cap_key}, {longest}", f"at most {longest}, or a longer {cap_key}", key=key
    )


class HealthCheck(Section):
    """Questions that Homeport asks each endpoint. The first is asked before an endpoint gets requests, and counts for
    itself; after that a state lasts until as many checks in a row say otherwise as the keys below ask for. A JSON
    answer `{"draining": true, "load": 0.7}` is heeded: a service that drains gets nothing new; its load is shown, and
    no balancer goes by it."""

    type: HealthType = ""
    """`http`: a request is answered with the right status; `tcp`: a connection is made (over TLS where the cluster has
    it). Default `http` when `path` is given, else `tcp`."""
    path: AskedPath = ""
    """What is asked for, with or without a query. Default `/` with `type: http`."""
    method: Method = "GET"
    """Method of the request. Default GET."""
    host: Text = ""
    """Host field of the request. Default: the endpoint's address as configured."""
    headers: HeaderValues = Field(default_factory=dict)
    """More fields of the request. Default none."""
    statuses: tuple[StatusRange, ...] = written(("200-399",))
    """Answers that pass, as statuses (`204`) and ranges (`200-299`). Default `[200-399]`."""
    body: Text = ""
    """Text that must be in the first 64 KiB of the answer's body. Default none."""
    interval: Duration = written("30s")
    """Pause between two checks while all is well, 100ms or more. Short ones cost the service; most failures are found
    by requests first. Default 30s."""
    unhealthy_interval: Duration = written("5s")
    """The same while the endpoint is down, or a check has failed, 100ms or more. Default 5s, or `interval` if that is
    less."""
    timeout: Duration = written("5s")
    """Time until a check without an answer has failed, 10ms or more. Default 5s."""
    unhealthy_after: Positive = 3
    """Failed checks in a row that take an endpoint out. Default 3; 1 = a single lost check does."""
    healthy_after: Positive = 2
    """Passed checks in a row that bring it back. Default 2."""
    jitter: Percent = 10
    """How much shorter or longer a pause is at random, in percent, 0 to 100. Default 10; 0 lets checks fall into
    step."""

    @model_validator(mode="after")
    def _check(self) -> "HealthCheck":
        for key in ("interval", "unhealthy_interval"):
            if getattr(self, key) < 0.1:
                raise fault_error("is too short", "at least 100ms", key=key)
        if self.timeout < 0.01:
            raise fault_error("is too short", "at least 10ms", key="timeout")
        for key in ("path", "host", "headers", "body"):
            if self.type == "tcp" and getattr(self, key):
                raise fault_error("has no effect with type: tcp", "type: http, or no such key", key=key)
        if not self.statuses:
            raise fault_error("lets no status pass", "statuses such as [200-399]", key="statuses")
        return self


class CircuitBreaker(Section):
    """When an endpoint is left alone because requests to it fail, over all workers."""

    failure_threshold: Count = 5
    """Failures in a row that open the circuit. Default 5; 0 = never; 1 = a single lost connection does."""
    recovery_timeout: Duration = written("60s")
    """Time without requests until one is let through as a trial; while all circuits of the cluster are open, one of
    them is tried after 1s, 2s, 4s and so on up to this. Default 60s; 0 = at once."""
    success_threshold: Positive = 3
    """Trials in a row, one at a time, that must pass until all requests go again. Default 3."""
    half_open_max_trials: Positive = 1
    """Trials at once over all workers. Default 1."""
    failures: tuple[FailureWord, ...] = (
        "connect_failure", "timeout", "reset", "closed", "bad_reply", "5xx", "429",
    )  # fmt: skip
    """What counts as a failure. `429` does so with Retry-After only, and a circuit that it opens stays so for as many
    seconds if they are more than recovery_timeout, at most 300; 501 and 505 never do. Default all of
    connect_failure, timeout, reset, closed, bad_reply, 5xx, 429."""


class OutlierDetection(Section):
    """When an endpoint is left out for a while because it does worse than the others of its cluster."""

    consecutive_failures: Count = 5
    """Failures in a row, over all workers, while most of the others have none. Default 5; 0 = not looked at."""
    failure_percent: Percent = 20
    """How many percentage points more of its requests fail than of the others'. Default 20; 100 = not looked at."""
    latency_factor: Factor = 3
    """How many times as long as the others it typically takes, 0 or 1 to 1000. Default 3; 0 = not looked at."""
    latency_floor: Duration = written("50ms")
    """Slower by less than this is never an outlier. Default 50ms."""
    min_requests: Positive = 10
    """Requests in the window below which nothing is judged by it. Default 10."""
    window: Duration = written("10s")
    """Time looked back, 1s or more. Default 10s; short ones are quick and blind with little traffic."""
    interval: Duration = written("1s")
    """Time between two looks, 100ms or more; a row of failures is looked at when it happens. Default 1s."""
    base_ejection: Duration = written("30s")
    """How long the first ejection lasts, at most `max_ejection`; the second twice as long, and so on. Default 30s."""
    max_ejection: Duration = written("5m")
    """Longest ejection. Default 5m."""
    jitter: Percent = 10
    """Up to how much longer an ejection lasts at random, in percent. Default 10."""
    max_ejected_percent: Percent = 50
    """Share of the endpoints that may be out at once; one of two or more always may, the last never. Default 50; 0 =
    none is ejected."""

    @model_validator(mode="after")
    def _check(self) -> "OutlierDetection":
        if self.window < 1:
            raise fault_error("is too short", "at least 1s", key="window")
        if self.interval < 0.1:
            raise fault_error("is too short", "at least 100ms", key="interval")
        _check_cap(self, "base_ejection", "max_ejection")
        return self


class Retry(Section):
    """What is tried again, on another endpoint. A request is sent twice only when nothing of it was sent, its method is
    idempotent, or it has an Idempotency-Key."""

    max_retries: Count = 3
    """Further endpoints that are tried for one request. Default 3; 0 = none."""
    on: tuple[RetryWord, ...] = ("connect_failure", "reset", 502, 503, 504)
    """After what: `connect_failure`, `reset` (or closed without an answer), `timeout`, `bad_reply`, and statuses of
    answers from 400 to 599. Default `[connect_failure, reset, 502, 503, 504]`."""
    budget_percent: Percent = 20
    """Retries as a percentage of requests, of those in flight and of those in the last 10 s. Default 20: when
    everything fails endpoints see a fifth more; 100 doubles their load."""
    min_retries: Count = 3
    """Retries in flight, and begun per second, that each worker may have however few requests there are. Default 3."""
    per_try_timeout: Duration = written("0")
    """Time that one endpoint has to begin its answer before another is asked. A request that cannot be tried again (not
    safe, too large to be kept, or tried as often as allowed) has `timeouts.response`. Default 0 = so has every one. One
    below the time of good answers doubles the load."""
    backoff: Duration = written("25ms")
    """Scale of the random pause before a retry, which grows with each, at most `max_backoff`. Default 25ms; 0 = at
    once."""
    max_backoff: Duration = written("250ms")
    """Longest pause, and how long a request that failed without an answer waits for room in the budget. Default
    250ms."""
    replay_bytes: Size = written("64KiB")
    """Request bodies up to this size are kept to be sent again; larger ones are not retried once some of it was sent.
    Memory per request. Default 64KiB; 0 = none is kept."""

    @model_validator(mode="after")
    def _check(self) -> "Retry":
        _check_cap(self, "backoff", "max_backoff")
        return self


class Queue(Section):
    """Requests that wait because every endpoint is at its `max_connections`."""

    max_pending: Count = 1024
    """How many wait at once, over all workers. Default 1024; 0 = none: 503 at once."""
    timeout: Duration = written("10s")
    """How long one waits, from its arrival; then 503. Whoever would wait longer, as far as can be predicted, gets 503
    with Retry-After at once. Default 10s."""
    ageing: Duration = written("1s")
    """Time by which each step of urgency goes first. Default 1s; 0 = urgency does not matter."""


class SlowStart(Section):
    """How the share of an endpoint grows that comes, or comes back, while others are there."""

    window: Duration = written("30s")
    """Time until it has its full share. Default 30s; 0 = at once."""
    min_percent: Percent = 10
    """The share it begins with, in percent, above 0. Default 10; 100 = the full one."""
    aggression: Factor = 1
    """Bends the ramp: 1 = straight, 2 = half of it after a quarter of the window. Above 0. Default 1."""

    @model_validator(mode="after")
    def _check(self) -> "SlowStart":
        for key in ("min_percent", "aggression"):
            if not getattr(self, key):
                raise fault_error("is 0", "a value above 0", key=key)
        return self


class Priority(Section):
    """How urgent the requests of a route are when they have to wait for an endpoint."""

    urgency: Urgency = 3
    """0 (first) to 7 (last). Default 3."""
    from_client: Flag = False
    """The request's own Priority field (RFC 9218) goes before `urgency`. Default false; then no client can push
    itself forward."""


class RateLimit(Section):
    """How many requests of a route each client may send, over all workers; more get 429 with Retry-After. 131072
    clients are remembered, of all routes together; beyond that those that were quiet for longest are forgotten. They
    are counted by the route's `name` and the limit, so that one that is changed begins anew."""

    requests: Annotated[int, integer(1, 1_000_000)]
    """Requests allowed `per` this time, 1 to 1000000. Required."""
    per: Duration = written("1s")
    """The time, 1s to 1 day. Default 1s."""
    burst: Count = 0
    """Requests that may come at once after a rest. Default 0 = as many as `requests`; 1 = evenly spaced only."""
    header: HeaderName = ""
    """Field whose value tells clients apart, such as X-Api-Key; requests without it count by address. Default: the
    client's address, or the one which a trusted proxy names."""

    @model_validator(mode="after")
    def _check(self) -> "RateLimit":
        if not 1 <= self.per <= 86400:
            raise fault_error("is not from 1s to 1 day", "a time such as 1s, 1m or 1h", key="per")
        return self
