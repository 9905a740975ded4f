"""Medians, ratios and verdicts, with numbers computed by hand; the reports hold them."""

import io

import orjson
import pytest
from rich.console import Console

from loadtests.peers import __main__ as command
from loadtests.peers import report
from loadtests.peers.load import Sample
from loadtests.peers.memory import Held
from loadtests.peers.results import RATIOS, Results, ratio, spread, verdicts


def sample(cpu_us: float, p99_ms: float = 1.0, problems: tuple[str, ...] = ()) -> Sample:
    return Sample(cpu_us, 1e6 / cpu_us, 0.5, p99_ms, 50 << 20, 0.25, problems)


@pytest.fixture
def results() -> Results:
    made = Results(
        versions={"homeport": "1.0.0", "haproxy": "2.6.12", "envoy": "1.40.0", "nginx-bare": "1.22.1"}
    )
    for cpu_us in (60.0, 90.0, 66.0):
        made.add("headers", "homeport", sample(cpu_us))
    made.add("headers", "homeport", sample(1.0, problems=("3 × status error",)))
    made.add("headers", "homeport-2w", sample(99.0))
    made.add("headers", "haproxy", sample(40.0))
    made.add("handshakes", "homeport", sample(2000.0))
    made.add("handshakes", "haproxy", sample(900.0))
    made.add("headers", "envoy", sample(120.0))
    made.add("headers", "nginx-bare", sample(30.0))
    made.add("half", "homeport", sample(70.0, p99_ms=3.0))
    made.add("half", "haproxy", sample(45.0, p99_ms=1.0))
    made.idle["homeport"] = Held(1000, 4096 * 1000, 0)
    made.stalled["homeport"] = Held(500, 64 * 1024 * 500, 192 * 1024 * 500)
    made.missing_duties["envoy"] = ["forwarded"]
    return made


def test_the_median_leaves_invalid_rounds_out(results):
    assert results.median("headers", "homeport", "cpu_us") == 66.0
    assert results.median("1m", "homeport", "cpu_us") is None
    assert results.problems() == ["GET with 12 headers, homeport, round 4: 3 × status error"]


def test_ratio_and_spread(results):
    assert ratio(results, "headers", "cpu_us", "homeport", "haproxy") == pytest.approx(1.65)
    assert ratio(results, "1m", "cpu_us", "homeport", "haproxy") is None
    assert spread(results.samples["headers", "homeport"], "cpu_us") == pytest.approx(1.5)


def test_verdicts(results):
    found = {each.target: each for each in verdicts(results)}
    assert len(found) == len(RATIOS) + 3
    met = {target: each.is_met for target, each in found.items() if each.is_met is not None}
    assert met == {
        "GET with 12 headers: CPU ≤ 1.8 × haproxy": True,
        "GET with 12 headers: CPU ≤ 1.5 × haproxy (stretch)": False,
        "GET with 12 headers: CPU ≤ 0.5 × envoy": False,
        "12 headers at 50 % of saturation: p99 ≤ 2.0 × haproxy": False,
        "TLS 1.3, a handshake for each request: requests/s ≥ 0.5 × haproxy": False,
        "GET with 12 headers: CPU of two workers on a core ≤ 1.1 × one": False,
        "idle connection: ≤ 5 KiB": True,
        "5000 stalled readers: ≤ 1.5 GiB": True,
    }
    # 256 KiB each, 5000 of them
    assert found["5000 stalled readers: ≤ 1.5 GiB"].value == pytest.approx(1.2207, abs=1e-4)


def test_the_reports_hold_the_figures(results, tmp_path):
    console = Console(file=io.StringIO(), width=160)
    report.show(results, console)
    shown = console.file.getvalue()
    assert "66.0" in shown and "1.65" in shown and "round 4: 3 × status error" in shown
    assert "other programs had 25%" in shown
    assert "envoy does not make forwarded" in shown

    report.write_markdown(results, tmp_path / "table.md")
    assert "| GET with 12 headers" in (tmp_path / "table.md").read_text()

    report.write_json(results, command.settings(command.parse(["--quick"])), tmp_path / "all.json")
    document = orjson.loads((tmp_path / "all.json").read_bytes())
    assert document["rows"][0]["median"]["cpu_us"] == 66.0
    assert document["idle"]["homeport"]["connections"] == 1000


def test_the_picture_is_drawn(results, tmp_path):
    picture = pytest.importorskip("loadtests.peers.picture", reason="matplotlib is not installed")
    picture.draw(results, tmp_path / "all.png")
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_quick_is_one_short_round():
    quick = command.settings(command.parse(["--quick", "--rows", "tiny", "--peers", "nginx", "haproxy"]))
    assert (quick.rounds, quick.seconds, quick.idle, quick.stalled) == (1, 1.0, 1000, 500)
    assert [row.name for row in quick.rows] == ["tiny"]
    assert [proxy.name for proxy in quick.proxies] == ["nginx", "haproxy"]
