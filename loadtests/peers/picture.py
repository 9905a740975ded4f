"""The figures as a picture: CPU time of every row and proxy, then latency and memory."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from loadtests.peers import proxies
from loadtests.peers.results import KIB, SUBJECTS, Results
from loadtests.peers.rows import BY_NAME, ROWS

matplotlib.use("Agg")

# Okabe and Ito's palette, told apart with every common colour blindness ("Color Universal Design", 2008); a
# proxy keeps its colour whichever others are drawn. The subject has the strongest, and a black edge.
COLOURS = {
    "homeport": "#D55E00", "homeport-compiled": "#E69F00", "nginx": "#009E73", "haproxy": "#0072B2",
    "envoy": "#CC79A7", "traefik": "#56B4E9", "caddy": "#F0E442", "aiohttp": "#999999",
}  # fmt: skip
LABELS = {
    "tiny": "tiny\nGET", "headers": "12\nheaders", "10k": "10 KB\nreply", "1m": "1 MB reply,\nlength",
    "1m-chunked": "1 MB reply,\nchunked", "upload": "1 MB upload,\nlength",
    "upload-chunked": "1 MB upload,\nchunked",
    "half": "12 headers,\n50 % load", "third": "12 headers,\n30 % load",
}  # fmt: skip
GROUP_WIDTH = 0.86


def draw(results: Results, path: Path) -> None:
    """Write a PNG; what was not measured is left out."""
    names = [name for name in results.versions if not proxies.BY_NAME[name].variant]
    figure = Figure(figsize=(13, 8.6), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(1.25, 1))
    _cpu(figure.add_subplot(grid[0, :]), results, names)
    p99, idle, stalled = (figure.add_subplot(grid[1, column]) for column in range(3))
    _bars(
        p99,
        names,
        lambda name: results.median("half", name, "p99_ms"),
        "p99 at 50 % of saturation, ms",
        ".2f",
    )
    _bars(idle, names, lambda name: _per(results.idle_bytes(name)), "idle connection, KiB", ".1f")
    _bars(
        stalled,
        names,
        lambda name: _per(results.stalled_bytes(name)),
        "stalled reader, KiB with kernel",
        ".0f",
    )
    figure.savefig(path, dpi=120)


def _per(value: float | None) -> float | None:
    return None if value is None else value / KIB


def _mark(name: str, bars: BarContainer) -> None:
    if name in SUBJECTS:
        for bar in bars:
            bar.set(edgecolor="black", linewidth=1.2)


def _cpu(axes: Axes, results: Results, names: list[str]) -> None:
    """Grouped bars on a log scale: rows are up to a hundred times apart, and equal ratios look equal."""
    rows = [row.name for row in ROWS if any((row.name, name) in results.samples for name in names)]
    width = GROUP_WIDTH / max(len(names), 1)
    for place, name in enumerate(names):
        offset = (place - (len(names) - 1) / 2) * width
        values = [results.median(row, name, "cpu_us") or 0.0 for row in rows]
        bars = axes.bar(
            [index + offset for index in range(len(rows))], values, width * 0.94,
            label=f"{name} {results.versions[name]}", color=COLOURS[name],
        )  # fmt: skip
        _mark(name, bars)
        axes.bar_label(bars, [f"{v:.0f}" if v else "" for v in values], fontsize=7, rotation=90, padding=2)
    axes.set_yscale("log")
    axes.margins(x=0.01, y=0.12)
    axes.set_xticks(range(len(rows)), [LABELS.get(row, BY_NAME[row].title) for row in rows])
    axes.set_ylabel("CPU µs per request (log)")
    axes.set_title("CPU time per request on one core, equal duties (less is better)", loc="left")
    axes.legend(
        ncols=len(names) or 1, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=8
    )
    plain(axes)


def _bars(axes: Axes, names: list[str], figure: Callable[[str], float | None], title: str, form: str) -> None:
    """One figure, one bar for each proxy, the subject on top."""
    for place, name in enumerate(names):
        value = figure(name)
        bar = axes.barh(place, value or 0.0, color=COLOURS[name])
        _mark(name, bar)
        axes.bar_label(bar, ["not measured" if value is None else format(value, form)], fontsize=8, padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.set_title(title, loc="left", fontsize=10)
    plain(axes)


def plain(axes: Axes) -> None:
    """Without the lines at its top and right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
