"""Name resolution on a fake clock with a fake getaddrinfo."""

import asyncio
import logging
import random
import socket
import threading

import pytest

from proxy.controlplane import resolver as resolver_module
from proxy.controlplane.resolver import (
    JITTER_RATIO,
    MAX_ADDRESSES,
    TIME_LIMIT_S,
    Resolver,
    SystemLookup,
    WatchedName,
    select_addresses,
)
from proxy.model import TcpAddress


class FakeClock:
    """Time that moves when a test says so."""

    def __init__(self):
        self.now = 0.0
        self.sleepers = []

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now

    async def sleep(self, seconds):
        future = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.now + seconds, future))
        await future

    async def advance(self, seconds):
        """Move on step by step, waking sleepers in order."""
        end = self.now + seconds
        await settle()
        while due := [entry for entry in self.sleepers if entry[0] <= end and not entry[1].done()]:
            at, future = min(due, key=lambda entry: entry[0])
            self.now = at
            future.set_result(None)
            await settle()
        self.now = end
        self.sleepers = [entry for entry in self.sleepers if not entry[1].done()]


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def answer(*hosts, port=9000):
    def one(host):
        v6 = ":" in host
        sockaddr = (host, port, 0, 0) if v6 else (host, port)
        return (socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM, 6, "", sockaddr)

    return [one(host) for host in hosts]


class Dns:
    """Answers by host name: a list, an error, or a future to hang on."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append(host)
        found = self.answers[host]
        if isinstance(found, asyncio.Future):
            found = await found
        if isinstance(found, Exception):
            raise found
        return found


class Changes:
    def __init__(self):
        self.seen = []
        self.resolver = None

    def __call__(self):
        self.seen.append({key: [a.host for a in found] for key, found in self.resolver.resolved.items()})


def make(dns, *names):
    clock, changes = FakeClock(), Changes()
    changes.resolver = Resolver(names, changes, clock=clock, rng=random.Random(1), lookup=dns)
    return changes.resolver, clock, changes


QUERY = WatchedName("query", 9000, 30.0)
GONE = socket.gaierror(-2, "Name or service not known")
A_LONG_ROUND_S = 30.0 * (1 + JITTER_RATIO)


def test_a_change_is_reported_and_the_order_does_not_flap():
    async def main():
        dns = Dns(query=answer("10.0.0.10", "10.0.0.9"))
        resolver, clock, changes = make(dns, QUERY)
        await resolver.resolve_all()
        assert resolver.resolved == {
            "query:9000": (TcpAddress("10.0.0.9", 9000), TcpAddress("10.0.0.10", 9000))
        }
        assert changes.seen == []
        resolver.start()
        dns.answers["query"] = answer("10.0.0.9", "10.0.0.10", "10.0.0.9")
        await clock.advance(A_LONG_ROUND_S)
        assert len(dns.asked) == 2 and changes.seen == []
        dns.answers["query"] = answer("10.0.0.10", "10.0.0.11")
        await clock.advance(A_LONG_ROUND_S)
        assert changes.seen == [{"query:9000": ["10.0.0.10", "10.0.0.11"]}]
        await resolver.stop()

    asyncio.run(main(), debug=True)


@pytest.mark.parametrize("failure", [GONE, [], UnicodeError("label too long"), OSError("no descriptors")])
def test_a_failure_keeps_the_last_good_addresses_and_is_logged_once(failure, caplog):
    async def main():
        dns = Dns(query=answer("10.0.0.1"))
        resolver, clock, changes = make(dns, QUERY)
        await resolver.resolve_all()
        resolver.start()
        dns.answers["query"] = failure
        await clock.advance(5 * A_LONG_ROUND_S)
        assert resolver.failures_total >= 5 and changes.seen == []
        assert [a.host for a in resolver.resolved["query:9000"]] == ["10.0.0.1"]
        dns.answers["query"] = answer("10.0.0.1")
        await clock.advance(2 * A_LONG_ROUND_S)
        assert changes.seen == [] and resolver.lookups_total == len(dns.asked)
        await resolver.stop()

    caplog.set_level(logging.WARNING, "proxy")
    asyncio.run(main())
    first, last = [entry.getMessage() for entry in caplog.records]
    assert "query cannot be resolved, 1 known addresses stay" in first and last == "query is resolved again"


def test_a_name_without_addresses_is_tried_again_soon():
    async def main():
        dns = Dns(query=GONE)
        resolver, clock, changes = make(dns, QUERY)
        await resolver.resolve_all()
        assert resolver.resolved == {}
        resolver.start()
        await clock.advance(1 + 2 + 4 + 3)
        assert 4 <= len(dns.asked) <= 5
        dns.answers["query"] = answer("10.0.0.1")
        await clock.advance(8.8)
        assert changes.seen == [{"query:9000": ["10.0.0.1"]}]
        await clock.advance(0)
        asked = len(dns.asked)
        await clock.advance(25)
        assert len(dns.asked) == asked  # back at its own interval
        await resolver.stop()

    asyncio.run(main())


def test_refresh_0_ends_with_the_first_success():
    async def main():
        dns = Dns(query=GONE, other=answer("10.0.0.2"))
        resolver, clock, changes = make(dns, WatchedName("query", 9000, 0.0), WatchedName("other", 9000, 0.0))
        await resolver.resolve_all()
        resolver.start()
        await clock.advance(10_000)
        dns.answers["query"] = answer("10.0.0.1")
        await clock.advance(100)
        asked = len(dns.asked)
        await clock.advance(100_000)
        assert len(dns.asked) == asked and dns.asked.count("other") == 1
        assert len(changes.seen) == 1
        await resolver.stop()

    asyncio.run(main())


@pytest.mark.parametrize("refresh_s", [30.0, 0.0])
def test_addresses_of_somebody_else_are_looked_up_again_within_the_interval(refresh_s):
    async def main():
        clock, changes, dns = FakeClock(), Changes(), Dns(query=answer("10.0.0.2"))
        known = {"query:9000": (TcpAddress("10.0.0.1", 9000),)}
        name = WatchedName("query", 9000, refresh_s)
        changes.resolver = Resolver(
            [name], changes, clock=clock, rng=random.Random(1), lookup=dns, known=known
        )
        await changes.resolver.resolve_missing()
        changes.resolver.start()
        await settle()
        assert dns.asked == []
        await clock.advance(refresh_s * (1 + JITTER_RATIO))
        assert changes.seen == [{"query:9000": ["10.0.0.2"]}]
        await changes.resolver.stop()

    asyncio.run(main())


def test_a_lookup_that_hangs_is_not_started_again_and_its_late_answer_counts():
    async def main():
        hang = asyncio.get_running_loop().create_future()
        dns = Dns(query=answer("10.0.0.1"), other=answer("10.0.0.2"))
        resolver, clock, changes = make(dns, QUERY, WatchedName("other", 9000, 30.0))
        await resolver.resolve_all()
        resolver.start()
        dns.answers["query"] = hang
        await clock.advance(10 * (A_LONG_ROUND_S + TIME_LIMIT_S))
        assert dns.asked.count("query") == 2 and dns.asked.count("other") >= 10
        assert resolver.failures_total >= 9
        assert [a.host for a in resolver.resolved["query:9000"]] == ["10.0.0.1"]
        hang.set_result(answer("10.0.0.3"))
        dns.answers["query"] = answer("10.0.0.3")
        await clock.advance(A_LONG_ROUND_S)
        assert changes.seen == [{"query:9000": ["10.0.0.3"], "other:9000": ["10.0.0.2"]}]
        await resolver.stop()

    asyncio.run(main())


def test_the_first_round_is_over_within_the_limit_and_stop_does_not_wait():
    async def main():
        dns = Dns(query=asyncio.get_running_loop().create_future())
        resolver, clock, _ = make(dns, QUERY)
        first = asyncio.ensure_future(resolver.resolve_all())
        await clock.advance(TIME_LIMIT_S)
        assert first.done() and resolver.resolved == {} and resolver.failures_total == 1
        resolver.start()
        await resolver.stop()
        await resolver.stop()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_names_do_not_ask_all_at_once():
    async def main():
        names = [WatchedName(f"n{index}", 1, 30.0) for index in range(50)]
        resolver, clock, _ = make(Dns(**{name.host: answer("10.0.0.1") for name in names}), *names)
        await resolver.resolve_all()
        resolver.start()
        await settle()
        due = [at for at, future in clock.sleepers if not future.done()]
        assert min(due) >= 27.0 and max(due) <= 33.0 and len(set(due)) == 50
        await resolver.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    "hosts, expected",
    [
        (["::1", "127.0.0.1"], ["127.0.0.1"]),
        (["fd00::2", "fd00::1", "fd00:0:0::1"], ["fd00::1", "fd00::2"]),
        (["fe80::1%eth0"], []),
        (["9.0.0.1", "10.0.0.1"], ["9.0.0.1", "10.0.0.1"]),
        ([f"10.0.{n // 256}.{n % 256}" for n in range(1000)], [f"10.0.0.{n}" for n in range(MAX_ADDRESSES)]),
    ],
)
def test_one_family_sorted_each_once(hosts, expected):
    assert [address.host for address in select_addresses(answer(*hosts))] == expected


def test_the_systems_resolver_knows_localhost():
    async def main():
        answers = await SystemLookup()("localhost", 9000)
        assert TcpAddress("127.0.0.1", 9000) in select_addresses(answers)

    asyncio.run(main())


class SlowDns:
    """A getaddrinfo that hangs on some hosts until it is told to go on."""

    def __init__(self, monkeypatch):
        self.hanging = set()
        self.asked = []
        self._is_released = threading.Condition()
        monkeypatch.setattr(resolver_module.socket, "getaddrinfo", self._answer)

    def _answer(self, host, port, **_):
        with self._is_released:
            self.asked.append(host)
            self._is_released.wait_for(lambda: host not in self.hanging, 30.0)
        if host == "nobody":
            raise GONE
        return answer("10.0.0.1", port=port)

    def release(self):
        with self._is_released:
            self.hanging = set()
            self._is_released.notify_all()


def test_names_that_hang_hold_up_no_other(monkeypatch):
    async def main():
        dns, lookup = SlowDns(monkeypatch), SystemLookup()
        dns.hanging = {f"h{index}" for index in range(20)}
        slow = [asyncio.ensure_future(lookup(host, 1)) for host in dns.hanging]
        await settle()
        assert select_addresses(await lookup("query", 9000)) == (TcpAddress("10.0.0.1", 9000),)
        with pytest.raises(socket.gaierror):
            await lookup("nobody", 9000)
        assert not any(each.done() for each in slow)
        dns.release()
        assert all(await asyncio.gather(*slow))

    asyncio.run(asyncio.wait_for(main(), 20.0))


def test_names_that_hung_last_have_threads_apart_until_they_answer_in_time(monkeypatch):
    """With two threads for all and one for those that took long."""

    async def main():
        dns, lookup = SlowDns(monkeypatch), SystemLookup()
        dns.hanging = {"h1", "h2"}
        first = [asyncio.ensure_future(lookup(host, 1)) for host in ("h1", "h2")]
        while repr(lookup) != "<SystemLookup slow=['h1', 'h2']>":
            await asyncio.sleep(0)
        first.append(asyncio.ensure_future(lookup("query", 1)))
        await settle()
        assert not first[2].done() and sorted(dns.asked) == ["h1", "h2"]
        first[0].cancel()  # its thread hangs on
        await settle()
        assert not first[2].done() and len(dns.asked) == 2
        dns.release()
        await asyncio.gather(*first[1:])

        dns.hanging = {"h1", "h2"}
        again = [asyncio.ensure_future(lookup(host, 1)) for host in ("h1", "h2")]
        await settle()
        await asyncio.gather(lookup("query", 1), lookup("other", 1))
        assert dns.asked.count("h1") == 2 and dns.asked.count("h2") == 1
        dns.release()
        await asyncio.gather(*again)
        monkeypatch.setattr(resolver_module, "TIME_LIMIT_S", 20.0)
        await asyncio.gather(lookup("h1", 1), lookup("h2", 1))
        assert repr(lookup) == "<SystemLookup slow=[]>"

    for name, value in (("QUICK_LOOKUPS", 2), ("SLOW_LOOKUPS", 1), ("TIME_LIMIT_S", 0.01)):
        monkeypatch.setattr(resolver_module, name, value)
    asyncio.run(asyncio.wait_for(main(), 20.0))


def test_where_no_thread_can_be_had_a_lookup_fails(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    async def main():
        lookup = SystemLookup()
        for _ in range(3):
            with pytest.raises(OSError, match="no thread to ask in"):
                await lookup("query", 1)

    monkeypatch.setattr(resolver_module, "QUICK_LOOKUPS", 2)
    monkeypatch.setattr(threading.Thread, "start", start)
    asyncio.run(asyncio.wait_for(main(), 20.0))
