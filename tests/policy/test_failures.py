"""Which endings say something against an endpoint, and what."""

import pytest

from proxy.errors import Reason
from proxy.policy.failures import (
    FailureKind,
    RetryOn,
    kind_of_reason,
    kind_of_status,
    retry_after_s,
    retry_on,
)


@pytest.mark.parametrize(
    ("status", "has_retry_after", "kind"),
    [
        (200, True, None),
        (404, False, None),
        (429, False, None),
        (429, True, FailureKind.RATE_LIMITED),
        (499, True, None),
        (500, False, FailureKind.STATUS),
        (501, False, None),
        (503, True, FailureKind.STATUS),
        (505, False, None),
        (599, False, FailureKind.STATUS),
    ],
)
def test_statuses(status, has_retry_after, kind):
    assert kind_of_status(status, has_retry_after=has_retry_after) is kind


def test_reasons():
    assert kind_of_reason(Reason.CONNECT_TIMEOUT) is FailureKind.CONNECT
    assert kind_of_reason(Reason.RESPONSE_TIMEOUT) is FailureKind.TIMEOUT
    assert kind_of_reason(Reason.UPSTREAM_CLOSED) is FailureKind.CLOSED
    for reason in (
        Reason.CLIENT_GONE,
        Reason.BAD_REQUEST,
        Reason.NO_ENDPOINT,
        Reason.TOTAL_TIMEOUT,
        Reason.INTERNAL,
    ):
        assert kind_of_reason(reason) is None


def test_all_that_is_the_endpoints_fault_has_a_kind():
    """502 and 504 are given for endpoints alone; the total time is the client's and the endpoint's together."""
    fault = {reason for reason in Reason if reason.status in (502, 504)} - {Reason.TOTAL_TIMEOUT}
    assert {reason for reason in Reason if kind_of_reason(reason)} == fault


def test_words():
    assert retry_on(["connect_failure", "reset", 502, 503, 504]) == RetryOn()
    assert retry_on([]) == RetryOn(frozenset(), frozenset())
    assert retry_on(["timeout", 429]) == RetryOn(frozenset({FailureKind.TIMEOUT}), frozenset({429}))


@pytest.mark.parametrize("word", ["rest", 200, 600, "502", True])
def test_words_that_mean_nothing(word):
    with pytest.raises(
        ValueError, match="neither a status from 400 to 599 nor one of connect_failure, reset"
    ):
        retry_on([word])


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"retry-after: 7", 7),
        (b"retry-after:\t120 ", 120),
        (b"retry-after: 86400", 300),
        (b"retry-after: 99999999999999", 0),
        (b"retry-after: -1", 0),
        (b"retry-after: wed, 21 oct 2026 07:28:00 gmt", 0),
        (b"x-retry-after: 7", 0),
    ],
)
def test_how_long_it_asks_to_be_left_alone(field, expected):
    assert retry_after_s(b"http/1.1 429 slow down\r\n" + field + b"\r\nage: 1\r\n\r\n") == expected
