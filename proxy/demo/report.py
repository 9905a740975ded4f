"""How people read the demo: a line a second, a live view in a terminal, a summary. Values in, text out."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proxy.demo.stats import Progress, Summary
from proxy.demo.watching import Fleet, Happening

_BAR_WIDTH = 16
_SHOWN_HAPPENINGS = 6
_PHASE_STYLES = {"serving": "green", "starting": "yellow"}


@dataclass(frozen=True, slots=True)
class Scene:
    """What runs where."""

    proxy_url: str
    admin_url: str
    config_path: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the instances; times are seconds from the start of the load."""

    steps: tuple[tuple[float, str], ...]
    """Changes of size, with their reasons."""
    most_serving: int
    """Instances at once."""
    first_new_s: float | None
    """From the burst to the first new instance that served; `None` = there was none."""
    killed: str
    """Name of the instance that was killed; empty = none was."""
    killed_at_s: float
    healed_s: float | None
    """From the kill to the replacement serving; `None` = that was not seen."""
    missed: tuple[str, ...]
    """What should have happened and did not."""


def introduction(scene: Scene) -> str:
    """What was started, and what a person can try while it runs."""
    return "\n".join(
        [
            f"proxy      {scene.proxy_url}",
            f"admin API  {scene.admin_url}",
            f"config     {scene.config_path}",
            "",
            "Try it from another terminal while the load runs:",
            f"  curl -i '{scene.proxy_url}/query?dataset=orders'",
            f"  homeport status --admin {scene.admin_url}",
            f"  homeport explain --cluster data --data-key orders --admin {scene.admin_url}",
            f"  curl -N {scene.admin_url}/api/v1/events",
            "",
            "Ctrl-C ends the load early.",
        ]
    )


def progress_line(act: str, progress: Progress, fleet: Fleet) -> str:
    """The load of the last interval in one line."""
    return (
        f"{progress.elapsed_s:5.1f} s  {act:<10}  {_count(round(progress.requests_per_s)):>4} requests/s"
        f"  p50 {_ms(progress.latency.p50_s):>7}  p99 {_ms(progress.latency.p99_s):>7}"
        f"  hits {_percent(progress.hit_ratio):>5}  {fleet.serving} of {fleet.desired} instances"
        f"  {_failures(progress.failed)}"
    )


def happening_line(at_s: float, happening: Happening) -> str:
    """One event in one line; `at_s` is its time from the start of the load."""
    return f"{at_s:5.1f} s  > {happening.subject}: {_words(happening.type)}: {_first_line(happening.text)}"


def live_view(
    act: str, progress: Progress, fleet: Fleet, happenings: Sequence[tuple[float, Happening]]
) -> RenderableType:
    """The load of the last interval for a terminal, to be redrawn in place."""
    head = Table.grid(padding=(0, 3))
    head.add_row(
        Text(act, style="bold cyan"), f"{progress.elapsed_s:.0f} s", f"{fleet.desired} instances wanted"
    )
    numbers = Table.grid(padding=(0, 3))
    numbers.add_row(
        Text(f"{_count(round(progress.requests_per_s))} requests/s", style="bold"),
        f"p50 {_ms(progress.latency.p50_s)}",
        f"p99 {_ms(progress.latency.p99_s)}",
        f"hits {_percent(progress.hit_ratio)}",
        f"{_count(progress.requests)} in all",
        Text(_failures(progress.failed), style="bold red" if progress.failed else "green"),
    )
    lines = [
        Text(happening_line(at_s, happening), style="dim", overflow="ellipsis", no_wrap=True)
        for at_s, happening in happenings[-_SHOWN_HAPPENINGS:]
    ]
    return Group("", head, numbers, "", _instance_table(fleet), "", *lines)


def _instance_table(fleet: Fleet) -> Table:
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "left", "right", "right"):
        table.add_column(justify=justify)
    most = max([one.requests for one in fleet.instances], default=0)
    for one in fleet.instances:
        table.add_row(
            one.name,
            Text(one.phase, style=_PHASE_STYLES.get(one.phase, "dim")),
            ProgressBar(max(1, most), one.requests, width=_BAR_WIDTH, complete_style="green"),
            f"{_count(one.requests)} answered",
            f"hits {_percent(one.hit_ratio)}",
        )
    return table


def summary_text(summary: Summary, outcome: Outcome) -> str:
    """The whole run for a person: whether every request was answered, what locality, scaling and healing did."""
    seconds = max(summary.elapsed_s, 1e-9)
    lines = [
        "Summary",
        "",
        f"  requests   {_count(summary.requests)} in {seconds:.1f} s",
        f"  failed     {_count(summary.failed)}",
        f"  hit ratio  {_percent(summary.hit_ratio)} of requests found their data where they were sent",
        f"  latency    p50 {_ms(summary.latency.p50_s)}, p99 {_ms(summary.latency.p99_s)}",
        f"  scaling    {_scaling(outcome)}",
        *(f"    {at_s:5.1f} s  {_first_line(text)}" for at_s, text in outcome.steps),
        f"  healing    {_healing(outcome)}",
        "",
        *_act_table(summary),
        "",
        *_problem_lines(summary),
        *(f"  {missed}" for missed in outcome.missed),
        _verdict(summary, outcome),
    ]
    return "\n".join(lines)


def _scaling(outcome: Outcome) -> str:
    if outcome.first_new_s is None:
        return f"{outcome.most_serving} instances at most, none of them new"
    return (
        f"up to {outcome.most_serving} instances; the first new one served {outcome.first_new_s:.1f} s"
        " after the burst began"
    )


def _healing(outcome: Outcome) -> str:
    if not outcome.killed:
        return "no instance was killed"
    told = "not seen" if outcome.healed_s is None else f"another served {outcome.healed_s:.1f} s later"
    return f"{outcome.killed} was killed at {outcome.killed_at_s:.1f} s; {told}"


def _act_table(summary: Summary) -> list[str]:
    rows = [
        [
            phase.phase,
            _count(phase.requests),
            _count(phase.failed),
            _percent(phase.hit_ratio),
            _ms(phase.latency.p50_s),
            _ms(phase.latency.p99_s),
        ]
        for phase in summary.phases
    ]
    return _table(["load", "requests", "failed", "hits", "p50", "p99"], rows)


def _problem_lines(summary: Summary) -> list[str]:
    if not summary.problems:
        return []
    return ["  What failed:", *(f"  {_count(times):>7} x {text}" for text, times in summary.problems), ""]


def _verdict(summary: Summary, outcome: Outcome) -> str:
    if not summary.requests:
        return "FAILED: the load ended before any request was answered."
    if summary.failed:
        return f"FAILED: {_count(summary.failed)} of {_count(summary.requests)} requests got no right answer."
    if outcome.missed:
        return "FAILED: no request failed, but not everything happened that should."
    return "OK: no request failed."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "   ".join([row[0].ljust(widths[0]), *numbers]))
    return lines


def _words(event_type: str) -> str:
    return event_type.removeprefix("instance_")


def _first_line(text: str) -> str:
    """An event's text without the log that may come after it, and without the words that announce that."""
    first, _, rest = text.partition("\n")
    return first.rpartition("; ")[0] if rest else first


def _failures(failed: int) -> str:
    return f"{_count(failed)} failed"


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.0f} %"


def _ms(seconds: float | None) -> str:
    """Milliseconds with two or three significant digits."""
    if seconds is None:
        return "-"
    ms = seconds * 1000
    return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"
