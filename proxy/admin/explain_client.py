"""`homeport explain`: asks a running daemon where a request would go, and shows why.

Two tables: what the request would meet at each endpoint, and what is known of them. What is not known is a dash.
"""

import sys
from collections.abc import Sequence
from typing import Any, TextIO
from urllib.parse import urlencode

from rich.console import Console, Group
from rich.text import Text

from proxy.admin.client import AdminAddress, document_text, exit_code, fetch
from proxy.admin.render import latency_text, plain_table, rich_table, size

Document = dict[str, Any]

SCORE_COLUMNS = (
    "", "ENDPOINT", "HOLDS", "IN FLIGHT", "WAIT", "TRANSFER", "CROWDING", "EVICTION", "SERVICE", "SUCCESS", "PENALTY",
    "SCORE",
)  # fmt: skip
KNOWN_COLUMNS = ("", "ENDPOINT", "STANDING", "SLOTS", "SERVICE", "BANDWIDTH", "CACHE", "HELD", "KEYS")
LOAD_COLUMNS = ("", "ENDPOINT", "STANDING", "WEIGHT", "IN FLIGHT", "PER WEIGHT", "ON RING")
# The first columns are words.
_WORDS = 3

_Section = tuple[Sequence[str], list[Sequence[str]], int]


def ask_explain(
    admin: str,
    token: str | None,
    as_json: bool,
    asked: Sequence[tuple[str, str]],
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Ask the daemon at `admin` with the parameters `asked`, and print what it says; returns the exit code, 0 or 1."""
    out, err = out or sys.stdout, err or sys.stderr

    def ask(address: AdminAddress) -> int:
        query = urlencode(asked, errors="surrogateescape")
        answer = fetch(address, f"/api/v1/explain?{query}", token)
        if as_json:
            text = document_text(answer)
        else:
            text = _tables(answer, out) if out.isatty() else _plain(answer)
        out.write(text)
        return 0

    return exit_code(ask, admin, err)


def _tables(answer: Document, out: TextIO) -> str:
    console = Console(file=out)
    first, *rest = headlines(answer)
    tables = [rich_table(*section) for section in sections(answer)]
    notes = (Text(line) for line in trouble_lines(answer))
    with console.capture() as capture:
        console.print(
            Group(Text(first, style="bold"), *(Text(line) for line in rest), *tables, *notes), soft_wrap=False
        )
    return capture.get()


def _plain(answer: Document) -> str:
    lines = headlines(answer)
    for section in sections(answer):
        lines += ["", *plain_table(*section)]
    notes = trouble_lines(answer)
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def headlines(answer: Document) -> list[str]:
    """The choice and its reason, the shadow's choice, whose requests it is about if several routes lead there, what is
    known of the data, and what predictions are worth."""
    winner = answer["winner"]
    goes = f"{answer['cluster']}: {winner}" if winner is not None else answer["cluster"]
    lines = [f"{goes}: {answer['reason']['text']}"]
    if answer["shadow"] is not None:
        choice = answer["shadow"]["winner"] or "whom turns or chance decide"
        lines.append(f"its shadow {answer['shadow']['balancer']} would choose {choice}")
    if answer["other_routes"]:
        others = ", ".join(answer["other_routes"])
        lines.append(f"for requests of route {answer['route']}; other routes that know of data: {others}")
    if answer["predictions"] is None:
        return lines
    lines.append(f"by {answer['goes_by']}, as worker {answer['worker']} sees it")
    for key in answer["data_keys"]:
        given = "given" if key["size_given"] else "learned"
        known = f"{size(key['size_bytes'])}, {given}" if key["size_bytes"] else "size unknown"
        lines.append(f"{key['key']}: {known}, {_holders(key['holder_count'])}")
    told = answer["predictions"]
    if told["judged_total"]:
        errors = f"{latency_text(told['error_s'])}, without data by {latency_text(told['plain_error_s'])}"
        lines.append(f"predictions are off by {errors}" + ("" if told["trusted"] else ": data are left out"))
    return lines


def _holders(count: int) -> str:
    return {0: "nobody holds it", 1: "1 endpoint holds it"}.get(count, f"{count} endpoints hold it")


def sections(answer: Document) -> list[_Section]:
    """The tables: columns, rows, and how many of the columns are words."""
    candidates = answer["candidates"]
    if answer["predictions"] is None:
        return [(LOAD_COLUMNS, [_load_row(each) for each in candidates], _WORDS)]
    scores = [_score_row(each, answer) for each in candidates]
    known = [_known_row(each, answer) for each in candidates]
    return [(SCORE_COLUMNS, scores, _WORDS), (KNOWN_COLUMNS, known, _WORDS)]


def trouble_lines(answer: Document) -> list[str]:
    """A line for each endpoint that may not have the request, or only a part of what is sent."""
    lines = [
        f"{each['id']} {'is ' + each['standing'] + ': ' if each['standing'] != 'ready' else ''}{each['why']}"
        for each in answer["candidates"]
        if each["why"] is not None
    ]
    if answer["left_out_candidates"]:
        lines.append(f"{answer['left_out_candidates']} more endpoints are not shown")
    return lines


def _mark(candidate: Document, answer: Document) -> str:
    if candidate["id"] == answer["winner"]:
        return ">"
    return "" if candidate["usable"] else "x"


def _name(candidate: Document) -> str:
    name, address = candidate["name"], candidate["address"]
    return str(address) if name == address else f"{name} ({address})"


def _score_row(candidate: Document, answer: Document) -> Sequence[str]:
    held, asked = len(candidate["holds"]), len(answer["data_keys"])
    holds = "-" if not held else "yes" if held == asked else f"{held} of {asked}"
    return (
        _mark(candidate, answer),
        _name(candidate),
        holds,
        str(candidate["in_flight"]),
        *(
            latency_text(candidate[name] or None)
            for name in ("wait_s", "transfer_s", "crowding_s", "eviction_s", "service_s")
        ),
        f"{100 * candidate['success']:.0f} %",
        latency_text(candidate["penalty_s"] or None),
        "overload" if candidate["overloaded"] else latency_text(candidate["score_s"]),
    )


def _known_row(candidate: Document, answer: Document) -> Sequence[str]:
    learned = candidate["learned"]
    bandwidth, cache = learned["bandwidth_bytes_per_s"], learned["cache_bytes"]
    return (
        _mark(candidate, answer),
        _name(candidate),
        candidate["standing"],
        str(learned["slots"]),
        latency_text(learned["service_s"]),
        f"{size(bandwidth)}/s" if bandwidth else "-",
        size(cache) if cache else "-",
        size(learned["held_bytes"]),
        str(learned["held_keys"]),
    )


def _load_row(candidate: Document) -> Sequence[str]:
    rank = candidate["ring_rank"]
    return (
        "" if candidate["usable"] else "x",
        _name(candidate),
        candidate["standing"],
        str(candidate["weight"]),
        str(candidate["in_flight"]),
        f"{candidate['in_flight_per_weight']:g}",
        str(rank) if rank else "-",
    )
