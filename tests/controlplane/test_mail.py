"""Control's mailbox: results count in the turn in which they come, whatever else comes with them."""

import asyncio
import json
import socket

import uvloop
from resilience_world import A, World

from proxy.controlplane.mail import ControlMail, parse_function_off
from proxy.mailbox import Channel, channel_pair
from proxy.policy.breaker import CircuitState
from proxy.scoreboard import C_RESULTS_DROPPED

BREAKER = "circuit_breaker: {failure_threshold: 3}"
BAD = [b"{", b"\xff\xfe", b"[]", b"7", b"{}", b"null", b'{"result": "0", "circuit": 0, "kind": ""}',
       b'{"result": 0, "circuit": 0, "kind": "no such kind"}', b'{"result": true, "circuit": 0, "kind": ""}',
       b'{"result": 0, "circuit": 0}', b'{"result": 99999, "circuit": 0, "kind": ""}', b"[" * 60000,
       b'{"result": 0, "circuit": 5, "kind": "reset"}',
       b'{"result": 0, "circuit": 0, "kind": "429", "retry_after": "1"}', b"x" * 100_000]  # fmt: skip


def mail(world):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    world.mailbox = Channel(theirs)
    return ours


def test_the_last_failure_is_a_word_in_the_same_turn():
    async def main():
        world = World(cluster=BREAKER)
        ours = mail(world)
        world.restart(cluster=BREAKER)
        slot = world.slots.endpoints.slot(A)
        turns = 0
        for bad in BAD:
            ours.send(bad)
        for _ in range(3):
            ours.send(json.dumps({"result": slot, "circuit": 0, "kind": "reset"}).encode())
        while world.circuit(A).state is not CircuitState.OPEN:
            await asyncio.sleep(0)
            turns += 1
            assert turns < 20
        assert world.board.control_row[C_RESULTS_DROPPED] == len(BAD)
        world.resilience.stop()
        world.resilience.stop()
        ours.close()
        world.mailbox.close()

    for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(asyncio.wait_for(main(), 20.0))


def test_what_came_while_nobody_read_counts(caplog):
    async def main():
        world = World(cluster=BREAKER)
        ours = mail(world)
        for _ in range(3):
            ours.send(
                json.dumps({"result": world.slots.endpoints.slot(A), "circuit": 0, "kind": "429"}).encode()
            )
        world.restart(cluster=BREAKER)
        for _ in range(5):
            await asyncio.sleep(0)
        assert world.circuit(A).state is CircuitState.OPEN
        ours.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert "the mailbox cannot be read" in caplog.text
        world.resilience.stop()
        world.mailbox.close()

    asyncio.run(main())


def test_each_message_goes_to_whom_its_word_names(caplog):
    async def main():
        taken, dropped = [], []
        ours, theirs = channel_pair()

        def one(body):
            taken.append(body["one"])
            return body["one"] != 2

        def other(body):
            raise RuntimeError("not this one")

        mail = ControlMail(theirs, {"one": one, "other": other}, lambda: dropped.append(1))
        mail.start()
        for body in ({"one": 1}, {"one": 2}, {"other": 1}, {"unknown": 1}, {"one": 3, "x": "y"}):
            assert ours.send(body)
        while len(taken) < 3:
            await asyncio.sleep(0)
        assert taken == [1, 2, 3] and len(dropped) == 3
        assert "a message cannot be taken in" in caplog.text
        mail.stop()
        ours.close()
        theirs.close()

    asyncio.run(asyncio.wait_for(main(), 20.0))


def test_functions_that_are_off():
    good = {"key_function": "m:f\n", "worker": 3, "why": "it raised\x1b"}
    assert parse_function_off(good) == ("m:f\\n", 3, "it raised\\x1b")
    for bad in ([], {}, {**good, "worker": "3"}, {**good, "why": None}, {**good, "key_function": 1}):
        assert parse_function_off(bad) is None
