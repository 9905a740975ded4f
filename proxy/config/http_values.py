"""From the text of one scalar to what HTTP messages are made of: paths, methods, fields. See `values`."""

import re

from proxy.config.faults import BadValue
from proxy.config.values import scalar_text

TOKEN_PATTERN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # RFC 9110 section 5.6.2
_TOKEN = re.compile(TOKEN_PATTERN[1:-1])
# What RFC 3986 section 2.3 calls unreserved: characters that every client sends as they are.
QUERY_NAME_PATTERN = r"^[A-Za-z0-9._~-]{1,64}$"
_QUERY_NAME = re.compile(QUERY_NAME_PATTERN[1:-1])
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_UPGRADE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+(?:/[!#$%&'*+.^_`|~0-9a-z-]+)?")
# HTTP/2 is not spoken, and TLS inside a request is neither (RFC 2817).
_UPGRADES_REFUSED = frozenset({"h2c", "h2", "http/2", "http/2.0", "http/1.1", "tls", "tls/1.0"})

# Fields that belong to one connection or frame a message (RFC 9110 section 7.6.1, RFC 9112 section 6):
# Homeport makes them itself, as it makes those that say who sent a request and by which way. Host has its own key.
_OWN_FIELDS = frozenset(
    "connection content-length http2-settings keep-alive te trailer transfer-encoding upgrade".split()
    + "forwarded via x-forwarded-for x-forwarded-host x-forwarded-proto x-request-id".split()
)


def parse_path(value: object) -> str:
    """A path or prefix as plain text: requests are compared decoded, and what is sent is escaped later."""
    expected = "a plain path that begins with '/', such as /query, without '.' or '..' segments, '?' or '#'"
    text = scalar_text(value, expected)
    if not text.startswith("/") or not text.isprintable() or "?" in text or "#" in text or _has_dots(text):
        raise BadValue("is not a valid path", expected)
    if _ESCAPE.search(text):
        raise BadValue("has an escape", "the character itself, because paths here are plain text")
    return str(text)


_QUERY = re.compile("[!-~]*")


def parse_asked_path(value: object) -> str:
    """A plain path, and perhaps a query as it is sent: `/health?full=1`."""
    expected = "a path, with or without a query in visible ASCII, such as /health?full=1"
    path, mark, query = str(scalar_text(value, expected)).partition("?")
    if "#" in query or not _QUERY.fullmatch(query):
        raise BadValue("has a query that cannot be sent", expected)
    return parse_path(path) + mark + query


def _has_dots(path: str) -> bool:
    return any(segment in (".", "..") for segment in path.split("/"))


def parse_method(value: object) -> str:
    """A request method. Methods are case-sensitive (RFC 9110 section 9.1); those in use are upper case."""
    expected = "a method in upper case, such as GET"
    text = scalar_text(value, expected)
    if not _METHOD.fullmatch(text):
        raise BadValue("is not a method", expected)
    return str(text)


def parse_upgrade(value: object) -> str:
    """A protocol that may be upgraded to, in lower case."""
    expected = "a protocol such as websocket"
    text = scalar_text(value, expected).lower()
    if not _UPGRADE.fullmatch(text):
        raise BadValue("is not a protocol", expected)
    if text in _UPGRADES_REFUSED:
        raise BadValue("is never relayed", "another protocol, such as websocket; HTTP/2 is not spoken")
    return text


def parse_header_name(value: object) -> str:
    """The name of a field, in the case it was given."""
    expected = "the name of a header field, such as X-Tenant"
    text = scalar_text(value, expected)
    if len(text) > 256 or not _TOKEN.fullmatch(text):
        raise BadValue("is not a header name", expected)
    return str(text)


def parse_edited_header(value: object) -> str:
    """The name of a field that may be set or removed."""
    name = parse_header_name(value)
    lower = name.lower()
    if lower == "host":
        raise BadValue("cannot be edited here", "rewrite.host for the Host field")
    if lower in _OWN_FIELDS or lower.startswith("proxy-"):
        raise BadValue("cannot be edited", "a field that Homeport does not make itself")
    return name


def parse_query_name(value: object) -> str:
    """The name of a query parameter, which requests write without escapes."""
    expected = "1 to 64 letters, digits, '-', '_', '.' or '~'"
    text = scalar_text(value, expected)
    if not _QUERY_NAME.fullmatch(text):
        raise BadValue("is not the name of a query parameter", expected)
    return str(text)


def parse_cookie_name(value: object) -> str:
    """The name of a cookie (RFC 6265 section 4.1.1)."""
    expected = "a cookie's name: up to 64 letters, digits and characters such as '-' and '_'"
    text = scalar_text(value, expected)
    if len(text) > 64 or not _TOKEN.fullmatch(text):
        raise BadValue("is not a cookie's name", expected)
    return str(text)


def parse_cookie_path(value: object) -> str:
    """The path that a cookie is sent for, as browsers compare it: visible ASCII without `;`."""
    expected = "a path that begins with '/', in visible ASCII without ';'"
    text = scalar_text(value, expected)
    if not text.startswith("/") or ";" in text or len(text) > 1024 or not all("!" <= c <= "~" for c in text):
        raise BadValue("is not a cookie's path", expected)
    return str(text)


def parse_header_value(value: object) -> str:
    """The value of a field (RFC 9110 section 5.5): visible ASCII with spaces and tabs inside."""
    expected = "visible ASCII characters, spaces and tabs, without line ends or space around them"
    text = scalar_text(value, expected)
    if len(text) > 8192 or text.strip(" \t") != text:
        raise BadValue("is not a header value", expected)
    if not all(" " <= char <= "~" or char == "\t" for char in text):
        raise BadValue("is not a header value", expected)
    return str(text)
