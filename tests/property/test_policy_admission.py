"""The queue loses nobody, serves in order, and lets nobody be overtaken for long."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.admission import Admitted, PendingQueue, QueueParams

steps = st.lists(
    st.tuples(
        st.sampled_from(["offer", "offer", "take", "leave", "expire"]),
        st.integers(0, 7),
        st.integers(0, 3),
        st.integers(0, 9),
    ),
    max_size=120,
)


@given(steps, st.integers(1, 8), st.integers(0, 3))
def test_everybody_gets_exactly_one_end(steps, max_pending, ageing_s):
    queue = PendingQueue(QueueParams(max_pending=max_pending, timeout_s=6, ageing_s=ageing_s))
    now, waiting, ended = 0, {}, []
    for number, (what, urgency, pause, pick) in enumerate(steps):
        now += pause
        if what == "offer":
            answer = queue.offer(number, urgency, permits=1, mean_s=0.1 * pick, now=now)
            if isinstance(answer, Admitted):
                waiting[number] = (now, urgency, answer.ticket)
                if answer.displaced is not None:
                    ended.append(answer.displaced.owner)
                    assert answer.displaced.rank > answer.ticket.rank
        elif what == "take":
            ticket = queue.take(now=now)
            if ticket is not None:
                ended.append(ticket.owner)
                assert ticket.deadline > now
                came, own_urgency, _ = waiting[ticket.owner]
                for other_came, other_urgency, other in waiting.values():
                    if other.is_waiting and other.deadline > now and other_came < came:
                        # Overtaken, but by no more than its urgency allows.
                        assert came - other_came <= max(other_urgency - own_urgency, 0) * ageing_s
        elif what == "leave" and waiting:
            owner = sorted(waiting)[pick % len(waiting)]
            if waiting[owner][2].is_waiting:
                ended.append(owner)
            queue.leave(waiting[owner][2])
        else:
            late = queue.expire(now=now)
            assert all(ticket.deadline <= now for ticket in late)
            ended += [ticket.owner for ticket in late]
        assert len(queue) <= max_pending
        assert len(queue) == sum(ticket.is_waiting for _, _, ticket in waiting.values())
    ended += [ticket.owner for ticket in queue.expire(now=now + 100)]
    assert sorted(ended) == sorted(waiting)
