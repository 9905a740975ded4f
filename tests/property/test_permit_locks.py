"""Permits: whatever workers do, no byte has two holders, and one that is free is found."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.permits import LockFiles, WorkerLocks

WORKERS = st.integers(0, 3)


class Permits(RuleBasedStateMachine):
    """Four workers, one endpoint, a limit that changes; the model knows who holds what."""

    def __init__(self):
        super().__init__()
        self.files = LockFiles()
        self.workers = [WorkerLocks(self.files.fds, worker) for worker in range(4)]
        self.locks = [each.of(9) for each in self.workers]
        self.held = {}
        self.limit = 6

    def permits(self, worker):
        return self.locks[worker].permits

    @rule(worker=WORKERS)
    def take(self, worker):
        number = self.permits(worker).take(self.limit)
        free = set(range(self.limit)) - self.held.keys()
        assert number in free if free else number == -1
        if number >= 0:
            self.held[number] = worker

    @precondition(lambda self: self.held)
    @rule(data=st.data(), to=WORKERS)
    def give(self, data, to):
        number = data.draw(st.sampled_from(sorted(self.held)))
        worker = self.held.pop(number)
        self.permits(worker).give(number)
        if to != worker:
            self.permits(to).expect(number)

    @rule(limit=st.integers(0, 12))
    def change(self, limit):
        self.limit = limit

    @rule(worker=WORKERS, number=st.integers(0, 12))
    def mislead(self, worker, number):
        self.permits(worker).expect(number)

    @rule(worker=WORKERS)
    def die(self, worker):
        self.workers[worker].close()
        self.workers[worker] = WorkerLocks(self.files.fds, worker)
        self.locks[worker] = self.workers[worker].of(9)
        self.held = {number: holder for number, holder in self.held.items() if holder != worker}

    @invariant()
    def each_knows_its_own(self):
        for worker in range(4):
            mine = {number for number, holder in self.held.items() if holder == worker}
            assert self.permits(worker)._held == mine

    def teardown(self):
        for worker in self.workers:
            worker.close()
        self.files.close()


TestPermits = Permits.TestCase
TestPermits.settings = settings(deadline=None, max_examples=60, stateful_step_count=60)
