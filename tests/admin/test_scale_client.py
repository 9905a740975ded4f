"""What `homeport scale` asks for and shows."""

import io

import pytest

from proxy.admin import scale_client
from proxy.admin.client import AdminRefused
from proxy.admin.scale_client import ask_scale

ANSWER = {
    "desired": 5, "serving": 3, "starting": 2, "going": 0, "dry_run": False, "reason": "set to 5 by hand",
    "deploy": {"stage": "none"},
}  # fmt: skip


@pytest.fixture
def ask(monkeypatch):
    """Ask with `answer` for an answer; what was asked, the exit code, and what was printed."""

    def ask(answer, count=5, as_json=False, cluster="etl"):
        asked = []

        def fetch(address, path, token, *, is_asking):
            asked.append((path, token, is_asking))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(scale_client, "fetch", fetch)
        out, err = io.StringIO(), io.StringIO()
        code = ask_scale("http://127.0.0.1:1", "secret", as_json, cluster, count, out=out, err=err)
        return asked, code, out.getvalue(), err.getvalue()

    return ask


def test_by_hand(ask):
    asked, code, out, err = ask(ANSWER, cluster="a/b")
    assert asked == [("/api/v1/clusters/a%2Fb/scale?instances=5", "secret", True)]
    assert (code, err) == (0, "")
    assert out == "a/b: 3 of 5 instances serve, 2 start; set to 5 by hand\n"


def test_by_the_load(ask):
    reply = ANSWER | {
        "desired": 1,
        "serving": 1,
        "starting": 0,
        "going": 1,
        "dry_run": True,
        "reason": "so it is",
    }
    asked, code, out, _ = ask(reply, None)
    assert asked[0][0].endswith("?mode=auto") and code == 0
    assert out == "etl: dry run: 1 of 1 instance serves, 1 go; so it is\n"


def test_for_programs(ask):
    assert ask({"desired": 5}, as_json=True)[2] == '{"desired":5}\n'


def test_what_went_wrong(ask):
    refused = AdminRefused("http://127.0.0.1:1", "status 404", "cluster 'etl' has no scaler")
    assert ask(refused)[1:] == (1, "", "homeport: cluster 'etl' has no scaler\n")
    _, code, out, err = ask({})
    assert (code, out) == (1, "") and "answers as another version would" in err
