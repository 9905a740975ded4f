"""The parent's own decisions, with children that do nothing: its loop is turned by hand, its clock stands."""

import os
import signal
import subprocess
from types import SimpleNamespace

import pytest
from support.wait import wait_for

from proxy import children
from proxy.handover import Handover
from proxy.listening import ListeningSockets
from proxy.mailbox import Channel, sealed, unsealed
from proxy.permits import LockFiles
from proxy.scoreboard import (
    C_ENDPOINT_SLOTS,
    E_IN_FLIGHT,
    E_RETRIES,
    P_CONTROL_STARTS,
    P_STATE,
    S_EXIT,
    S_STARTS,
    S_STATE,
    S_STUCK,
    SLOT_EMPTY,
    SLOT_RETIRING,
    SLOT_SERVING,
    SLOT_WAITING,
    STATE_DRAINING,
    STATE_RUNNING,
    STATE_STARTING,
    W_ACCEPTED,
    W_CONNECTIONS,
    W_GENERATION,
    W_HEARTBEAT_MS,
    Scoreboard,
)
from proxy.supervisor import ControlProcess, Supervisor
from proxy.systemd import Notifier
from proxy.workforce import RESEND_S, RETIRE_SLACK_S, Assignment, PostOffice, Workforce

WORKERS = 2


class World:
    """A supervisor; `spawned` are its children, which sleep, with copies of the descriptors they got."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.spawned = []
        self.reexecs = []
        monkeypatch.setattr(children, "start", self._start)
        self.board = Scoreboard(workers=4, endpoints=2)
        self.post = PostOffice(self.board)
        self.locks = LockFiles()
        self.workforce = Workforce(self.board, self.post, self.locks)
        self.supervisor = self.new_supervisor()

    def new_supervisor(self):
        return Supervisor(
            board=self.board,
            control=ControlProcess(self.board, self.post, ["--config", "f"]),
            workforce=self.workforce,
            post=self.post,
            sockets=ListeningSockets(),
            notifier=Notifier({}, 1),
            monotonic=lambda: self.now,
            reexec=self.reexecs.append,
        )

    def _start(self, module, arguments, fds=()):
        process = subprocess.Popen(["sleep", "1000"], process_group=0)
        copies = {fd: os.dup(fd) for fd in fds}
        self.spawned.append(SimpleNamespace(module=module, arguments=arguments, process=process, fds=copies))
        return process.pid

    def running(self, module):
        return [each for each in self.spawned if each.module == module and each.process.returncode is None]

    def step(self, seconds=0.0):
        self.now += seconds
        self.supervisor._step(self.now)

    def control_end(self):
        """What control has of its channel."""
        started = self.running("proxy.control")[-1]
        fd = int(started.arguments[started.arguments.index("--channel") + 1])
        return Channel.from_fd(os.dup(started.fds[fd]))

    def publish(self, channel, generation=1, workers=WORKERS):
        fd = sealed(b"snapshot", "test")
        body = {"generation": generation, "workers": workers, "drain_timeout_s": 7.0, "listeners": []}
        channel.send(body, (fd, fd))
        os.close(fd)

    def hear(self):
        self.supervisor._on_control_readable(self.supervisor.control.channel.fileno())

    def serve(self):
        """Control publishes, workers start and serve it."""
        self.step()
        channel = self.control_end()
        self.publish(channel)
        self.hear()
        self.step()
        for worker in range(WORKERS):
            self.beat(worker)
        self.step()
        channel.close()

    def beat(self, worker, generation=1):
        row = self.board.worker_row(worker)
        row[W_HEARTBEAT_MS], row[W_GENERATION] = int(self.now * 1000), generation

    def kill(self, pid):
        """End a child, and have the supervisor notice."""
        (child,) = [each for each in self.spawned if each.process.pid == pid]
        os.kill(pid, signal.SIGKILL)
        # Left for the supervisor to reap.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        child.process.returncode = -9

    def make_deaf(self, pid):
        """Have a child not end when it is told to: a test says when it does."""
        assert pid > 0
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: children.usage(pid)[1], "it to stand still")

    def close_copies(self):
        for each in self.spawned:
            while each.fds:
                os.close(each.fds.popitem()[1])

    def states(self):
        return [self.board.slot_row(each)[S_STATE] for each in range(4)]

    def reexec(self, *, has_row=True, meanwhile=lambda old: None):
        """Be replaced by the same program; returns what was handed over. `meanwhile` is done between the two."""
        old = Handover.decode(self.supervisor.describe().encode())
        meanwhile(old)
        board = self.board
        if not has_row:
            self.board = Scoreboard(workers=4, endpoints=2)
        self.post = PostOffice(self.board, self.post.workers, self.post.control)
        self.workforce = Workforce(self.board, self.post, self.locks)
        if self.supervisor.control.channel is not None:
            self.supervisor.control.channel.close()
        self.supervisor = self.new_supervisor()
        self.supervisor.resume(old)
        assert board is self.board or board.fd != self.board.fd
        return old

    def close(self):
        for each in self.spawned:
            if each.process.returncode is None:
                each.process.kill()
                each.process.returncode = -9
        self.close_copies()
        children_left = {each.process.pid for each in self.spawned}
        wait_for(lambda: not children_left & set(_alive(children_left)))
        self.post.close()
        self.locks.close()
        if self.supervisor.control.channel is not None:
            self.supervisor.control.channel.close()
        for fd in self.supervisor.describe().kept.values():
            os.close(fd)


def _alive(pids):
    for pid in pids:
        try:
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                yield pid
        except ChildProcessError:
            pass


@pytest.fixture
def world(monkeypatch):
    made = World(monkeypatch)
    yield made
    made.close()


def test_from_nothing_to_serving(world):
    world.serve()
    assert world.states() == [SLOT_SERVING, SLOT_SERVING, SLOT_EMPTY, SLOT_EMPTY]
    assert world.board.parent_row[P_STATE] == STATE_RUNNING
    assert [each.module for each in world.spawned] == ["proxy.control", "proxy.worker", "proxy.worker"]


def test_control_dies_while_it_publishes(world):
    """Its message is whole and counts; there is nobody to answer, which must not end the parent."""
    world.step()
    channel = world.control_end()
    world.publish(channel)
    world.close_copies()
    channel.close()
    world.kill(world.spawned[0].process.pid)
    world.hear()
    assert world.supervisor.assignment.generation == 1
    world.step()
    world.step()
    assert world.states()[:2] == [SLOT_SERVING] * 2
    assert world.board.parent_row[P_CONTROL_STARTS] == 2
    assert "--snapshot" in world.running("proxy.control")[0].arguments


def test_control_that_closed_its_channel_is_not_listened_to_in_a_loop(world):
    world.step()
    world.close_copies()
    ready = world.supervisor._poll.poll(0)
    assert [fd for fd, _ in ready] == [world.supervisor.control.channel.fileno()]
    world.hear()
    assert world.supervisor._poll.poll(0) == []


def test_a_publication_without_its_snapshot_changes_nothing(world):
    """Descriptors are lost when the receiver has no room for them."""
    world.step()
    channel = world.control_end()
    channel.send({"generation": 1, "workers": 2, "drain_timeout_s": 7.0, "listeners": []})
    world.hear()
    assert world.supervisor.assignment is None
    channel.close()


def test_a_refused_publication_keeps_the_last(world, tmp_path):
    world.serve()
    channel = world.control_end()
    fd = sealed(b"next", "test")
    (tmp_path / "file").write_text("no socket")
    listener = {"name": "edge", "key": "k", "bind": [str(tmp_path / "file")]}
    channel.send({"generation": 2, "workers": 2, "drain_timeout_s": 7.0, "listeners": [listener]}, (fd, fd))
    os.close(fd)
    world.hear()
    assert channel.receive().body["accepted"] == 1
    refused = channel.receive().body
    assert refused == {"refused": 2, "key": "k", "error": "there is a file that is no socket"}
    assert world.supervisor.assignment.generation == 1
    channel.close()


def test_control_that_could_not_start_ends_the_daemon_with_its_code(world):
    world.step()
    world.spawned[0].process.terminate()
    os.waitid(os.P_PID, world.spawned[0].process.pid, os.WEXITED | os.WNOWAIT)
    world.spawned[0].process.returncode = -15
    world.step()
    assert world.supervisor._exit_code == 1


def test_a_dead_workers_gauges_are_cleared_and_its_counters_kept(world):
    world.serve()
    world.board.control_row[C_ENDPOINT_SLOTS] = 2
    worker, endpoint = world.board.worker_row(0), world.board.endpoint_row(0, 1)
    worker[W_CONNECTIONS], worker[W_ACCEPTED] = 5, 50
    endpoint[E_IN_FLIGHT], endpoint[E_RETRIES] = 3, 30
    world.kill(world.workforce.slots[0].pid)
    world.step()
    assert (worker[W_CONNECTIONS], worker[W_ACCEPTED]) == (0, 50)
    assert (endpoint[E_IN_FLIGHT], endpoint[E_RETRIES]) == (0, 30)
    row = world.board.slot_row(0)
    assert (row[S_STARTS], row[S_EXIT], row[S_STATE]) == (2, -9, SLOT_SERVING)


def test_a_crash_loop_is_slowed_down_and_spares_the_others(world):
    world.serve()
    other = world.workforce.slots[1].pid
    starts = []
    for _ in range(200):
        if world.workforce.slots[0].pid:
            starts.append(world.now)
            world.kill(world.workforce.slots[0].pid)
        world.beat(1)
        world.step(0.125)
    pauses = [round(b - a, 3) for a, b in zip(starts, starts[1:], strict=False)]
    assert pauses == [0.125, 0.375, 0.625, 1.125, 2.125, 4.125, 8.125]
    assert world.states()[0] == SLOT_WAITING
    assert world.workforce.slots[1].pid == other


def test_a_stuck_worker_is_killed_and_counted(world):
    world.serve()
    stuck = world.workforce.slots[0].pid
    os.kill(stuck, signal.SIGSTOP)
    wait_for(lambda: children.usage(stuck)[1], "it to stand still")

    def is_replaced():
        world.beat(1)
        world.step(0.1)
        return world.workforce.slots[0].pid not in (0, stuck)

    wait_for(is_replaced, "another worker")
    assert world.board.slot_row(0)[S_STUCK] == 1
    assert world.board.slot_row(1)[S_STUCK] == 0


def test_fewer_and_more_workers(world):
    world.serve()
    os.kill(world.workforce.slots[1].pid, signal.SIGSTOP)  # takes its time to retire
    channel = world.control_end()
    world.make_deaf(world.workforce.slots[1].pid)
    world.publish(channel, 2, workers=1)
    world.hear()
    world.step()
    assert world.states() == [SLOT_SERVING, SLOT_RETIRING, SLOT_EMPTY, SLOT_EMPTY]
    world.publish(channel, 3, workers=3)
    world.hear()
    world.step()
    assert world.states() == [SLOT_SERVING, SLOT_RETIRING, SLOT_SERVING, SLOT_SERVING]
    channel.close()


def test_a_worker_that_does_not_end_in_time_is_killed(world):
    world.serve()
    retiring = world.workforce.slots[1]
    pid = retiring.pid
    world.make_deaf(pid)
    retiring.retire(world.now, 7.0)
    world.step(7.0 + RETIRE_SLACK_S - 0.1)
    assert retiring.pid == pid
    world.step(0.2)
    wait_for(lambda: world.step() or retiring.pid == 0, "its end")
    assert retiring.pid == 0 and retiring.state == SLOT_EMPTY


def test_nothing_is_replaced_before_it_runs(world):
    """A new program would take over a daemon that serves nothing, and think that it does."""
    world.step()
    world.supervisor._begin_reexec()
    assert [each.module for each in world.spawned] == ["proxy.control"]
    world.publish(channel := world.control_end())
    channel.close()


def test_a_preflight_decides(world):
    world.serve()
    for code in (1, 0):
        world.supervisor._begin_reexec()
        preflight = world.running("proxy.parent")[-1]
        assert preflight.arguments[:2] == ["--preflight", "--resume"]
        assert preflight.arguments[3:] == ["--config", "f"]
        handed_over = Handover.decode(unsealed(preflight.fds[int(preflight.arguments[2])]))
        assert handed_over == world.supervisor.describe()
        preflight.process.kill()
        preflight.process.wait()
        world.supervisor._on_exit(preflight.process.pid, code, world.now)
    assert world.reexecs == []  # other children may have ended in the same turn
    world.step()
    assert world.reexecs == [world.supervisor]


def end_preflight(world, code):
    """Have the trial start of the installed program, which must be running, end with `code`."""
    preflight = world.running("proxy.parent")[-1]
    preflight.process.kill()
    preflight.process.wait()
    world.supervisor._on_exit(preflight.process.pid, code, world.now)


@pytest.mark.parametrize("what", ["worker", "control"])
def test_children_of_another_program_have_the_daemon_replaced(world, caplog, what):
    """Somebody upgraded and did not say so: what ended can only be replaced by that program, so it takes over."""
    world.serve()
    pid = world.workforce.slots[0].pid if what == "worker" else world.supervisor.control.pid
    end_by_code(world, pid, children.EXIT_OTHER_PROGRAM)
    end_preflight(world, 1)
    world.step()
    assert world.reexecs == [], "a program that does not start replaces nobody"
    pid = world.workforce.slots[0].pid if what == "worker" else world.supervisor.control.pid
    end_by_code(world, pid, children.EXIT_OTHER_PROGRAM)
    end_preflight(world, 0)
    world.step()
    assert world.reexecs == [world.supervisor]
    assert caplog.text.count("SIGUSR2") == 1


def end_by_code(world, pid, code):
    """Have a child end, as if by itself."""
    world.kill(pid)
    os.waitpid(pid, 0)
    world.supervisor._on_exit(pid, code, world.now)
    world.step()


def test_an_old_child_of_another_program_says_nothing_new(world):
    """It was started by the program before this one, and ended when this one was there already."""
    world.serve()
    world.make_deaf(world.supervisor.control.pid)
    old = world.reexec()
    for pid in (old.workers[0].pid, old.control):
        end_by_code(world, pid, children.EXIT_OTHER_PROGRAM)
    assert world.running("proxy.parent") == []


def test_who_is_gone_after_a_re_exec_is_not_waited_for(world):
    """They ended and were reaped: no exit of theirs will ever be told, and the ids may be others' by now."""
    world.serve()
    world.board.worker_row(0)[W_CONNECTIONS] = 5

    def die(old):
        for pid in (old.workers[0].pid, old.control):
            world.kill(pid)
            os.waitpid(pid, 0)

    old = world.reexec(meanwhile=die)
    assert world.states()[:2] == [SLOT_EMPTY, SLOT_SERVING]
    assert world.board.worker_row(0)[W_CONNECTIONS] == 0
    world.step()
    assert world.supervisor.control.pid not in (0, old.control)


def test_after_a_re_exec_old_workers_leave_when_new_ones_serve(world):
    """The new ones start at once with what was served, though control has yet to start."""
    world.serve()
    world.make_deaf(world.supervisor.control.pid)
    old = world.reexec()
    world.step()
    assert world.states() == [SLOT_SERVING] * 4
    message = world.workforce.slots[2].mailbox[0].receive()
    assert message.body["serve"] == 1
    assert unsealed(message.fds[0]) == b"snapshot"
    message.close()
    for worker in (2, 3):
        world.beat(worker)
    world.step()
    assert world.states() == [SLOT_RETIRING] * 2 + [SLOT_SERVING] * 2
    assert [each.pid for each in old.workers] == [slot.pid for slot in world.workforce.slots[:2]]


def test_what_was_published_before_a_re_exec_is_let_go(world):
    world.serve()
    old = world.reexec()
    world.kill(old.control)
    world.step()
    world.step()
    channel = world.control_end()
    world.publish(channel, 2)
    world.hear()
    assert channel.receive().body["accepted"] == 2
    world.step()
    for slot in world.workforce.slots:
        while (message := slot.mailbox[0].receive()) is not None:
            message.close()
    world.close_copies()
    with os.scandir("/proc/self/fd") as entries:
        files = [os.readlink(entry.path) for entry in entries]
    assert sum("memfd:test" in file for file in files) == 2
    channel.close()


@pytest.mark.parametrize("has_row", [True, False])
def test_an_old_worker_that_hangs_after_a_re_exec_is_replaced(world, has_row):
    """Also before control has published. Of one that writes to another memory nobody knows."""
    world.serve()
    world.beat(0)
    pid = world.workforce.slots[0].pid
    world.make_deaf(pid)
    world.reexec(has_row=has_row)
    for _ in range(10):
        world.step(0.1)
    assert world.board.slot_row(0)[S_STUCK] == has_row
    if has_row:
        wait_for(lambda: world.step() or world.states()[0] == SLOT_EMPTY, "its end")
    assert world.states()[2:] == [SLOT_SERVING] * 2


def test_a_stop_right_after_a_re_exec_still_drains(world):
    """Before control has published again, the workers get the time that they had."""
    world.serve()
    world.reexec()
    world.supervisor._on_stop()
    assert world.board.parent_row[P_STATE] == STATE_DRAINING
    assert world.workforce.slots[0].kill_at == world.now + 7.0 + RETIRE_SLACK_S


def test_a_re_exec_while_it_starts_is_no_sign_of_readiness(world):
    """The service manager hears of it when the new workers serve, and not before."""
    world.step()
    channel = world.control_end()
    world.publish(channel)
    world.hear()
    world.reexec()
    assert world.board.parent_row[P_STATE] == STATE_STARTING
    world.step()
    for worker in range(WORKERS):
        world.beat(worker)
    world.step()
    assert world.board.parent_row[P_STATE] == STATE_RUNNING
    channel.close()


def test_fifty_replacements_leave_no_descriptor(world):
    world.serve()
    world.close_copies()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        slot = world.workforce.slots[0]
        world.kill(slot.pid)
        world.beat(1)
        world.step()
        world.now = max(world.now, slot.start_at)
        world.step()
        world.close_copies()
        reader = slot.mailbox[0]
        reader.receive().close()
    assert world.board.slot_row(0)[S_STARTS] == 51
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_full_mailbox_is_tried_again(world):
    world.serve()
    slot = world.workforce.slots[0]
    while slot.mailbox[1].send({"x": "x" * 1000}):
        pass
    slot.sent = 0
    fd = os.dup(world.supervisor.assignment.snapshot_fd)
    assignment = Assignment(2, WORKERS, (), 7.0, fd, ())
    world.workforce.step(assignment, world.now)
    assert slot.sent == 0 and not slot.is_ready
    while message := slot.mailbox[0].receive():
        message.close()
    world.workforce.step(assignment, world.now)
    assert slot.sent == 2
    os.close(fd)


def test_what_a_worker_does_not_come_to_serve_is_sent_again(world):
    """Its descriptors found no room, or it failed: from time to time, and no more once it serves."""
    world.serve()
    slot = world.workforce.slots[0]

    def received():
        found = []
        while (message := slot.mailbox[0].receive()) is not None:
            message.close()
            found.append(message.body["serve"])
        return found

    assert received() == [1]
    channel = world.control_end()
    world.publish(channel, 2)
    world.hear()
    for _ in range(21):
        world.beat(0, generation=1)
        world.beat(1, generation=2)
        world.step(RESEND_S / 10)
    assert received() == [2, 2, 2]
    world.beat(0, generation=2)
    world.step(2 * RESEND_S)
    assert received() == []
    channel.close()


def test_what_a_dead_worker_did_not_read_is_closed(world):
    """It holds listening sockets, which would stay open with nobody to accept from them. What somebody wrote that is no
    message does not end the parent."""
    world.serve()
    slot = world.workforce.slots[0]
    reader, writer = os.pipe()
    slot.mailbox[1]._sock.send(b"{")
    assert slot.mailbox[1].send({"serve": 9}, (writer,))
    os.close(writer)
    slot.on_exit(-9, world.now)
    assert slot.mailbox[0].receive() is None
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_retiring_worker_gets_no_mail(world):
    """It does not read it any more."""
    world.serve()
    slot = world.workforce.slots[0]
    while (message := slot.mailbox[0].receive()) is not None:
        message.close()
    world.make_deaf(slot.pid)
    slot.retire(world.now, 5.0)
    channel = world.control_end()
    world.publish(channel, generation=2)
    world.hear()
    world.step()
    assert slot.mailbox[0].receive() is None
    channel.close()
