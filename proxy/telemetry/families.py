"""Prometheus families from tables: a line is a family's name, its help and where to read its value.

`rows` are the series of each of them: the values of the labels and what is read from.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

R = TypeVar("R")
Lines = Sequence[tuple[str, str, Callable[[R], float]]]
Rows = Sequence[tuple[Sequence[str], R]]


def gauges(lines: Lines[R], labels: Sequence[str], rows: Rows[R]) -> Iterator[GaugeMetricFamily]:
    """A gauge for each of `lines`."""
    for name, text, value in lines:
        gauge = GaugeMetricFamily(name, text, labels=labels)
        for label_values, reading in rows:
            gauge.add_metric(label_values, value(reading))
        yield gauge


def counters(lines: Lines[R], labels: Sequence[str], rows: Rows[R]) -> Iterator[CounterMetricFamily]:
    """A counter for each of `lines`."""
    for name, text, value in lines:
        counter = CounterMetricFamily(name, text, labels=labels)
        for label_values, reading in rows:
            counter.add_metric(label_values, value(reading))
        yield counter
