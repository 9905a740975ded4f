"""How long an endpoint takes for data that it holds, and how many requests it works on at once: learned from answers.

A request that finds all slots busy waits. From outside only the sum is seen: the time until the answer. What separates
the two is how many requests were in flight when it came. With `m` slots and `n` requests before it, whose work is `W`
seconds, it waits for `n - m + 1` of them to end, and they end `m` at a time:

    wait(n, W, m) = 0                            n < m
                  = (n - m + 1) / n · W / m      else

With 4 slots, 7 requests and 2.8 s of work: 4/7 · 2.8/4 = 0.4 s. So times of answers are kept by `n`, the service time
is that of requests which found slots free, and the number of slots is the one whose waits fit the times best. An
endpoint that shares its cores among all requests at once (a thread per request) gives the same picture: with `m` cores,
`n` others make a request `(n + 1) / m` times as long. Dividing the work by a number of slots alone, as Dask's
`occupancy / nthreads` does, expects waits where slots are free, and sends data to where they are not needed.

Endpoints of a cluster mostly are alike, and one alone sees little under low load. So what the others saw counts too,
in units of their own service times.
"""

from collections.abc import Sequence

# Requests in flight beyond which counts are no longer told apart.
MOST_IN_FLIGHT = 64
# Numbers of slots that are tried. Larger ones are told apart less well, and matter less.
SLOTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 64)
# Believed until something else was seen.
FIRST_SLOTS = 4
# Weight that an answer's time leaves to those before it: about the last 50 of the same number in flight count.
KEEP = 0.98
# Answers between two fits, which take about 30 µs.
FIT_EVERY = 64
# What a fit leaves of all that was seen. What is not seen any more must not be believed for ever: an endpoint that
# became slow, and has had a line before it ever since, is never seen without one again.
AGE = 0.8
# The first fits, for an endpoint that just came.
FIT_EARLY = (1, 4, 8, 16, 32)
# Answers by which a number of requests in flight counts at most, or a load that is often there would say it all.
ENOUGH = 30.0
# How much what the others saw counts against what the endpoint shows.
OTHERS = 2.0
# Another number of slots must fit so much better.
BETTER = 0.98
# Seconds expected while nobody has answered yet.
UNKNOWN_S = 0.030
# No service time is less: a millionth of a second is as good as none.
LEAST_S = 1e-6


def wait_s(in_flight: int, work_s: float, slots: int) -> float:
    """Seconds until a request gets a slot that finds `in_flight` others, with `work_s` seconds of work, before it."""
    if in_flight < slots:
        return 0.0
    return (in_flight - slots + 1) / in_flight * work_s / slots


class Pace:
    """Of one endpoint."""

    __slots__ = (
        "_answers", "_counts", "_is_given", "_misfits", "_times", "_worked_s", "_works", "is_known", "service_s",
        "slots",
    )  # fmt: skip

    def __init__(self, slots: int = 0) -> None:
        """`slots` is how many requests it works on at once; 0 = to be learned."""
        self.service_s = UNKNOWN_S
        """Expected seconds for a request whose data it holds, once it has a slot."""
        self.is_known = False
        """Whether that was learned from answers."""
        self._answers = 0
        self._counts = [0.0] * MOST_IN_FLIGHT
        self._times = [0.0] * MOST_IN_FLIGHT
        self._works = [0.0] * MOST_IN_FLIGHT
        self._worked_s = UNKNOWN_S
        self._misfits = [0.0] * len(SLOTS)
        self.slots = FIRST_SLOTS
        self._is_given = False
        self.limit(slots)

    def __repr__(self) -> str:
        return f"Pace({self.service_s:.6f} s, {self.slots} slots)"

    def limit(self, slots: int) -> None:
        """Take over what the configuration or the service says; 0 = nothing."""
        self._is_given = slots > 0
        if slots > 0:
            self.slots = slots

    def add(self, took_s: float, worked_s: float, in_flight: int, work_s: float) -> bool:
        """An answer, with data that the endpoint held, took `took_s`, of which its request had a slot for `worked_s`,
        as far as can be told; it found `in_flight` others with `work_s` of work before it. True when it is time for a
        `fit`. Time that goes backwards counts as none."""
        index = min(in_flight, MOST_IN_FLIGHT - 1)
        self._counts[index] = self._counts[index] * KEEP + 1.0
        self._times[index] = self._times[index] * KEEP + max(took_s, 0.0)
        self._works[index] = self._works[index] * KEEP + work_s
        self._answers += 1
        self._worked_s += max(1.0 - KEEP, 1.0 / self._answers) * (max(worked_s, 0.0) - self._worked_s)
        return self._answers % FIT_EVERY == 0 or self._answers in FIT_EARLY

    def fit(self, others: Sequence["Pace"]) -> None:
        """Make the best of what was seen. `others` are those of the same cluster; itself may be among them."""
        self._fit_service()
        if not self._is_given:
            self._fit_slots(others)
        if self._answers % FIT_EVERY == 0:
            self._age()

    def _fit_slots(self, others: Sequence["Pace"]) -> None:
        seen = self._seen()
        misfits = self._misfits = [self._misfit(seen, slots) for slots in SLOTS]
        peers = [other._misfits for other in others if other is not self and other.is_known]
        if peers:
            shared = OTHERS / len(peers)
            misfits = [own + shared * sum(seen) for own, *seen in zip(misfits, *peers, strict=True)]
        least = min(misfits)
        if self.slots not in SLOTS or least < BETTER * misfits[SLOTS.index(self.slots)]:
            self.slots = SLOTS[misfits.index(least)]

    def _age(self) -> None:
        """Let what was seen count less."""
        for sums in (self._counts, self._times, self._works):
            sums[:] = [AGE * each for each in sums]

    def _fit_service(self) -> None:
        """The service time is that of requests which found at most half of the slots in use: a number of slots that is
        believed too high would else let waits in, which would make it even higher."""
        few = min(self.slots // 2, MOST_IN_FLIGHT - 1) + 1
        count, times = sum(self._counts[:few]), sum(self._times[:few])
        # Where nobody came without a line before it, what is left of the times without the waits must do.
        self.service_s = max(times / count if count >= 1.0 else self._worked_s, LEAST_S)
        self.is_known = True

    def _misfit(self, seen: Sequence[tuple[int, float, float, float]], slots: int) -> float:
        """How far the times `seen` are from those that so many slots would give, in squares of the service time."""
        total = 0.0
        service_s = self.service_s
        for in_flight, weight, took_s, work_s in seen:
            error = took_s - service_s
            if in_flight >= slots:
                error -= (in_flight - slots + 1) / in_flight * work_s / slots  # `wait_s`
            total += weight * error * error
        return total / (service_s * service_s)

    def _seen(self) -> list[tuple[int, float, float, float]]:
        """Requests in flight, how much they count, the mean time of the answer, the mean work before it."""
        return [
            (in_flight, min(count, ENOUGH), times / count, works / count)
            for in_flight, (count, times, works) in enumerate(
                zip(self._counts, self._times, self._works, strict=True)
            )
            if count >= 0.5
        ]
