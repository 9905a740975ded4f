"""Scalars: what each parser takes, what it makes of it, and what it says to the rest."""

import pytest

from proxy.config import addresses, http_values, values
from proxy.config.addresses import NamedAddress
from proxy.config.faults import BadValue
from proxy.config.values import Plain, duration_text, parse_duration
from proxy.model import TcpAddress, UnixAddress


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        ("0", 0.0),
        ("0s", 0.0),
    ],
)
def test_durations(text, seconds):
    assert values.parse_duration(Plain(text)) == seconds
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value, problem",
    [
        ("5", "has no unit"),
        (5, "has no unit"),
        ("1.5", "has no unit"),
        ("-1s", "is not a duration"),
        ("5 s", "is not a duration"),
        ("5S", "is not a duration"),
        ("1m30s", "is not a duration"),
        ("12:30", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("٣s", "is not a duration"),
        ("5s\n", "is not a duration"),
        ("", "is not a duration"),
        ("999999h", "is too long"),
        ("9" * 5000 + "s", "is not a duration"),
        (None, "is empty"),
        (True, "is of the wrong type"),
        (["5s"], "is of the wrong type"),
    ],
)
def test_bad_durations(value, problem):
    with pytest.raises(BadValue) as caught:
        values.parse_duration(value)
    assert caught.value.problem == problem


@pytest.mark.parametrize(
    "value, size",
    [
        ("64KiB", 65536),
        ("1MiB", 1048576),
        ("2GiB", 2147483648),
        ("10MB", 10_000_000),
        ("512B", 512),
        ("512", 512),
        (512, 512),
        ("0", 0),
    ],
)
def test_sizes(value, size):
    assert values.parse_size(value) == size


@pytest.mark.parametrize(
    "value", ["64kib", "1.5MiB", "-1", "1 MiB", "KiB", "1_000", "0x10", None, True, {}, "9PiB"]
)
def test_bad_sizes(value):
    with pytest.raises(BadValue):
        values.parse_size(value)


def test_a_size_out_of_range_names_the_range():
    with pytest.raises(BadValue, match="is out of range, expected 256B to 1MiB"):
        values.parse_size("2MiB", low=256, high=1024 * 1024)


@pytest.mark.parametrize(
    "value, integer", [(Plain("5"), 5), (5, 5), (Plain("0"), 0)], ids=["plain", "int", "zero"]
)
def test_integers(value, integer):
    assert values.parse_integer(value, 0, 10) == integer


@pytest.mark.parametrize(
    "value", ["5", Plain("05"), Plain("1e1"), Plain("0x5"), Plain("5.0"), Plain("1_0"), True, 11]
)
def test_bad_integers(value):
    with pytest.raises(BadValue):
        values.parse_integer(value, 0, 10)


def test_booleans_are_true_and_false_alone():
    assert values.parse_boolean(Plain("true")) is True
    assert values.parse_boolean(Plain("False")) is False
    for value in (Plain("yes"), Plain("on"), "true", Plain("1"), 1, None):
        with pytest.raises(BadValue):
            values.parse_boolean(value)


@pytest.mark.parametrize(
    "text, address",
    [
        ("query-1:9000", NamedAddress("query-1", 9000)),
        ("My_Service:80", NamedAddress("my_service", 80)),
        ("example.com.:80", NamedAddress("example.com", 80)),
        ("10.0.0.1:9000", TcpAddress("10.0.0.1", 9000)),
        ("[::1]:9000", TcpAddress("::1", 9000)),
        ("[2001:DB8:0::1]:65535", TcpAddress("2001:db8::1", 65535)),
        ("unix:/run/query.sock", UnixAddress("/run/query.sock")),
    ],
)
def test_addresses(text, address):
    assert addresses.parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "query-1",
        ":80",
        "query-1:",
        "query-1:0",
        "query-1:65536",
        "query-1:http",
        "query-1:+80",
        "::1:80",
        "[::1]",
        "[::1",
        "[10.0.0.1]:80",
        "[fe80::1%eth0]:80",
        "127.1:80",
        "256.1.1.1:80",
        "1.2.3.4.:80",
        "0x7f.1:80",
        "http://query-1:80",
        "query 1:80",
        "-query:80",
        "a..b:80",
        "müller:80",
        "\u212aelvin:80",
        f"{'a' * 64}:80",
        "unix:",
        "unix:relative",
        "unix:/",
        "unix:/a\0b",
        "unix:/" + "x" * 107,
    ],
)
def test_bad_addresses(text):
    with pytest.raises(BadValue):
        addresses.parse_address(text)


def test_binds_are_numeric():
    assert addresses.parse_bind("0.0.0.0:0") == TcpAddress("0.0.0.0", 0)
    assert addresses.parse_bind("unix:/run/a.sock") == UnixAddress("/run/a.sock")
    with pytest.raises(BadValue, match="is a name, not an address"):
        addresses.parse_bind("localhost:80")
    with pytest.raises(
        BadValue, match=r"has no host, expected .*0\.0\.0\.0:8080 \(IPv4\) or \[::\]:8080 \(IPv6\)"
    ):
        addresses.parse_bind(":8080")


@pytest.mark.parametrize(
    "text, loopback",
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("unix:/a", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_loopback(text, loopback):
    assert addresses.is_loopback(addresses.parse_bind(text)) is loopback


@pytest.mark.parametrize(
    "text, pattern",
    [
        ("Example.COM", "example.com"),
        ("*.Example.com", "*.example.com"),
        ("*", "*"),
        ("example.com.", "example.com"),
        ("10.0.0.1", "10.0.0.1"),
        ("[::1]", "[::1]"),
    ],
)
def test_host_patterns(text, pattern):
    assert addresses.parse_host_pattern(text) == pattern


@pytest.mark.parametrize(
    "text", ["", "*.", "*example.com", "a.*.b", "*.*.b", "a:80", "::1", "a/b", "**", "*.10.0.0.1.", "a b"]
)
def test_bad_host_patterns(text):
    with pytest.raises(BadValue):
        addresses.parse_host_pattern(text)


def test_authorities():
    assert addresses.parse_authority("Example.com:8443") == "example.com:8443"
    assert addresses.parse_authority("example.com") == "example.com"
    assert addresses.parse_authority("[::1]:80") == "[::1]:80"
    assert addresses.parse_authority("[::1]") == "[::1]"
    for text in ("", "a:0", "a:b", "user@host", "::1", "a/b"):
        with pytest.raises(BadValue):
            addresses.parse_authority(text)


def test_networks():
    assert addresses.parse_network("10.0.0.0/8") == "10.0.0.0/8"
    assert addresses.parse_network("10.1.2.3") == "10.1.2.3/32"
    assert addresses.parse_network("fd00::/8") == "fd00::/8"
    assert addresses.parse_network("unix") == "unix"
    for text in ("10.0.0.1/8", "10.0.0.0/33", "10.0.0", "all", "", "12"):
        with pytest.raises(BadValue):
            addresses.parse_network(text)


@pytest.mark.parametrize("text", ["/", "/query", "/a b/ü", "/a/.well-known", "/100%", "/a//b"])
def test_paths(text):
    assert http_values.parse_path(text) == text


@pytest.mark.parametrize(
    "text", ["", "query", "/a/../b", "/..", "/./a", "/a?b", "/a#b", "/a%2Fb", "/a\nb", "/a\u2028"]
)
def test_bad_paths(text):
    with pytest.raises(BadValue):
        http_values.parse_path(text)


@pytest.mark.parametrize(
    "name",
    """Connection transfer-encoding CONTENT-LENGTH Host upgrade Keep-Alive TE trailer Proxy-Authorization
    proxy-connection HTTP2-Settings""".split(),
)
def test_fields_that_are_never_edited(name):
    with pytest.raises(BadValue, match="cannot be edited"):
        http_values.parse_edited_header(name)


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "\0", " a", "a ", "\ta", "ä", "a\x7f", "x" * 8193])
def test_bad_header_values(value):
    with pytest.raises(BadValue):
        http_values.parse_header_value(value)


def test_upgrades():
    assert http_values.parse_upgrade("WebSocket") == "websocket"
    for name in ("h2c", "H2C", "HTTP/2.0", "TLS/1.0", "a b", "", "a/b/c"):
        with pytest.raises(BadValue):
            http_values.parse_upgrade(name)


def test_sinks():
    for text in ("off", "stdout", "/var/log/a.log"):
        assert values.parse_sink(text) == text
    for text in ("stderr", "a.log", "/", "/a/", "/a\n", "", None):
        with pytest.raises(BadValue):
            values.parse_sink(text)


def test_what_is_said_never_repeats_the_value():
    secret = "s3cr3t-value"
    parsers = [
        *(
            getattr(values, name)
            for name in dir(values)
            if name.startswith("parse_") and name not in ("parse_integer", "parse_number")
        ),
        *(getattr(addresses, name) for name in dir(addresses) if name.startswith("parse_")),
        *(getattr(http_values, name) for name in dir(http_values) if name.startswith("parse_")),
    ]
    for parse in parsers:
        for value in (
            secret,
            f"{secret}\n",
            f"{secret}:99999",
            f"/{secret}/../",
            f"unix:{secret}",
            f"[{secret}]:1",
        ):
            try:
                parse(value)
            except BadValue as error:
                assert secret not in str(error)


@pytest.mark.parametrize(
    "text", ["0", "1h", "90s", "5m", "1500ms", "250ms", "0.5ms", "8784h", "0.000001ms", "86401s", "25ms"]
)
def test_durations_are_shown_as_one_would_write_them(text):
    assert duration_text(parse_duration(text)) == text
