"""Whether the Docker Engine is worth asking: pybreaker decides.

As for endpoints, results are played to it after the fact: during a call it would hold a lock, so that all calls wait
for each other, and it measures with the wall clock, which jumps. So it never learns when its circuit opened; the time
until the next try is kept here."""

from datetime import datetime

import pybreaker

from proxy.clock import Clock
from proxy.errors import EngineUnavailable

# Failures in a row after which the engine is left alone, and for how long until one call tries again.
_FAILURES = 5
_RETRY_S = 2.0


class _Storage(pybreaker.CircuitMemoryStorage):
    """pybreaker's state without the time of its opening, which it would compare with the wall clock."""

    def __init__(self) -> None:
        super().__init__(pybreaker.STATE_CLOSED)

    @property
    def opened_at(self) -> datetime | None:
        return None

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        pass


class _Failed(Exception):
    """What a failed call raises inside of pybreaker."""


class EngineBreaker:
    """Whether the engine is worth asking. Used on the event loop alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._retry_at = 0.0
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=_FAILURES, reset_timeout=_RETRY_S, state_storage=_Storage()
        )

    def __repr__(self) -> str:
        return f"<EngineBreaker {self.state}>"

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return str(self._breaker.current_state)

    def admit(self, what: str) -> None:
        """Let a call through, or raise `EngineUnavailable`. While the circuit is open one goes through every 2 s."""
        now = self._clock.monotonic()
        if self.state == pybreaker.STATE_CLOSED:
            return
        if now < self._retry_at:
            problem = (
                f"the engine failed {_FAILURES} times in a row; next try in {self._retry_at - now:.1f} s"
            )
            raise EngineUnavailable(what, problem)
        self._retry_at = now + _RETRY_S

    def record(self, *, ok: bool) -> None:
        """A call that was let through has ended."""
        try:
            self._breaker.call(_pass if ok else _fail)
        except (_Failed, pybreaker.CircuitBreakerError):
            pass
        if not ok:
            self._retry_at = self._clock.monotonic() + _RETRY_S


def _pass() -> None:
    pass


def _fail() -> None:
    raise _Failed
