"""Which worker holds which of an endpoint's permits, so that `max_connections` is exact over all workers. Pure.

An endpoint with a limit of n has n permits, and each is held by exactly one worker, in its own row of the scoreboard;
nobody else writes there. A request uses a permit of its worker: two numbers are compared and one is changed. Only
when none is idle does anything travel: the worker says in its row how many wait and since when, asks a worker whose
row shows idle ones, and those go by message to whoever waits longest, the giver's own queue included, when they come
free and on each tick. Counting requests over all rows instead would let N workers pass a limit together, each having
looked before the others counted; a lock would have to survive the death of its holder.

Never over the limit comes before never below it. A permit leaves the giver's row *before* the message is sent, so a
crash in between loses it and cannot double it. What is lost is found and made again by control's audit:

    epoch   a number in control's row; even: permits may be given; odd: an audit is on
    tag     every message carries the epoch in which it was sent; it counts only if that is not over (`counts`)
    ack     each worker's row says which epoch it has seen, between two of its own steps

When the rows of an endpoint add up to less or more than there should be, and do not move for `QUIET_STEPS`, control
makes the epoch odd. From a worker's acknowledgement on, it gives nothing away and takes in nothing from before. Once
all have acknowledged, no permit is under way that could still count, the rows add up to exactly what there is, and
control makes the difference to the limit good and the epoch even. Requests go on all the while, on the permits that
are held. An audit that control's death interrupts is finished by its successor, which begins with one anyway.

Lowering a limit takes back idle permits at once and used ones when they come free: until then they are `owed`.
Raising it again forgives debts first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class PermitRow:
    """What one worker says of its permits of one endpoint. Either `owed` is 0 or none is idle."""

    held: int = 0
    """Permits that are this worker's to use."""
    used: int = 0
    """Of these, by requests in flight; 0 ≤ used ≤ held."""
    owed: int = 0
    """Permits to be destroyed as soon as they come free."""
    want: int = 0
    """Requests that wait here for a permit of this endpoint (or of any of its cluster)."""
    want_since_ms: int = 0
    """The rank of the first of them (`admission.Ticket.rank`), in milliseconds of the monotonic clock."""

    @property
    def idle(self) -> int:
        """Permits that a request could use at once, or that could be given away."""
        return 0 if self.owed else self.held - self.used

    @property
    def worth(self) -> int:
        """What the row counts towards the limit."""
        return self.held - self.owed

    def taken(self) -> "PermitRow | None":
        """A request begins; `None` when no permit is idle. Who finds others waiting here joins them instead."""
        return replace(self, used=self.used + 1) if self.idle > 0 else None

    def released(self) -> "PermitRow":
        """A request ended."""
        assert self.used > 0
        return _paid(replace(self, used=self.used - 1))

    def received(self, count: int) -> "PermitRow":
        """A message brought `count` permits."""
        return _paid(replace(self, held=self.held + count))

    def given(self, count: int) -> "PermitRow":
        """`count` idle permits go away. The row is written before the message is sent; when it cannot be sent,
        `received` takes them back."""
        assert count <= self.idle
        return replace(self, held=self.held - count)

    def recalled(self, count: int) -> "PermitRow":
        """Control wants `count` permits destroyed."""
        return _paid(replace(self, owed=self.owed + count))

    def restarted(self) -> "PermitRow":
        """A new process is in this worker's place: it has the permits, and no requests."""
        return _paid(replace(self, used=0, want=0, want_since_ms=0))


def _paid(row: PermitRow) -> PermitRow:
    """Destroy idle permits that are owed."""
    paid = min(row.owed, row.held - row.used)
    return replace(row, held=row.held - paid, owed=row.owed - paid) if paid else row


def may_give(epoch: int) -> bool:
    """Whether permits may be given away: no audit is on. Own requests may use them always."""
    return epoch % 2 == 0


def counts(tag: int, epoch: int) -> bool:
    """Whether a message sent in epoch `tag` counts in `epoch`, as read when it is handled; else it is thrown away."""
    return tag >= epoch


@dataclass(frozen=True, slots=True)
class Shares:
    """What becomes of a worker's idle permits."""

    own: int = 0
    """Requests of the own queue that may begin now."""
    others: tuple[tuple[int, int], ...] = ()
    """`(worker, permits)` to send."""


def share(rows: Mapping[int, PermitRow], own: int, epoch: int, *, is_leaving: bool = False) -> Shares:
    """What worker `own` does with its idle permits, after a release, on a tick and when it is asked.

    `rows` are those of the workers that are alive, its own included. Who has waited longest gets the first, then the
    next, each as many as wait there: with 3 idle, own waiters since 20, worker 1's two since 10 and worker 2's one
    since 30: worker 1 gets one, the own queue one, worker 2 one. A worker that is leaving keeps nothing for itself.
    """
    idle = rows[own].idle
    if idle <= 0:
        return Shares()
    can_give = may_give(epoch)
    wants = sorted(
        (row.want_since_ms, worker, row.want)
        for worker, row in rows.items()
        if row.want > 0 and (can_give or worker == own)
    )
    gets = dict.fromkeys(rows, 0)
    while idle and wants:
        wants = [(since, worker, want) for since, worker, want in wants if gets[worker] < want]
        for _, worker, _ in wants[:idle]:
            gets[worker] += 1
        idle -= min(idle, len(wants))
    if is_leaving and can_give:
        others = {worker: row for worker, row in rows.items() if worker != own}
        for worker, count in spread(idle, others):
            gets[worker] += count
    return Shares(
        gets[own], tuple((worker, count) for worker, count in gets.items() if count and worker != own)
    )


def whom_to_ask(rows: Mapping[int, PermitRow], own: int) -> int | None:
    """The worker that a worker without an idle permit asks: the one with the most idle; `None` when nobody has any."""
    idle, worker = max(((row.idle, -worker) for worker, row in rows.items() if worker != own), default=(0, 0))
    return -worker if idle > 0 else None


def spread(count: int, rows: Mapping[int, PermitRow]) -> list[tuple[int, int]]:
    """`(worker, permits)` for `count` new permits: evenly, what is left over to those who wait, then to those who hold
    the fewest. Nothing when there are no workers."""
    if not rows or count <= 0:
        return []
    order = sorted(rows, key=lambda worker: (not rows[worker].want, rows[worker].held, worker))
    each, left = divmod(count, len(order))
    shares = [(worker, each + (position < left)) for position, worker in enumerate(order)]
    return [(worker, share) for worker, share in shares if share]


def takings(count: int, rows: Mapping[int, PermitRow]) -> list[tuple[int, int]]:
    """`(worker, permits)` to recall `count`: idle ones first, from whoever has the most, then used ones. Fewer when the
    rows do not have so many."""
    found = dict.fromkeys(rows, 0)
    idle = {worker: row.idle for worker, row in rows.items()}
    worth = {worker: row.worth for worker, row in rows.items()}
    for spare in (idle, worth):
        for worker, most in sorted(spare.items(), key=lambda item: -item[1]):
            taken = max(min(most - found[worker], count), 0)
            found[worker] += taken
            count -= taken
    return [(worker, taken) for worker, taken in found.items() if taken]


def _forgiven(count: int, rows: Mapping[int, PermitRow]) -> tuple[list[tuple[int, int]], int]:
    """Of `count` new permits those that go to workers that owe some, which pays these debts, and how many are left."""
    debts = []
    for worker, row in rows.items():
        if row.owed and count:
            debts.append((worker, min(row.owed, count)))
            count -= min(row.owed, count)
    return debts, count


@dataclass(frozen=True, slots=True)
class Pool:
    """One endpoint's permits as control sees them."""

    limit: int
    """How many there should be, ≥ 1."""
    rows: Mapping[int, PermitRow]
    """By worker: every slot that has, or is about to have, a process."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What control does after a step: write the epoch first, then send messages tagged with it."""

    epoch: int
    grants: list[tuple[int, int, int]] = field(default_factory=list)
    """`(pool, worker, permits)` for `PermitRow.received`."""
    recalls: list[tuple[int, int, int]] = field(default_factory=list)
    """`(pool, worker, permits)` for `PermitRow.recalled`."""


# Steps that a mismatch must last without any row moving. A message takes far less than a step to arrive at a worker
# that runs, so what lasts longer is lost, or its receiver hangs; an audit is right in both cases.
QUIET_STEPS = 2


class PermitAuditor:
    """Control's side: makes permits, takes them back, and finds lost ones. One for all pools of a daemon."""

    __slots__ = ("_issued", "_mismatches", "_must_audit", "_recalled")

    def __init__(self) -> None:
        self._issued: dict[int, int] = {}
        """How many there should be now, by pool."""
        self._mismatches: dict[int, tuple[tuple[tuple[int, int], ...], int]] = {}
        """Rows that did not add up when last seen, and for how many steps."""
        self._recalled: set[int] = set()
        """Pools in which permits are, or may be, owed: they are in use above the limit, so none may be made yet."""
        # Whoever ran before us may have left anything behind.
        self._must_audit = True

    def __repr__(self) -> str:
        return f"PermitAuditor(issued {self._issued})"

    def step(self, pools: Mapping[int, Pool], *, epoch: int, acks: Iterable[int]) -> Orders:
        """What to do now; to be called on every tick, with the epoch as it is in control's row.

        `acks` are the epochs acknowledged by all processes in worker slots, those that are just starting included (0
        before their first).
        """
        if epoch % 2:
            return self._audit(pools, epoch) if all(ack >= epoch for ack in acks) else Orders(epoch)
        for gone in self._issued.keys() - pools.keys():
            del self._issued[gone]
            self._mismatches.pop(gone, None)
            self._recalled.discard(gone)
        if self._must_audit or any([self._is_doubtful(slot, pool) for slot, pool in pools.items()]):
            self._must_audit = False
            self._mismatches.clear()
            return Orders(epoch + 1)
        orders = Orders(epoch)
        for slot, pool in pools.items():
            self._adjust(slot, pool, pool.limit - self._issued.get(slot, 0), orders)
        return orders

    def _audit(self, pools: Mapping[int, Pool], epoch: int) -> Orders:
        orders = Orders(epoch + 1)
        for slot, pool in pools.items():
            self._issued[slot] = sum(row.worth for row in pool.rows.values())
            if not any(row.owed for row in pool.rows.values()):
                self._recalled.discard(slot)
            self._adjust(slot, pool, pool.limit - self._issued[slot], orders)
        self._must_audit = False
        return orders

    def _adjust(self, slot: int, pool: Pool, missing: int, orders: Orders) -> None:
        """Make `missing` permits, or take so many back."""
        if missing > 0:
            debts, missing = _forgiven(missing, pool.rows)
            found = debts + spread(missing, pool.rows)
            orders.grants.extend((slot, worker, count) for worker, count in found)
            self._issued[slot] = self._issued.get(slot, 0) + sum(count for _, count in found)
        elif missing < 0:
            found = takings(-missing, pool.rows)
            orders.recalls.extend((slot, worker, count) for worker, count in found)
            self._issued[slot] = self._issued.get(slot, 0) - sum(count for _, count in found)
            self._recalled.add(slot)

    def _is_doubtful(self, slot: int, pool: Pool) -> bool:
        """Whether the rows have not added up for long enough, or a raised limit may meet debts that rows do not show
        yet: a permit made before those are known could be one too many."""
        rows = pool.rows
        issued = self._issued.get(slot, 0)
        if slot in self._recalled and pool.limit > issued:
            return True
        if sum([row.worth for row in rows.values()]) == issued:
            self._mismatches.pop(slot, None)
            return False
        seen = tuple((row.held, row.owed) for row in rows.values())
        before, steps = self._mismatches.get(slot, (seen, 0))
        steps = steps + 1 if before == seen else 1
        self._mismatches[slot] = seen, steps
        return steps > QUIET_STEPS
