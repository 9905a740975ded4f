"""How people read the demo: a line a second, a live view in a terminal, a summary. Values in, text out."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proxy.demo import sample
from proxy.demo.stats import Progress, Summary

_BAR_WIDTH = 30
_TRY_BYTES = 10_000_000
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Scene:
    """What runs where."""

    proxy_url: str
    admin_url: str
    config_path: str
    endpoints: dict[str, str]
    """Address by name of the service."""


def introduction(scene: Scene, duration_s: float) -> str:
    """What was started, and what a person can try while it runs."""
    endpoints = ", ".join(f"{name} {address}" for name, address in scene.endpoints.items())
    return "\n".join(
        [
            f"proxy      {scene.proxy_url}",
            f"admin API  {scene.admin_url}",
            f"endpoints  {endpoints}",
            f"config     {scene.config_path}",
            "",
            "Try it from another terminal while the load runs:",
            *_commands(scene),
            "",
            f"Load for {duration_s:g} s; Ctrl-C ends it early.",
        ]
    )


def _commands(scene: Scene) -> list[str]:
    return [
        f"  curl -i '{scene.proxy_url}/query?dataset=orders'",
        f"  curl {scene.proxy_url}/bytes/{_TRY_BYTES} | sha256sum   # {sample.digest(_TRY_BYTES)[:16]}...",
        f"  curl -T FILE {scene.proxy_url}/upload",
        f"  curl {scene.admin_url}/api/v1/clusters",
        f"  curl {scene.admin_url}/metrics",
    ]


def progress_line(progress: Progress) -> str:
    """The load of the last interval in one line."""
    total = sum(progress.endpoints.values())
    shares = "  ".join(f"{name} {_share(count, total)}" for name, count in progress.endpoints.items())
    return (
        f"{progress.elapsed_s:4.0f} s  {_count(round(progress.requests_per_s)):>6} requests/s"
        f"  p50 {_ms(progress.latency.p50_s):>8}  p99 {_ms(progress.latency.p99_s):>8}"
        f"  {shares}  {_failures(progress.failed)}"
    )


def live_view(progress: Progress, duration_s: float) -> RenderableType:
    """The load of the last interval for a terminal, to be redrawn in place."""
    numbers = Table.grid(padding=(0, 3))
    numbers.add_row(
        Text(f"{_count(round(progress.requests_per_s))} requests/s", style="bold"),
        f"p50 {_ms(progress.latency.p50_s)}",
        f"p99 {_ms(progress.latency.p99_s)}",
        f"{_count(progress.requests)} in all",
        Text(_failures(progress.failed), style="bold red" if progress.failed else "green"),
    )
    elapsed = min(progress.elapsed_s, duration_s)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(duration_s, elapsed, width=_BAR_WIDTH, complete_style="cyan"),
        f"{elapsed:.0f} of {duration_s:g} s",
    )
    return Group("", bar, numbers, _endpoint_bars(progress.endpoints))


def _endpoint_bars(endpoints: dict[str, int]) -> Table:
    total = max(1, sum(endpoints.values()))
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column()
    for _ in range(2):
        table.add_column(justify="right")
    for name, count in endpoints.items():
        table.add_row(
            name,
            ProgressBar(total, count, width=_BAR_WIDTH, complete_style="green"),
            _count(count),
            _share(count, total),
        )
    return table


def summary_text(summary: Summary, scene: Scene) -> str:
    """The whole run for a person: what was asked, whether every answer was right, how it was shared out."""
    seconds = max(summary.elapsed_s, 1e-9)
    moved = f"{_size(summary.verified_bytes)} ({_size(summary.verified_bytes / seconds)}/s)"
    lines = [
        "Summary",
        "",
        f"  load       {seconds:.1f} s, {summary.clients} clients, each waiting for its answer",
        f"  requests   {_count(summary.requests)} ({_count(round(summary.requests / seconds))}/s)",
        f"  failed     {_count(summary.failed)}",
        f"  verified   {moved} against checksums",
        f"  latency    p50 {_ms(summary.latency.p50_s)}, p99 {_ms(summary.latency.p99_s)}",
        f"  proxy      {scene.proxy_url}",
        f"  admin API  {scene.admin_url}",
        "",
        *_kind_table(summary),
        "",
        *_endpoint_table(summary, scene),
        "",
        *_problem_lines(summary),
        _verdict(summary),
    ]
    return "\n".join(lines)


def _kind_table(summary: Summary) -> list[str]:
    rows = [
        [
            kind.kind,
            _count(kind.requests),
            _count(kind.failed),
            _size(kind.verified_bytes),
            _ms(kind.latency.p50_s),
            _ms(kind.latency.p99_s),
        ]
        for kind in summary.kinds
    ]
    return _table(["request", "count", "failed", "verified", "p50", "p99"], rows)


def _endpoint_table(summary: Summary, scene: Scene) -> list[str]:
    total = sum(summary.endpoints.values())
    rows = [
        [f"{name} {scene.endpoints.get(name, '')}".rstrip(), _count(count), _share(count, total)]
        for name, count in summary.endpoints.items()
    ]
    return _table(["endpoint", "answered", "share"], rows)


def _problem_lines(summary: Summary) -> list[str]:
    if not summary.problems:
        return []
    return ["  What failed:", *(f"  {_count(times):>7} x {text}" for text, times in summary.problems), ""]


def _verdict(summary: Summary) -> str:
    if summary.is_ok:
        return "OK: no request failed and every checksum was right."
    if not summary.requests:
        return "FAILED: the load ended before any request was answered."
    return f"FAILED: {_count(summary.failed)} of {_count(summary.requests)} requests got no right answer."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "   ".join([row[0].ljust(widths[0]), *numbers]))
    return lines


def _failures(failed: int) -> str:
    return f"{_count(failed)} failed"


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total else "-"


def _ms(seconds: float | None) -> str:
    """Milliseconds with three significant digits or so."""
    if seconds is None:
        return "-"
    ms = seconds * 1000
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms"


def _size(size_bytes: float) -> str:
    """Binary units with one decimal."""
    for unit in _UNITS[:-1]:
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} {_UNITS[-1]}"
