"""What `homeport explain` shows of an answer, on a terminal and in a pipe."""

import io
import re

import pytest

from proxy.admin import explain_client
from proxy.admin.client import AdminRefused
from proxy.admin.explain_client import ask_explain


def candidate(number, **more):
    learned = {
        "slots": 4,
        "service_s": 0.02,
        "bandwidth_bytes_per_s": 104857600,
        "cache_bytes": None,
        "held_bytes": 5242880,
        "held_keys": 3,
    }
    return {
        "id": f"etl/10.0.0.{number}:9000",
        "name": f"query-{number}",
        "address": f"10.0.0.{number}:9000",
        "usable": True,
        "standing": "ready",
        "why": None,
        "holds": [],
        "overloaded": False,
        "in_flight": number,
        "score_s": 0.02 * number,
        "wait_s": 0.0,
        "transfer_s": 0.0,
        "crowding_s": 0.0,
        "eviction_s": 0.0,
        "service_s": 0.02,
        "success": 1.0,
        "penalty_s": 0.0,
        "learned": learned,
        **more,
    }


ANSWER = {
    "cluster": "etl",
    "balancer": "data_locality_aware",
    "goes_by": "the least time",
    "shadow": None,
    "route": "queries",
    "other_routes": [],
    "winner": "etl/10.0.0.1:9000",
    "reason": {"code": "holder", "text": "holds the data; the next best would take 0.21 s to fetch it"},
    "worker": 1,
    "data_keys": [
        {"key": "[b]a", "known": True, "size_bytes": 22020096, "size_given": False, "holder_count": 1},
        {"key": "b", "known": False, "size_bytes": None, "size_given": False, "holder_count": 0},
    ],
    "predictions": {"trusted": False, "error_s": 0.3, "plain_error_s": 0.1, "judged_total": 7},
    "candidates": [
        candidate(1, holds=["[b]a"]),
        candidate(2, transfer_s=0.21, success=0.7, penalty_s=1.5, overloaded=True),
        candidate(3, usable=False, standing="drained", why="by an operator"),
        candidate(4, usable=False, why="has no tag gpu"),
    ],
    "left_out_candidates": 2,
}
LOADS = {
    **ANSWER,
    "winner": None,
    "reason": {"code": None, "text": "the balancer takes turns"},
    "predictions": None,
    "left_out_candidates": 0,
    "candidates": [
        {
            "id": "etl/a:1",
            "name": "a:1",
            "address": "a:1",
            "weight": 2,
            "usable": True,
            "standing": "ready",
            "why": None,
            "ring_rank": 1,
            "in_flight": 3,
            "in_flight_per_weight": 1.5,
        }
    ],
}
PLAIN = """\
etl: etl/10.0.0.1:9000: holds the data; the next best would take 0.21 s to fetch it
by the least time, as worker 1 sees it
[b]a: 21.0 MiB, learned, 1 endpoint holds it
b: size unknown, nobody holds it
predictions are off by 300ms, without data by 100ms: data are left out

   ENDPOINT                 HOLDS   IN FLIGHT  WAIT  TRANSFER  CROWDING  EVICTION  SERVICE  SUCCESS  PENALTY     SCORE
>  query-1 (10.0.0.1:9000)  1 of 2          1     -         -         -         -     20ms    100 %        -      20ms
   query-2 (10.0.0.2:9000)  -               2     -     210ms         -         -     20ms     70 %     1.5s  overload
x  query-3 (10.0.0.3:9000)  -               3     -         -         -         -     20ms    100 %        -      60ms
x  query-4 (10.0.0.4:9000)  -               4     -         -         -         -     20ms    100 %        -      80ms

   ENDPOINT                 STANDING  SLOTS  SERVICE    BANDWIDTH  CACHE     HELD  KEYS
>  query-1 (10.0.0.1:9000)  ready         4     20ms  100.0 MiB/s      -  5.0 MiB     3
   query-2 (10.0.0.2:9000)  ready         4     20ms  100.0 MiB/s      -  5.0 MiB     3
x  query-3 (10.0.0.3:9000)  drained       4     20ms  100.0 MiB/s      -  5.0 MiB     3
x  query-4 (10.0.0.4:9000)  ready         4     20ms  100.0 MiB/s      -  5.0 MiB     3

etl/10.0.0.3:9000 is drained: by an operator
etl/10.0.0.4:9000 has no tag gpu
2 more endpoints are not shown
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def ask(monkeypatch):
    """Asks a daemon that answers `answer`; gives the exit code and both outputs."""

    def ask(answer, out=None, as_json=False, asked=(("cluster", "etl"),)):
        seen = []

        def fetch(address, path, token):
            seen.append(path)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(explain_client, "fetch", fetch)
        out, err = out or io.StringIO(), io.StringIO()
        code = ask_explain("http://127.0.0.1:1", None, as_json, asked, out, err)
        return code, out.getvalue(), err.getvalue(), seen

    return ask


def test_routes_are_named_if_there_are_several(ask):
    _, out, _, _ = ask({**ANSWER, "other_routes": ["loads", "exports"]})
    assert (
        out.splitlines()[1] == "for requests of route queries; other routes that know of data: loads, exports"
    )


def test_the_shadow(ask):
    for winner, choice in (("etl/10.0.0.2:9000", "etl/10.0.0.2:9000"), (None, "whom turns or chance decide")):
        shadow = {"balancer": "least_connections", "winner": winner}
        _, out, _, _ = ask({**ANSWER, "shadow": shadow})
        assert out.splitlines()[1] == f"its shadow least_connections would choose {choice}"


def test_in_a_pipe(ask):
    code, out, err, seen = ask(ANSWER, asked=[("cluster", "etl"), ("data_key", "a/b c"), ("data_key", "é")])
    assert (code, out, err) == (0, PLAIN, "")
    assert seen == ["/api/v1/explain?cluster=etl&data_key=a%2Fb+c&data_key=%C3%A9"]


def test_on_a_terminal(ask, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _, _ = ask(ANSWER, Terminal())
    assert code == 0 and "holds the data" in out and "[b]a" in out and "overload" in out and "─" in out
    narrow = Terminal()
    monkeypatch.setenv("COLUMNS", "80")
    assert ask(ANSWER, narrow)[0] == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", narrow.getvalue()).splitlines()
    assert max(len(line) for line in lines) <= 80


def test_loads(ask):
    assert ask(LOADS)[1].splitlines() == [
        "etl: the balancer takes turns",
        "",
        "  ENDPOINT  STANDING  WEIGHT  IN FLIGHT  PER WEIGHT  ON RING",
        "  a:1       ready          2          3         1.5        1",
    ]


def test_json_refusals_and_other_versions(ask):
    assert ask(ANSWER, as_json=True)[1].startswith('{\n  "cluster": "etl"')
    refused = AdminRefused("http://x", "it refuses with status 504", "no worker serves")
    assert ask(refused)[::2] == (1, "homeport: no worker serves\n")
    code, _, err, _ = ask({"cluster": "etl"})
    assert code == 1 and "answers as another version would" in err
