"""Whose turn it is to accept."""

import pytest

from proxy.policy.fairness import may_accept


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (0, [], True),
        (500, [], True),
        (0, [0], True),
        (1, [0], False),
        (8, [8], True),
        (8, [7], False),
        (9, [9, 8], False),
        (11, [10], True),
        (12, [10, 500], False),
        (108, [100], True),
        (111, [100], False),
    ],
)
def test_may_accept(own, others, expected):
    assert may_accept(own, others) is expected


@pytest.mark.parametrize(("workers", "connections"), [(2, 16), (3, 48), (4, 64), (8, 1000)])
def test_spread(workers, connections):
    """Whatever the order in which they wake, counts end up within the slack."""
    counts = [0] * workers
    for number in range(connections):
        for turn in range(workers):
            own = (number * 7 + turn * turn) % workers
            others = counts[:own] + counts[own + 1 :]
            if may_accept(counts[own], others):
                counts[own] += 1
                break
        else:
            counts[counts.index(min(counts))] += 1
    assert sum(counts) == connections
    assert max(counts) <= max(min(counts) * 1.1 + 1, min(counts) + 1)
