"""Which of several workers on one listening socket takes the next connection. Pure.

Whoever wakes first would take most of them: with 64 connections at once one of four workers got 55. Compared counts
spread them evenly; the next free look goes to whoever has the fewest.
"""

from collections.abc import Iterable

# How far above the smallest count a worker may be and still take one, as a share. Below ten connections it has to be
# among the smallest, so that 16 keep-alive connections on two workers are 8 and 8; with many, workers need not wait
# for each other over a few.
SLACK_RATIO = 0.1


def may_accept(own: int, others: Iterable[int]) -> bool:
    """Whether a worker with `own` connections takes the next one, when the other live workers have `others`.

    Examples: 8 beside 8 may; 8 beside 7 may not; 108 beside 100 may; 111 beside 100 may not.
    """
    smallest = min(others, default=own)
    return own <= smallest * (1.0 + SLACK_RATIO)
