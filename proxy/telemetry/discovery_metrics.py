"""Families about the sources of endpoints, from the words in which control counts."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from proxy.scoreboard import (
    C_ENGINE_FAILING,
    D_ANSWERS,
    D_FAILING,
    D_FAILURES,
    DISCOVERY_KINDS,
    DISCOVERY_WORDS,
    Row,
    discovery_word,
)
from proxy.telemetry.families import Lines, counters, gauges

_Words = list[int]

_GAUGES: Lines[_Words] = (
    (
        "homeport_discovery_failing",
        "Sources of endpoints that cannot be asked; what they said last holds.",
        lambda words: words[D_FAILING],
    ),
)
_COUNTERS: Lines[_Words] = (
    (
        "homeport_discovery_answers",
        "Complete answers of sources; of Docker the lists, not the changes between them.",
        lambda words: words[D_ANSWERS],
    ),
    (
        "homeport_discovery_failures",
        "Times that a source could not be asked, or its answer made no sense.",
        lambda words: words[D_FAILURES],
    ),
)


def discovery_families(row: Row) -> Iterator[Metric]:
    """Those of control's `row`, by kind: docker, dns, file."""
    first = [(kind, discovery_word(kind, 0)) for kind in DISCOVERY_KINDS]
    rows = [([kind], row[at : at + DISCOVERY_WORDS].tolist()) for kind, at in first]
    yield from gauges(_GAUGES, ["source"], rows)
    yield from counters(_COUNTERS, ["source"], rows)
    yield GaugeMetricFamily(
        "homeport_engine_circuit_open",
        "1 while the Docker Engine is left alone because it failed several times in a row.",
        value=row[C_ENGINE_FAILING],
    )
