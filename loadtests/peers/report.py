"""What a run found out, as tables for people and as JSON for programs."""

from collections.abc import Callable
from pathlib import Path

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from loadtests import documents
from loadtests.peers import proxies
from loadtests.peers.bench import Settings
from loadtests.peers.results import KIB, SUBJECTS, Results, Verdict, ratio, spread, verdicts
from loadtests.peers.rows import BY_NAME, ROWS, SATURATION

ABSENT = "–"
FIGURES = ("cpu_us", "rps", "p50_ms", "p99_ms", "rss_bytes")
QUIET = 0.03
"""Share of the proxy's core that others may have before the report says so."""


def _columns(results: Results) -> list[str]:
    return [name for name in results.versions if not proxies.BY_NAME[name].variant]


def _rows(results: Results) -> list[str]:
    return [row.name for row in ROWS if any(row.name == measured for measured, _ in results.samples)]


def _text(value: float | None, form: str) -> str:
    return ABSENT if value is None else format(value, form)


def _figure_table(results: Results, title: str, figure: str, form: str, style: box.Box) -> Table:
    """One figure: rows down, proxies across."""
    columns = _columns(results)
    table = Table(title=title, box=style, title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right", style="bold" if name in SUBJECTS else None)
    for row in _rows(results):
        values = [results.median(row, name, figure) for name in columns]
        table.add_row(BY_NAME[row].title, *(_text(value, form) for value in values))
        for variant, title in proxies.VARIANTS.items() if row == SATURATION.name else ():
            values = [results.median(row, f"{name}-{variant}", figure) for name in columns]
            if any(value is not None for value in values):
                table.add_row(title, *(_text(value, form) for value in values), style="dim")
    return table


def _memory_table(results: Results, style: box.Box) -> Table:
    columns = _columns(results)
    table = Table(title="Memory", box=style, title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right", style="bold" if name in SUBJECTS else None)

    def line(title: str, figure: Callable[[str], float | None], unit: int, form: str = ".0f") -> None:
        values = {name: figure(name) for name in columns}
        table.add_row(title, *(ABSENT if v is None else format(v / unit, form) for v in values.values()))

    last = next(reversed(_rows(results)), "")
    line("resident after all rows, MiB", lambda name: results.median(last, name, "rss_bytes"), KIB**2)
    if results.idle:
        count = next(iter(results.idle.values())).connections
        line(f"each of {count} idle connections, KiB", results.idle_bytes, KIB, ".1f")
    if results.stalled:
        count = next(iter(results.stalled.values())).connections
        line(f"each of {count} stalled readers, KiB", results.stalled_bytes, KIB)
        line("  of it in the kernel, KiB", results.stalled_kernel_bytes, KIB)
    return table


def _ratio_table(results: Results, style: box.Box, subject: str) -> Table:
    table = Table(title=f"{subject}: CPU time and p99 relative to others", box=style, title_justify="left")
    table.add_column("")
    for other in ("haproxy", "envoy"):
        table.add_column(f"CPU ÷ {other}", justify="right")
        table.add_column(f"p99 ÷ {other}", justify="right")
    for row in _rows(results):
        cells = [
            _text(ratio(results, row, figure, subject, other), ".2f")
            for other in ("haproxy", "envoy")
            for figure in ("cpu_us", "p99_ms")
        ]
        table.add_row(BY_NAME[row].title, *cells)
    return table


def verdict_table(found: list[Verdict], style: box.Box, title: str = "Targets") -> Table:
    """Every target, what was measured, and whether that is enough."""
    table = Table(title=title, box=style, title_justify="left")
    for title in ("target", "measured", "met"):
        table.add_column(title)
    words = {True: "[green]yes[/]", False: "[red]no[/]", None: "not measured"}
    for each in found:
        table.add_row(each.target, _text(each.value, ".2f"), words[each.is_met])
    return table


def tables(results: Results, style: box.Box = box.SIMPLE_HEAD) -> list[Table]:
    """All tables, those without rows left out."""
    made = [
        _figure_table(results, "CPU µs per request", "cpu_us", ".1f", style),
        _figure_table(results, "Requests per second", "rps", ",.0f", style),
        _figure_table(results, "p50, ms", "p50_ms", ".2f", style),
        _figure_table(results, "p99, ms", "p99_ms", ".2f", style),
        _memory_table(results, style),
    ]
    for subject in SUBJECTS:
        if subject in results.versions:
            found = verdict_table(verdicts(results, subject), style, f"{subject}: targets")
            made += [_ratio_table(results, style, subject), found]
    return [table for table in made if table.row_count]


def notes(results: Results) -> list[str]:
    """What a reader must know besides the figures."""
    versions = "; ".join(f"{name} {version}" for name, version in results.versions.items())
    said = [f"Medians of valid rounds. {versions}"]
    if (others := results.others()) > QUIET:
        said.append(
            f"The machine was busy: other programs had {others:.0%} of the proxy's core (median). All figures "
            "are rough then, rates and latencies most of all; repeat on a quiet machine."
        )
    for name, duties in results.missing_duties.items():
        if duties and not proxies.BY_NAME[name].variant:
            said.append(f"{name} does not make {', '.join(duties)}: it does less than the others.")
    said += [f"{name} did not run: {reason}" for name, reason in results.absent.items()]
    said += [f"invalid: {problem}" for problem in results.problems()]
    return said


def show(results: Results, console: Console) -> None:
    """Print everything."""
    documents.show(tables(results), notes(results), console)


def write_markdown(results: Results, path: Path) -> None:
    """The tables for a document."""
    documents.write_markdown(tables(results, box.MARKDOWN), notes(results), path)


def write_json(results: Results, settings: Settings, path: Path) -> None:
    """All figures with every round, and the machine they are from."""
    document = {
        "machine": documents.machine(),
        "settings": {"rounds": settings.rounds, "seconds": settings.seconds},
        "versions": results.versions,
        "absent": results.absent,
        "missing_duties": results.missing_duties,
        "others": results.others(),
        "rows": [
            {
                "row": row,
                "title": BY_NAME[row].title,
                "proxy": proxy,
                "median": {figure: results.median(row, proxy, figure) for figure in FIGURES},
                "cpu_spread": spread(samples, "cpu_us"),
                "rounds": samples,
            }
            for (row, proxy), samples in results.samples.items()
        ],
        "idle": results.idle,
        "stalled": results.stalled,
        "targets": [
            {"proxy": subject, "target": v.target, "limit": v.limit, "value": v.value, "met": v.is_met}
            for subject in SUBJECTS
            if subject in results.versions
            for v in verdicts(results, subject)
        ],
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
