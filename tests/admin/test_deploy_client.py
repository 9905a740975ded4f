"""What `homeport deploy` shows of a deployment, on a terminal and in a pipe."""

import io

import pytest

from proxy.admin import deploy_client
from proxy.admin.client import AdminRefused
from proxy.admin.deploy_client import watch_deploy
from proxy.clock import SystemClock

DONE = ("none", 2, 0)


def document(stage, new, old, watched_for_s=None, reason=None):
    phases = [("v2", "serving")] * new + [("v1", "serving")] * old + [("v2", "starting")]
    return {
        "scaler": {
            "desired": 2,
            "instances": [{"version": version, "phase": phase} for version, phase in phases],
            "deploy": {
                "stage": stage, "version": "v2", "old": old, "watched_for_s": watched_for_s, "reason": reason,
            },
        }
    }  # fmt: skip


class Clock(SystemClock):
    async def sleep(self, seconds):
        pass


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def watch(monkeypatch):
    """Watch a daemon that answers in turn; what was asked, the exit code, and what was printed."""

    def watch(*answers, out=None, **more):
        asked, left = (
            [],
            [each if isinstance(each, Exception | dict) else document(*each) for each in answers],
        )

        def fetch(address, path, token, *, is_asking=False):
            asked.append(("POST " if is_asking else "") + path)
            if is_asking:
                return {}
            if isinstance(left[0], Exception):
                raise left[0]
            return left.pop(0)

        monkeypatch.setattr(deploy_client, "fetch", fetch)
        out, err = out or io.StringIO(), io.StringIO()
        more = {"is_retried": False, "as_json": False, **more}
        as_json = more.pop("as_json")
        code = watch_deploy(
            "http://127.0.0.1:1", None, as_json, "e/l", clock=Clock(), out=out, err=err, **more
        )
        return asked, code, out.getvalue(), err.getvalue()

    return watch


def test_a_line_for_each_change(watch):
    steps = [
        ("starting", 0, 2),
        ("starting", 0, 2),
        ("baking", 1, 2, 9.2),
        ("baking", 1, 2, 8.7),
        ("rolling", 1, 1),
    ]
    asked, code, out, _ = watch(*steps, DONE)
    assert code == 0 and set(asked) == {"/api/v1/clusters/e%2Fl"}
    assert out.splitlines() == [
        "e/l: starting: 0 of version v2 serve, 2 of others are left",
        "e/l: baking: 1 of version v2 serves, 2 of others are left; watched for 10 s more",
        "e/l: rolling: 1 of version v2 serves, 1 of others are left",
        "e/l: 2 of 2 serve, all of version v2",
    ]


def test_one_that_is_called_off(watch):
    _, code, out, _ = watch(("halted", 0, 2, None, "they fail"))
    assert code == 1
    assert out == "e/l: called off: they fail; 0 of version v2 serve, 2 of others are left\n"


def test_once_more(watch):
    asked, code, *_ = watch(DONE, is_retried=True)
    assert asked == ["POST /api/v1/clusters/e%2Fl/deploy/retry", "/api/v1/clusters/e%2Fl"] and code == 0


def test_on_a_terminal(watch):
    _, code, out, _ = watch(("baking", 1, 2, 9.0), DONE, out=Terminal())
    assert code == 0 and "watched for 9 s more" in out and "all of version v2" in out


def test_for_programs(watch):
    _, _, out, _ = watch(DONE, as_json=True)
    assert out == '{"stage":"none","version":"v2","old":0,"watched_for_s":null,"reason":null}\n'


def test_what_went_wrong(watch):
    assert watch(AdminRefused("x", "404", "there is no cluster of that name"))[1:] == (
        1, "", "homeport: there is no cluster of that name\n",
    )  # fmt: skip
    assert "only clusters with a scaler" in watch({"scaler": None})[3]
    assert "another version" in watch({})[3]
