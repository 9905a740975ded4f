"""The queue at the proxy. Times are seconds; owners are letters."""

from math import exp, inf

import pytest

from proxy.policy.admission import (
    MAX_LOOK,
    Admitted,
    PendingQueue,
    QueueParams,
    Refusal,
    Refused,
    ServiceTimes,
    mean_held_s,
    predicted_wait_s,
    urgency_of,
)


def offer(queue, owner, urgency=3, now=0, permits=1, mean_s=None, **more):
    return queue.offer(owner, urgency, permits=permits, mean_s=mean_s, now=now, **more)


def queued(*arrivals, **params):
    """`(owner, urgency, time)` each."""
    queue = PendingQueue(QueueParams(**params))
    for owner, urgency, now in arrivals:
        assert isinstance(offer(queue, owner, urgency, now), Admitted)
    return queue


def served(queue, now=0):
    owners = []
    while (ticket := queue.take(now=now)) is not None:
        owners.append(ticket.owner)
    return "".join(owners)


@pytest.mark.parametrize(
    ("arrivals", "order"),
    [
        ([("a", 3, 0), ("b", 3, 0), ("c", 3, 1)], "abc"),
        ([("a", 7, 0), ("b", 3, 0), ("c", 0, 0)], "cba"),
        ([("a", 3, 0), ("b", 1, 1), ("c", 1, 3)], "bac"),  # two steps are two seconds
        ([("a", 7, 0), ("b", 0, 6), ("c", 0, 7), ("d", 0, 8)], "bcad"),
    ],
)
def test_order(arrivals, order):
    assert served(queued(*arrivals), now=8) == order


def test_extremes_of_ageing():
    arrivals = [("a", 7, 0), ("b", 0, 5), ("c", 3, 6)]
    assert served(queued(*arrivals, ageing_s=0), now=6) == "abc"
    assert served(queued(*arrivals, ageing_s=3600), now=6) == "bca"


def test_clients_that_leave():
    queue = PendingQueue(QueueParams())
    tickets = [offer(queue, owner).ticket for owner in "abc"]
    queue.leave(tickets[1])
    queue.leave(tickets[1])
    assert (len(queue), served(queue)) == (2, "ac")
    queue.leave(tickets[0])
    assert repr(queue) == "PendingQueue(0 waiting)"


def test_deadlines():
    queue = queued(("a", 3, 0), ("b", 0, 5), timeout_s=10)
    assert offer(queue, "c", now=5, deadline=8).ticket.deadline == 8
    assert queue.next_at() == 8
    assert queue.expire(now=7.9) == []
    assert [ticket.owner for ticket in queue.expire(now=10)] == ["a", "c"]
    assert queue.next_at() == 15
    assert served(queue, now=10) == "b"
    assert queue.expire(now=99) == []
    assert queue.next_at() == inf


def test_who_is_late_has_no_turn_and_is_told():
    queue = queued(("a", 0, 0), ("b", 3, 5), timeout_s=10)
    assert queue.take(now=10).owner == "b"
    assert queue.next_at() == -inf
    assert [ticket.owner for ticket in queue.expire(now=10)] == ["a"]
    assert (len(queue), queue.expire(now=10)) == (0, [])


def test_conditions():
    """A retry must not go back to the endpoint that failed it; those behind it may."""
    queue = queued(("a", 3, 0), ("b", 3, 0), ("c", 0, 0))
    assert queue.take(lambda owner: owner == "b", now=0).owner == "b"
    assert queue.take(lambda owner: owner == "x", now=0) is None
    assert served(queue) == "ca"


def test_nobody_looks_through_a_long_queue():
    asked = []
    queue = queued(*[(number, 3, 0) for number in range(100)])
    assert queue.take(lambda owner: asked.append(owner), now=0) is None
    assert asked == list(range(MAX_LOOK))


def test_who_is_late_is_passed_over_further_back_too():
    queue = queued(("a", 0, 0))
    offer(queue, "b", now=0, deadline=1)
    assert queue.take(lambda owner: owner == "b", now=2) is None


def test_full():
    queue = queued(("a", 3, 0), ("b", 3, 0), max_pending=2)
    assert offer(queue, "c") == Refused(Refusal.FULL, 1)
    queue.take(now=0)
    assert offer(queue, "c", elsewhere=1) == Refused(Refusal.FULL, 1)
    assert isinstance(offer(queue, "c"), Admitted)
    assert offer(PendingQueue(QueueParams(max_pending=0)), "a") == Refused(Refusal.FULL, 1)


def test_the_urgent_take_a_place_from_who_would_go_after_them():
    queue = queued(("a", 3, 0), ("b", 7, 0), ("c", 5, 0), max_pending=3)
    admitted = offer(queue, "d", 0)
    assert (admitted.displaced.owner, admitted.displaced.is_waiting) == ("b", False)
    assert served(queue) == "dac"


def test_who_has_waited_long_is_not_displaced():
    queue = queued(("a", 7, 0), max_pending=1)
    assert offer(queue, "b", 0, now=7) == Refused(Refusal.FULL, 1)
    assert offer(queue, "c", 0, now=6.9).displaced.owner == "a"


@pytest.mark.parametrize(
    ("ahead", "permits", "mean_s", "expected"),
    [(9, 5, 0.1, 0.2), (0, 1, 2, 2), (0, 10, 2, 0.2), (99, 1, None, 0), (0, 0, 1, inf), (0, 0, None, inf)],
)
def test_predicted_wait(ahead, permits, mean_s, expected):
    assert predicted_wait_s(ahead, permits, mean_s) == pytest.approx(expected)


def test_who_would_wait_too_long_is_told_at_once():
    """Two permits held for 4 s each: a place every 2 s, so four wait for at most 8 s, and the fifth for 10."""
    queue = PendingQueue(QueueParams(timeout_s=9))
    for owner in "abcd":
        assert isinstance(offer(queue, owner, permits=2, mean_s=4), Admitted)
    assert offer(queue, "e", permits=2, mean_s=4) == Refused(Refusal.TOO_SLOW, 10)
    assert offer(queue, "e", permits=4, mean_s=4, deadline=4) == Refused(Refusal.TOO_SLOW, 5)
    assert isinstance(offer(queue, "e", 0, permits=2, mean_s=4), Admitted)  # nobody is ahead of it
    assert isinstance(offer(queue, "f", permits=4, mean_s=4), Admitted)  # an endpoint came


def test_those_in_other_workers_are_ahead_too():
    queue = PendingQueue(QueueParams(timeout_s=9))
    assert offer(queue, "a", permits=1, mean_s=1, elsewhere=9) == Refused(Refusal.TOO_SLOW, 10)
    assert isinstance(offer(queue, "a", permits=1, mean_s=1, elsewhere=7), Admitted)


def test_who_is_ahead_among_the_aged():
    """Ten of urgency 7 came evenly from 0 to 9 s. At 9 s half of those are ahead of one of urgency 3."""
    queue = queued(*[(str(second), 7, second) for second in range(10)], timeout_s=99)
    assert queue._ahead(9 + 3, 0) == pytest.approx(10 * 5 / 9)
    assert queue._ahead(9 + 7, 0) == 10
    assert queue._ahead(0, 0) == 0


def test_no_permits_at_all():
    """Nobody knows when there will be one; a second is as honest as anything."""
    for mean_s in (None, 1):
        assert offer(PendingQueue(QueueParams()), "a", permits=0, mean_s=mean_s) == Refused(
            Refusal.TOO_SLOW, 1
        )


def test_ranks_are_what_workers_compare():
    queue = PendingQueue(QueueParams())
    assert queue.head_rank() == inf
    ticket = offer(queue, "a", 3, now=10).ticket
    assert repr(ticket) == "Ticket('a', rank=13, deadline=20)"
    offer(queue, "b", 0, now=11)
    assert queue.head_rank() == 11


def test_new_parameters():
    queue = queued(("a", 3, 0))
    queue.update(QueueParams(timeout_s=1))
    assert queue.expire(now=9) == []
    assert offer(queue, "b", now=9).ticket.deadline == 10


def test_service_times():
    times = ServiceTimes()
    assert times.mean_s() is None
    times.add(1, now=0)
    assert times.mean_s() == 1
    times.add(4, now=10)
    assert times.mean_s() == pytest.approx((exp(-1) + 4) / (exp(-1) + 1))
    assert repr(times) == "ServiceTimes(1.36788 in 4.36788 s at 10)"
    times.add(7, now=1e6)
    assert times.mean_s() == pytest.approx(7)
    times.add(1, now=5e5)  # time that goes backwards is no time
    assert (times.mean_s(), times.at) == (4, 1e6)


def test_service_times_of_several_workers():
    """The same for all. One whose requests ended long ago counts little, or alone if nobody knows more."""
    old, new, unused = ServiceTimes(), ServiceTimes(), ServiceTimes()
    old.add(13, now=0)
    assert mean_held_s([unused]) is None
    assert mean_held_s([old, unused]) == 13
    new.add(1, now=10)
    assert (
        mean_held_s([old, new])
        == mean_held_s([new, unused, old])
        == pytest.approx((13 * exp(-1) + 1) / (exp(-1) + 1))
    )
    new.add(1, now=1e6)
    assert mean_held_s([old, new]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("field", "urgency"),
    [
        (b"u=0", 0),
        (b"u=5, i", 5),
        (b"i , u=7;x=1", 7),
        (b"u=1, u=2", 2),
        (b"", 3),
        (b"u=8", 3),
        (b"u=-1", 3),
        (b"u=10", 3),
        (b"u=", 3),
        (b"U=1", 3),
        (b"u=?1", 3),
        (b"priority=1", 3),
    ],
)
def test_urgency(field, urgency):
    assert urgency_of(field) == urgency
