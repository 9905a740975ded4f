"""What the benchmarks write beside what they show: tables for a document, and the machine that figures are from."""

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

WIDTH = 400
"""Columns: enough that no cell of a Markdown table is broken into lines."""


def machine() -> dict[str, object]:
    """What a reader of figures must know of where they were measured."""
    return {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}


def write_markdown(tables: Iterable[Table], notes: Iterable[str], path: Path) -> None:
    """`tables`, whose boxes are Markdown's, each under its title, and `notes` as a list."""
    with path.open("w") as file:
        console = Console(file=file, width=WIDTH, no_color=True)
        for table in tables:
            table.expand = False
            title, table.title = table.title, None
            console.print(f"### {title}\n", markup=False)
            console.print(table)
            console.print()
        for note in notes:
            console.print(f"- {note}", markup=False)


def show(tables: Iterable[Table], notes: Iterable[str], console: Console) -> None:
    """Print all of it."""
    for table in tables:
        console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)
