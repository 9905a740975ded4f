"""The status document for people: tables on a terminal, aligned columns in a pipe. Both show the same
cells."""

from collections.abc import Sequence
from math import ceil
from typing import Any, TextIO

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from proxy.columns import LATENCY_BOUNDS_S

Document = dict[str, Any]

_STATE_STYLES = {"ready": "bold green", "starting": "bold yellow", "draining": "bold yellow"}

RECENT_S = 60.0
"""Seconds for which it is told that a process had ended; longer than the parent's longest pause before a start."""

ENDS_SOON_S = 14 * 86400.0
"""Seconds before the end of a certificate from which on that is told; as the log does first."""

ENDPOINT_COLUMNS = (
    "CLUSTER", "ENDPOINT", "STANDING", "LOAD", "IN FLIGHT", "CONNS", "IDLE", "REQUESTS", "2XX", "4XX", "5XX", "FAILED",
    "P50", "P90", "P99",
)  # fmt: skip
# The first columns are words, the others numbers.
_NAME_COLUMNS = 3


def render_tables(status: Document, out: TextIO) -> str:
    """For a terminal, as wide and as colourful as `out` is. Names are taken literally, not as markup."""
    console = Console(file=out)
    table = rich_table(ENDPOINT_COLUMNS, endpoint_rows(status), _NAME_COLUMNS)
    first, *rest = summary_lines(status)
    head = Text(first, style=_STATE_STYLES.get(status["state"], "bold"))
    with console.capture() as capture:
        console.print(Group(head, *(Text(line) for line in rest), table), soft_wrap=False)
    return capture.get()


def render_plain(status: Document) -> str:
    """For other programs and files: no colour, no lines, one endpoint a line."""
    lines = [*summary_lines(status), "", *plain_table(ENDPOINT_COLUMNS, endpoint_rows(status), _NAME_COLUMNS)]
    return "\n".join(lines) + "\n"


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> Table:
    """A table for a terminal; the first columns, `words` of them, are no numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < words else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """The same as lines of aligned text."""
    rows = [columns, *rows]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def summary_lines(status: Document) -> list[str]:
    """The daemon in a few lines; the first one is the headline."""
    totals = status["totals"]
    lines = [
        f"homeport {status['version']} is {status['state']}, up {duration(status['uptime_s'])}, "
        f"generation {status['generation']}, pid {status['pid']}"
    ]
    if status["unready_reason"] is not None:
        lines.append(f"not ready: {status['unready_reason']}")
    lines += reload_lines(status) + process_lines(status) + certificate_lines(status) + source_lines(status)
    for listener in status["listeners"]:
        where = "is drained" if listener["drained"] else f"on {listener['address']}"
        lines.append(f"listener {listener['name']} {where}")
    lines.append(
        f"{str(totals['connections'])} connections, {str(totals['tunnels'])} tunnels, "
        f"{str(totals['exchanges'])} requests in progress, {str(totals['requests_total'])} in all, "
        f"{size(totals['received_bytes_total'])} in, {size(totals['sent_bytes_total'])} out"
    )
    refusals = sorted(totals["refusals_total"].items(), key=lambda item: (-item[1], item[0]))
    if refusals:
        lines.append(
            "answered by homeport: " + ", ".join(f"{code} {str(number)}" for code, number in refusals)
        )
    return lines + scaling_lines(status) + data_lines(status) + trouble_lines(status)


def reload_lines(status: Document) -> list[str]:
    """What became of the last reload; nothing when there was none."""
    last = status["last_reload"]
    if last is None:
        return []
    text = f"configuration {last['outcome']} at {last['time']} ({last['trigger']})"
    if last["fault"] is None:
        return [text]
    more = last["fault_count"] - 1
    others = f" (and {more} more, see homeport check)" if more else ""
    return [f"{text}, the last one is served on: {last['fault']['text']}{others}"]


def process_lines(status: Document) -> list[str]:
    """A line for each process that waits to be started again, or was a short while ago."""
    lines = []
    workers = [(f"worker {worker['id']}", worker) for worker in status["workers"]]
    for name, process in [("control", status["control"]), *workers]:
        code, up_s = process["last_exit_code"], process["process_uptime_s"]
        if not code:
            continue
        starts = process["starts_total"]
        if up_s is None:
            lines.append(f"{name} waits to be started again: life {starts} ended with {code}")
        elif up_s < RECENT_S:
            lines.append(f"{name} runs again for {duration(up_s)}: life {starts - 1} ended with {code}")
    return lines


def certificate_lines(status: Document) -> list[str]:
    """A line for each listener and cluster whose certificate files cannot be used, or whose certificate ends soon."""
    lines = []
    for served in status["certificates"]:
        name, left_s = f"{served['kind']} {served['name']}", served["expires_in_s"]
        if served["problem"] is not None:
            lines.append(f"{name}: the last good certificates stay in use: {served['problem']}")
        if left_s is not None and left_s <= 0:
            lines.append(f"{name}: a certificate ended {duration(-left_s)} ago, and is still served")
        elif left_s is not None and left_s <= ENDS_SOON_S:
            lines.append(f"{name}: a certificate ends in {duration(left_s)}")
    return lines


def source_lines(status: Document) -> list[str]:
    """A line for each source of endpoints that cannot be asked."""
    return [
        f"discovery {source['kind']}"
        + (f" of {source['cluster']}" if source["cluster"] else "")
        + f" fails for {duration(source['since_s'])}, its last answer holds: {source['problem']}"
        for source in status["discovery"]
        if source["state"] == "failing"
    ]


def endpoint_rows(status: Document) -> list[Sequence[str]]:
    """A row for each endpoint; a cluster without any has one that says so."""
    rows: list[Sequence[str]] = []
    for cluster in status["clusters"]:
        if not cluster["endpoints"]:
            rows.append((cluster["name"], "(none)", *[""] * (len(ENDPOINT_COLUMNS) - 2)))
        for endpoint in cluster["endpoints"]:
            rows.append(
                (cluster["name"], _endpoint_name(endpoint), endpoint["standing"], *_numbers(endpoint))
            )
    return rows


def scaling_lines(status: Document) -> list[str]:
    """A line for each cluster that is scaled."""
    clusters = status["clusters"]
    return [f"{one['name']}: {scaling_text(one['scaler'])}" for one in clusters if one["scaler"] is not None]


def scaling_text(scaler: Document) -> str:
    """How many instances there should be and are, and why, in one line."""
    wanted, size = scaler["desired"], scaler["serving"]
    counts = [f"{size} of {wanted} {'instance serves' if wanted == 1 else 'instances serve'}"]
    counts += [
        f"{scaler[key]} {verb}" for key, verb in (("starting", "start"), ("going", "go")) if scaler[key]
    ]
    dry = "dry run: " if scaler["dry_run"] else ""
    stage = scaler["deploy"]["stage"]
    deploy = "" if stage == "none" else f"; deployment {stage}"
    return f"{dry}{', '.join(counts)}; {scaler['reason']}{deploy}"


def data_lines(status: Document) -> list[str]:
    """A line for each cluster in which data count, about what that is worth."""
    lines = []
    for cluster in status["clusters"]:
        data = cluster["locality"]
        if data is None or not data["predictions_total"]:
            continue
        told = [each["locality"] for each in cluster["endpoints"] if each["locality"] is not None]
        hits, misses = (sum(each[name] for each in told) for name in ("hits_total", "misses_total"))
        notes = [f"data were there for {100 * hits / (hits + misses):.1f} %"] if hits + misses else []
        error, plain = data["prediction_error_mean_s"], data["plain_prediction_error_mean_s"]
        notes.append(f"predictions are off by {latency_text(error)}, without data by {latency_text(plain)}")
        if data["untrusted_workers"]:
            notes.append(f"{data['untrusted_workers']} workers leave data out")
        lines.append(f"{cluster['name']}: {', '.join(notes)}")
    return lines


def trouble_lines(status: Document) -> list[str]:
    """A line for each cluster that queues or panics, and for each endpoint that is not in use, with the reason."""
    lines = []
    for cluster in status["clusters"]:
        notes = [f"{cluster['pending']} requests wait"] if cluster["pending"] else []
        if cluster["panic"]:
            notes.append("panic: too few endpoints are ready, all are used whose circuit lets them")
        if cluster["all_circuits_open"]:
            wait_s = cluster["next_trial_in_s"]
            when = "when checks pass" if wait_s is None else f"in {ceil(wait_s)} s" if wait_s else "now"
            notes.append(f"all circuits are open, the next trial is {when}")
        if notes:
            lines.append(f"{cluster['name']}: {', '.join(notes)}")
        for endpoint in cluster["endpoints"]:
            if endpoint["standing"] not in ("ready", "slow start"):
                lines.append(f"{endpoint['id']} is {endpoint['standing']}: {endpoint['why']}")
    return lines


def _endpoint_name(endpoint: Document) -> str:
    name, address = endpoint["name"], endpoint["address"]
    return str(address) if name == address else f"{name} ({address})"


def _numbers(endpoint: Document) -> list[str]:
    by_status, latency, load = endpoint["requests_by_status_total"], endpoint["latency"], endpoint["load"]
    return [
        "-" if load is None else f"{load:.0%}",
        str(endpoint["in_flight"]),
        str(endpoint["connections"]),
        str(endpoint["idle_connections"]),
        str(endpoint["requests_total"]),
        *(str(by_status[each]) for each in ("2xx", "4xx", "5xx")),
        str(endpoint["failures_total"]),
        *(bound_text(latency[each]) for each in ("p50_s", "p90_s", "p99_s")),
    ]


def size(number: int) -> str:
    """Bytes in the largest binary unit that leaves at least 1: `1.5 MiB`."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """The two largest units: `3d 4h`, `5m 7s`, `12s`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or parts or unit == "s":
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2])


def bound_text(seconds: float | None) -> str:
    """What an estimate from a histogram stands for, `<=500ms`: its bucket's bound; `-` when there were no answers."""
    if seconds is None:
        return "-"
    if seconds >= LATENCY_BOUNDS_S[-1]:
        return f">{latency_text(LATENCY_BOUNDS_S[-2])}"
    # An estimate at a bound may be a rounding error above it.
    bound = next(each for each in LATENCY_BOUNDS_S if seconds <= each * (1.0 + 1e-6))
    return f"<={latency_text(bound)}"


def latency_text(seconds: float | None) -> str:
    """`0.25ms`, `12ms`, `3.4s`; `-` when there were no answers."""
    if seconds is None:
        return "-"
    return f"{seconds:.3g}s" if seconds >= 1 else f"{seconds * 1000:.3g}ms"
