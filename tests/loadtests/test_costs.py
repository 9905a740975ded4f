"""What perf prints is read, and the sampler names functions by their place in the package."""

import io

import pytest
from rich.console import Console

from loadtests.costs import _decisions, _table, parse_perf
from loadtests.sampled import Sampler

REPORT = """
# Samples: 103  of event 'cpu-clock'
# Overhead  Shared Object
# ........  ....................
#
    47.10%  libpython3.11.so.1.0
    42.40%  [kernel.kallsyms]
"""


class Code:
    def __init__(self, filename: str, name: str) -> None:
        self.co_filename = filename
        self.co_qualname = name


class Frame:
    def __init__(self, filename: str, name: str) -> None:
        self.f_code = Code(filename, name)


def test_perf_report_is_read():
    assert parse_perf(REPORT) == pytest.approx({"libpython3.11.so.1.0": 0.471, "[kernel.kallsyms]": 0.424})


def test_names_in_brackets_are_shown():
    console = Console(file=io.StringIO(), width=100)
    console.print(_table("parts", parse_perf(REPORT), 100.0))
    shown = console.file.getvalue()
    assert "[kernel.kallsyms]" in shown and "42.4" in shown


def test_decisions_are_measured():
    console = Console(file=io.StringIO(), width=100)
    console.print(_decisions(0.01))
    rows = [line.split() for line in console.file.getvalue().splitlines() if line.startswith("│")]
    assert [row[1] for row in rows] == ["10", "100"]
    assert all(float(row[3]) > 0 and float(row[5]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("filename", "counted"),
    [
        ("/any/where/proxy/dataplane/exchange.py", ["dataplane/exchange.py:Exchange.on_head"]),
        ("/usr/lib/python3.11/asyncio/events.py", ["events.py:Exchange.on_head"]),
        ("<frozen importlib._bootstrap>", []),
    ],
)
def test_the_sampler_names_functions(filename, counted):
    sampler = Sampler()
    sampler.on_tick(27, Frame(filename, "Exchange.on_head"))
    sampler.on_tick(27, None)
    assert list(sampler.counts) == counted
