"""The figures as a picture: p99, mean and hit ratio of every proxy in every scenario, at each load."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from loadtests.locality.results import ORACLE, Cell, Results
from loadtests.peers.picture import plain

matplotlib.use("Agg")

# Okabe and Ito's palette, as in the comparison of costs: a program has a hue, its ways to balance have shades.
COLOURS = {
    "homeport": "#D55E00", "homeport-told": "#F4A26B", "homeport-hash": "#8C3D00",
    "haproxy-hash": "#0072B2", "haproxy-leastconn": "#9CCBE8",
    "envoy-ring": "#CC79A7", "envoy-maglev": "#8F4A72", "envoy-least": "#EBCBDD",
}  # fmt: skip
FIGURES = (
    ("p99_s", "s (log)", "p99 from when a request was due, median and range of the seeds (less is better)"),
    ("mean_s", "s (log)", "mean (less is better)"),
    ("hit_ratio", "hit ratio", "requests that found their data (more is better)"),
)
GROUP_WIDTH = 0.8


def draw(results: Results, path: Path) -> None:
    """Write a PNG; what was not measured is left out."""
    shares = sorted({cell.share for cell in results.runs})
    figure = Figure(figsize=(7.5 * max(len(shares), 1), 11), layout="constrained")
    grid = figure.subplots(len(FIGURES), len(shares), squeeze=False, sharey="row")
    for column, share in enumerate(shares):
        cells = [cell for cell in results.runs if cell.share == share]
        for row, (key, label, title) in enumerate(FIGURES):
            axes = grid[row][column]
            _points(axes, results, cells, key)
            load = f"At {share:g} of the rate that the best other bears\n"
            axes.set_title(title if row else load + title, loc="left", fontsize=9)
            axes.set_ylabel("" if column else label)
    handles, labels = grid[0][0].get_legend_handles_labels()
    columns = 3 * max(len(shares), 1)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, dpi=110)


def _points(axes: Axes, results: Results, cells: Sequence[Cell], key: str) -> None:
    """A group of points for each scenario, with whiskers over the seeds, and a line where the oracle is. Not bars:
    those have no foot on a logarithmic axis."""
    names = list(results.versions)
    for place, name in enumerate(names):
        at, heights, down, up = [], [], [], []
        for index, cell in enumerate(cells):
            values = [value for value in results.values(cell, name, key) if isfinite(value)]
            middle = results.median(cell, name, key)
            if middle is None or not isfinite(middle):
                continue
            at.append(index + ((place + 0.5) / len(names) - 0.5) * GROUP_WIDTH)
            heights.append(middle)
            down.append(middle - min(values))
            up.append(max(values) - middle)
        axes.errorbar(at, heights, (down, up), fmt="o", markersize=6, elinewidth=1.5, label=name,
                      color=COLOURS[name])  # fmt: skip
    for index, cell in enumerate(cells):
        if (value := results.median(cell, ORACLE, key)) is not None:
            label = "knows everything (simulated)" if not index else "_"
            axes.hlines(
                value, index - 0.45, index + 0.45, colors="black", linestyles="--", linewidth=1, label=label
            )
        if index:
            axes.axvline(index - 0.5, color="#DDDDDD", linewidth=0.8)
    if key == "hit_ratio":
        axes.set_ylim(0, 1)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.5, len(cells) - 0.5)
    axes.set_xticks(range(len(cells)), [cell.scenario for cell in cells])
    plain(axes)
