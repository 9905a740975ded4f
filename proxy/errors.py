"""The error tree, whose fault each error is, and the one map from an error to a response.

`Reason` is the closed list of everything Homeport itself answers or cuts an exchange for. Each has a status, a short
text for the client that names no internals, and a place in the scoreboard's refusal counters.
"""

from enum import Enum


class Reason(Enum):
    """Why Homeport answered by itself or cut an exchange: `(status, text for the client)`."""

    # The client's fault.
    BAD_REQUEST = 400, "the request is malformed"
    BAD_REQUEST_LINE = 400, "the request line is malformed"
    BAD_TARGET = 400, "the request target is malformed or ambiguous"
    BAD_HEADER = 400, "a header field is malformed"
    BAD_HOST = 400, "exactly one valid Host field is required"
    BAD_FRAMING = 400, "the length of the body is malformed or ambiguous"
    BAD_CHUNK = 400, "the chunked body is malformed"
    BAD_PROXY_PROTOCOL = 400, "the PROXY protocol header is missing or malformed"
    PLAIN_HTTP = 400, "this port speaks TLS: use https://"
    TLS_HANDSHAKE = 400, "the TLS handshake failed or did not end in time"
    METHOD_NOT_ALLOWED = 405, "the method is not allowed here"
    HEADER_TIMEOUT = 408, "the request's header did not arrive in time"
    BODY_TIMEOUT = 408, "the request's body did not arrive in time"
    BODY_TOO_LARGE = 413, "the request's body is larger than the limit"
    TARGET_TOO_LONG = 414, "the request line is longer than the limit"
    EXPECTATION_FAILED = 417, "only Expect: 100-continue is understood"
    MISDIRECTED = 421, "this listener does not serve that host"
    HEADER_TOO_LARGE = 431, "the request's header is larger than the limit"
    METHOD_UNKNOWN = 501, "the method is not implemented"
    CODING_UNKNOWN = 501, "only the chunked transfer coding is implemented"
    HTTP2_UNSUPPORTED = 505, "HTTP/2 and gRPC are not spoken here; use HTTP/1.1"
    VERSION_UNSUPPORTED = 505, "only HTTP/1.0 and HTTP/1.1 are spoken here"
    CLIENT_GONE = 499, "the client went away"
    SLOW_CLIENT = 499, "the client read or wrote too slowly"
    RATE_LIMITED = 429, "too many requests"
    # Nowhere to send it.
    NO_ROUTE = 404, "no route matches this request"
    NO_ENDPOINT = 503, "no endpoint is available"
    OVERLOADED = 503, "every endpoint is busy"
    QUEUE_TIMEOUT = 503, "every endpoint was busy for too long"
    OVER_BUFFER_BUDGET = 503, "too many bytes are buffered"
    TOO_MANY_CONNECTIONS = 503, "too many connections from this address"
    OUT_OF_DESCRIPTORS = 503, "the proxy has no file descriptor left"
    SHUTTING_DOWN = 503, "the proxy is shutting down"
    # The endpoint's fault.
    CONNECT_FAILED = 502, "the endpoint could not be reached"
    TLS_FAILED = 502, "no TLS connection to the endpoint could be made"
    CERTIFICATE_INVALID = 502, "the endpoint's certificate is not valid"
    UPSTREAM_CLOSED = 502, "the endpoint closed the connection without an answer"
    UPSTREAM_RESET = 502, "the endpoint reset the connection"
    BAD_REPLY = 502, "the endpoint's answer is malformed"
    REPLY_HEADER_TOO_LARGE = 502, "the endpoint's header is larger than the limit"
    REPLY_CUT = 502, "the endpoint closed the connection in the middle of its answer"
    CONNECT_TIMEOUT = 504, "the endpoint did not accept a connection in time"
    RESPONSE_TIMEOUT = 504, "the endpoint did not answer in time"
    IDLE_TIMEOUT = 504, "the exchange was idle for too long"
    TOTAL_TIMEOUT = 504, "the exchange took too long"
    # Ours.
    INTERNAL = 500, "an internal error"

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        self.code = self.name.lower()
        """The name in responses, metrics and logs."""


# Position of each reason in the scoreboard's refusal counters.
REASON_INDEX: dict[Reason, int] = {reason: index for index, reason in enumerate(Reason)}


class ProxyError(Exception):
    """Root of the errors that Homeport raises itself."""


class ConfigError(ProxyError):
    """A fault of the configuration: where, what was found, what was expected."""

    def __init__(self, path: str, value: object, expected: str) -> None:
        super().__init__(path, value, expected)
        self.path = path
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.path}: got {self.value!r}, expected {self.expected}"


class ExchangeError(ProxyError):
    """An exchange that ends with `reason` instead of the endpoint's answer."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason.text


class DownstreamError(ExchangeError):
    """The client's fault."""


class RoutingError(ExchangeError):
    """Nobody's fault but there is nowhere to send the request, or not now."""

    def __init__(self, reason: Reason, allow: bytes = b"", retry_after_s: int = 0, details: str = "") -> None:
        super().__init__(reason)
        self.allow = allow
        """Value of the Allow field of a 405; empty otherwise."""
        self.retry_after_s = retry_after_s
        """Value of Retry-After; 0 = none."""
        self.details = details
        """What the client is told instead of the reason's own text; empty = that."""

    def __str__(self) -> str:
        return self.details or self.reason.text


class UpstreamError(ExchangeError):
    """The endpoint's fault."""


class EngineError(ProxyError):
    """What runs instances (the Docker Engine, or this machine) did not do what it was asked. Never reaches a
    request."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(what, problem)
        self.what = what
        """What was asked, such as `start homeport-etl-3`."""
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.what}: {self.problem}"


class EngineUnavailable(EngineError):
    """It could not be reached, or not in time: nothing is known, and it may have been done."""


class EngineNotFound(EngineError):
    """There is no such instance (any more), or no such image, network or volume."""


class EngineConflict(EngineError):
    """It is in the wrong state, the name is taken, or the instance is somebody else's."""


class EngineRefused(EngineError):
    """It could not or would not: the spec is wrong for this host, a port is taken, a proxy in front forbids it."""
