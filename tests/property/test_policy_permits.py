"""Permits over several workers, with every interleaving that hypothesis finds, and crashes at the worst moments.

What a worker does in two steps (read a message and check it, then count it; write the row, then send) is two steps here
too, with anything in between: other workers, control, and its own death.
"""

from collections import deque
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.policy.permits import PermitAuditor, PermitRow, Pool, counts, share

WORKERS = range(3)
workers = st.sampled_from(WORKERS)
SLOT = 5


class Worker:
    """A process in a slot; its row, its mailbox and its acknowledgement outlive it."""

    def __init__(self):
        self.row = PermitRow()
        self.mailbox = deque()
        self.queue = deque()
        self.ack = 0
        self.running = 0
        self.is_alive = True
        self.receiving = None
        """A message that was checked and is not counted yet."""
        self.sending = []
        """Messages for which the row is written already."""

    @property
    def is_busy(self):
        return self.receiving is not None or bool(self.sending)


class Permits(RuleBasedStateMachine):
    @initialize(limit=st.integers(1, 6))
    def start(self, limit):
        self.workers = [Worker() for _ in WORKERS]
        self.auditor = PermitAuditor()
        self.epoch = 0
        self.limit = self.ceiling = limit
        self.clock = 0
        self.served = set()

    @rule(seed=st.integers(0, 2**32), steps=st.integers(1, 100))
    def go_on(self, seed, steps):
        """Whatever is possible, one after the other. Drawn here, as hypothesis tends to short examples."""
        rng = Random(seed)
        for _ in range(steps):
            step, *given = rng.choice([step for worker in self.workers for step in self.possible(worker)])
            step(*given)
            self.never_over_the_limit()

    @rule(steps=st.integers(1, 8))
    def time_passes(self, steps):
        """Ticks of those who are not in the middle of something, while messages lie in mailboxes."""
        for _ in range(steps):
            for worker in self.workers:
                if worker.is_alive and not worker.is_busy:
                    self.tick(worker)
            self.control()

    def possible(self, one):
        if not one.is_alive:
            return [(self.restart, one)]
        if one.receiving is not None:
            return [(self.count, one), (self.crash, one)]
        if one.sending:
            return [(self.send, one), (self.crash, one)]
        steps = [(self.arrive, one), (self.arrive, one), (self.tick, one), (self.control,)]
        if one.row.used:
            steps += [(self.finish, one)] * 2
        if one.queue:
            steps.append((self.client_leaves, one))
        if one.mailbox:
            steps += [(self.read, one)] * 2
        return steps

    # What workers do.

    def arrive(self, one):
        self.clock += 1
        taken = None if one.queue else one.row.taken()
        if taken is not None:
            one.row = taken
            one.running += 1
        else:
            one.queue.append(self.clock)
            self.tell_wants(one)

    def finish(self, one):
        one.row = one.row.released()
        one.running -= 1
        self.share(one)

    def client_leaves(self, one):
        one.queue.pop()
        self.tell_wants(one)

    def tick(self, one, is_leaving=False):
        one.ack = self.epoch
        self.share(one, is_leaving)

    def tell_wants(self, one):
        one.row = PermitRow(
            one.row.held, one.row.used, one.row.owed, len(one.queue), one.queue[0] if one.queue else 0
        )

    def share(self, one, is_leaving=False):
        rows = {number: other.row for number, other in enumerate(self.workers)}
        shares = share(rows, self.workers.index(one), self.epoch, is_leaving=is_leaving)
        for _ in range(shares.own):
            self.served.add(one.queue.popleft())
            one.row = one.row.taken()
            one.running += 1
        self.tell_wants(one)
        for other, count in shares.others:
            one.row = one.row.given(count)
            one.sending.append((self.workers[other], (self.epoch, "grant", count)))

    def send(self, one):
        other, message = one.sending.pop()
        other.mailbox.append(message)

    def read(self, one):
        message = one.mailbox.popleft()
        if counts(message[0], self.epoch):
            one.receiving = message

    def count(self, one):
        _, kind, count = one.receiving
        one.receiving = None
        one.row = one.row.received(count) if kind == "grant" else one.row.recalled(count)
        self.share(one)

    @rule(worker=workers)
    def leave(self, worker):
        one = self.workers[worker]
        if one.is_alive and not one.is_busy:
            self.tick(one, is_leaving=True)

    # What goes wrong.

    @rule(worker=workers)
    def kill(self, worker):
        self.crash(self.workers[worker])

    def crash(self, one):
        """Whatever it was about to count or to send is lost; so are its requests and their clients."""
        one.is_alive, one.receiving, one.sending, one.ack = False, None, [], 0
        one.queue.clear()
        one.running = 0

    def restart(self, one):
        one.is_alive = True
        one.row = one.row.restarted()

    @rule()
    def control_restarts(self):
        self.auditor = PermitAuditor()

    def control(self):
        pools = {SLOT: Pool(self.limit, {number: one.row for number, one in enumerate(self.workers)})}
        acks = [one.ack for one in self.workers if one.is_alive]
        orders = self.auditor.step(pools, epoch=self.epoch, acks=acks)
        self.epoch = orders.epoch
        for kind, messages in (("grant", orders.grants), ("recall", orders.recalls)):
            for slot, worker, count in messages:
                assert slot == SLOT and count > 0
                self.workers[worker].mailbox.append((self.epoch, kind, count))

    # What holds.

    @invariant()
    def never_over_the_limit(self):
        """Nothing comes into being above the limit; what was begun under a higher one only gets less."""
        if hasattr(self, "workers"):
            supply = sum(map(self.supply, self.workers))
            assert supply <= self.ceiling
            self.ceiling = max(self.limit, supply)

    def supply(self, one):
        """Permits that a worker could have in use at once: its own, and what a message may still bring."""
        messages = [message for message in one.mailbox if counts(message[0], self.epoch)]
        for other in self.workers:
            messages += [m for to, m in other.sending if to is one and counts(m[0], self.epoch)]
        if one.receiving is not None:
            messages.append(one.receiving)
        granted = sum(count for _, kind, count in messages if kind == "grant")
        return max(one.row.held, one.row.worth + granted)

    @invariant()
    def rows_are_sound(self):
        for one in getattr(self, "workers", []):
            assert 0 <= one.row.used <= one.row.held and one.row.owed >= 0
            assert one.row.owed == 0 or one.row.held == one.row.used
            assert one.row.used == one.running or not one.is_alive

    @rule()
    def settle(self):
        """Left in peace, every permit is there again, nobody waits beside an idle one, and the limit is the limit."""
        for one in self.workers:
            if not one.is_alive:
                self.restart(one)
        for _ in range(12):
            self.round()
        assert self.epoch % 2 == 0
        assert not any(one.mailbox or one.is_busy for one in self.workers)
        assert sum(one.row.worth for one in self.workers) == self.limit
        if any(one.queue for one in self.workers):
            assert not any(one.row.idle for one in self.workers)

    def round(self):
        for one in self.workers:
            while one.is_busy or one.mailbox:
                if one.receiving is not None:
                    self.count(one)
                elif one.sending:
                    self.send(one)
                else:
                    self.read(one)
            self.tick(one)
            while one.sending:
                self.send(one)
        self.control()

    @rule()
    def everybody_is_served_in_turn(self):
        """As requests end, whoever waits gets a permit, and whoever waits longest is never kept for long."""
        self.settle()
        for oldest in sorted(since for one in self.workers for since in one.queue):
            rounds = 0
            while oldest not in self.served:
                busy = [one for one in self.workers if one.row.used]
                if busy:
                    self.finish(busy[rounds % len(busy)])
                self.round()
                rounds += 1
                # A permit takes two rounds to travel; debts of a lowered limit, at most 5, are paid first.
                assert rounds <= 2 + 5 + len(WORKERS)

    def teardown(self):
        if hasattr(self, "workers"):
            self.everybody_is_served_in_turn()


class ChangingPermits(Permits):
    """The same while limits change; what was begun under a higher limit may go on."""

    @rule(limit=st.integers(1, 6))
    def change_limit(self, limit):
        self.limit = limit
        self.ceiling = max(self.ceiling, limit)


TestPermits = Permits.TestCase
TestPermits.settings = settings(max_examples=60, stateful_step_count=30)
TestChangingPermits = ChangingPermits.TestCase
TestChangingPermits.settings = settings(max_examples=60, stateful_step_count=30)
