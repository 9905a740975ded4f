"""The parsers of `values`, `addresses` and `http_values` as field types of pydantic models.

A `Kind` validates by one parser alone. Pydantic's own types are not used for scalars: their coercions
differ between modes, and their messages repeat the input, which may be a secret.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from proxy.config import addresses, http_values, locality_values, tls_values, values
from proxy.config.faults import BadValue
from proxy.config.values import scalar_text
from proxy.model import TcpAddress, UnixAddress
from proxy.policy.admission import URGENCIES
from proxy.policy.balancer import BALANCERS
from proxy.policy.failures import RETRY_WORDS, FailureKind
from proxy.scoreboard import MAX_WORKERS

JsonSchema = dict[str, Any]
_REFERENCE_JSON: JsonSchema = {"type": "string", "pattern": r"\$\{"}


@dataclass(frozen=True, eq=False)
class Kind:
    """One sort of scalar: how it is read and how the JSON Schema describes it."""

    parse: Callable[[object], object]
    """Returns the value or raises `BadValue`."""
    expected: str
    """What a person should write, for a key that is missing."""
    json: JsonSchema
    secret: bool = False
    """Faults never show the value, not even when it was written in the file."""
    is_key: bool = False
    """Used for keys, which have no `${…}`; everywhere else the JSON Schema lets it through."""
    show: Callable[[Any], str] = str
    """The text of a value, as a file may have it."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        free_text = "string" in self.json.get("type", ()) and not {"pattern", "enum"} & self.json.keys()
        return dict(self.json) if free_text or self.is_key else {"anyOf": [dict(self.json), _REFERENCE_JSON]}

    def _validate(self, value: object) -> object:
        try:
            return self.parse(value)
        except BadValue as error:
            raise fault_error(error.problem, error.expected, secret=self.secret) from None


@dataclass(frozen=True, eq=False)
class FileKind(Kind):
    """The path of a file. A relative one begins at the `directory` of the validation's context."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._validate_in)

    def _validate_in(self, value: object, info: ValidationInfo) -> object:
        path = self._validate(value)
        assert isinstance(path, Path)
        return info.context["directory"] / path if info.context else path


def fault_error(problem: str, expected: str, *, secret: bool = False, key: str = "") -> PydanticCustomError:
    """The error that carries our own texts through pydantic; `load` finds them in its context. `key` is the one of the
    mapping that is at fault; empty = the value itself is."""
    context = {"problem": problem, "expected": expected, "secret": secret, "key": key}
    return PydanticCustomError("fault", "{problem}, expected {expected}", context)


def did_you_mean(text: str, known: list[str]) -> str:
    """`; did you mean 'X'?` for the closest of `known`, or nothing."""
    close = get_close_matches(text, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def integer(low: int, high: int | None = None) -> Kind:
    """A whole number from `low` to `high`."""
    json: JsonSchema = {"type": "integer", "minimum": low}
    if high is not None:
        json["maximum"] = high
    return Kind(partial(values.parse_integer, low=low, high=high), values.integer_expected(low, high), json)


def number(low: float, high: float) -> Kind:
    """A number from `low` to `high`, with or without decimals."""
    parse = partial(values.parse_number, low=low, high=high)
    return Kind(parse, values.number_expected(low, high), {"type": "number", "minimum": low, "maximum": high})


def size(low: int = 0, high: int = values.MAX_SIZE_BYTES) -> Kind:
    """Bytes from `low` to `high`."""
    parse = partial(values.parse_size, low=low, high=high)
    text = {"type": "string", "pattern": values.SIZE_PATTERN}
    number = {"type": "integer", "minimum": low, "maximum": high}
    return Kind(parse, values.SIZE_EXPECTED, {"anyOf": [text, number]}, show=values.size_text)


def choice(*names: str) -> Kind:
    """One of `names`."""
    expected = f"one of {', '.join(names)}"

    def parse(value: object) -> str:
        text = scalar_text(value, expected)
        if text not in names:
            raise BadValue("is not known", expected + did_you_mean(text, list(names)))
        return str(text)

    return Kind(parse, expected, {"type": "string", "enum": list(names)})


def _text(
    parse: Callable[[object], object],
    expected: str,
    pattern: str = "",
    *,
    numeric: bool = False,
    secret: bool = False,
    is_key: bool = False,
) -> Kind:
    """A string; `numeric` ones may be written without quotes where an editor would see a number or
    boolean."""
    json: JsonSchema = {"type": ["string", "number", "boolean"] if numeric else "string"}
    if pattern:
        json["pattern"] = pattern
    return Kind(parse, expected, json, secret, is_key)


def _parse_workers(value: object) -> int | None:
    if value == "auto":
        return None
    try:
        return values.parse_integer(value, 1, MAX_WORKERS)
    except BadValue as error:
        raise BadValue(error.problem, f"auto or a whole number from 1 to {MAX_WORKERS}") from None


_LOAD_EXPECTED = "0, or a whole number from 101 to 10000"


def _parse_load_percent(value: object) -> int:
    try:
        percent = values.parse_integer(value, 0, 10_000)
    except BadValue as error:
        raise BadValue(error.problem, _LOAD_EXPECTED) from None
    if 0 < percent <= 100:
        raise BadValue("leaves no room: all together would have less than there is", _LOAD_EXPECTED)
    return percent


def _parse_status(value: object, allowed: tuple[int, ...]) -> int:
    expected = f"one of {', '.join(map(str, allowed))}"
    try:
        status = values.parse_integer(value, 100, 999)
    except BadValue as error:
        raise BadValue(error.problem, expected) from None
    if status not in allowed:
        raise BadValue("is not a redirect", expected)
    return status


def _no_twins(headers: dict[str, str]) -> dict[str, str]:
    if len({name.lower() for name in headers}) < len(headers):
        raise fault_error("has the same name twice in different case", "each header field once")
    return headers


_RANGE_EXPECTED = "a status such as 204, or a range such as 200-299, from 100 to 599"
_RANGE = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")


def _parse_status_range(value: object) -> tuple[int, int]:
    text = str(value) if isinstance(value, int) else scalar_text(value, _RANGE_EXPECTED)
    match = _RANGE.fullmatch(text)
    if match is None:
        raise BadValue("is not a status or a range of them", _RANGE_EXPECTED)
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise BadValue("ends before it begins", _RANGE_EXPECTED)
    return low, high


_RETRY_EXPECTED = f"a status from 400 to 599, or one of {', '.join(RETRY_WORDS)}"


def _parse_retry_word(value: object) -> str | int:
    if isinstance(value, int) or (isinstance(value, values.Plain) and value.isdecimal()):
        try:
            return values.parse_integer(value, 400, 599)
        except BadValue as error:
            raise BadValue(error.problem, _RETRY_EXPECTED) from None
    text = scalar_text(value, _RETRY_EXPECTED)
    if text not in RETRY_WORDS:
        raise BadValue("is not known", _RETRY_EXPECTED + did_you_mean(text, list(RETRY_WORDS)))
    return str(text)


_DURATION_JSON = {"anyOf": [{"type": "string", "pattern": values.DURATION_PATTERN}, {"const": 0}]}
_REDIRECTS = (301, 302, 303, 307, 308)
_FIELD = "the name of a header field"

Duration = Annotated[
    float,
    Kind(values.parse_duration, values.DURATION_EXPECTED, _DURATION_JSON, show=values.duration_text),
]
Size = Annotated[int, size()]
Count = Annotated[int, integer(0)]
Positive = Annotated[int, integer(1)]
Percent = Annotated[float, number(0, 100)]
Factor = Annotated[float, number(0, 1000)]
Urgency = Annotated[int, integer(0, URGENCIES - 1)]
Weight = Annotated[int, integer(1, 65535)]
SplitWeight = Annotated[int, integer(0, 65535)]
Flag = Annotated[bool, Kind(values.parse_boolean, "true or false", {"type": "boolean"})]
Text = Annotated[str, _text(values.parse_text, "a text", numeric=True)]
Name = Annotated[str, _text(values.parse_name, "a name", values.NAME_PATTERN, numeric=True)]
Secret = Annotated[str, _text(values.parse_token, "a token", secret=True, numeric=True)]
Sink = Annotated[str, _text(values.parse_sink, "off, stdout or an absolute path", "^(off|stdout|/.+)$")]
File = Annotated[Path, FileKind(values.parse_file, "the path of a file", {"type": "string"})]
Workers = Annotated[
    int | None,
    Kind(
        _parse_workers,
        f"auto or a whole number from 1 to {MAX_WORKERS}",
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}]},
    ),
]

Address = Annotated[addresses.EndpointAddress, _text(addresses.parse_address, addresses.ADDRESS_EXPECTED)]
Bind = Annotated[TcpAddress | UnixAddress, _text(addresses.parse_bind, addresses.BIND_EXPECTED)]
Network = Annotated[str, _text(addresses.parse_network, "a network such as 10.0.0.0/8, an address, or unix")]
HostPattern = Annotated[str, _text(addresses.parse_host_pattern, "a host, *.host or *")]
Authority = Annotated[str, _text(addresses.parse_authority, "a host with an optional port")]

PlainPath = Annotated[str, _text(http_values.parse_path, "a path that begins with '/'", "^/")]
AskedPath = Annotated[
    str, _text(http_values.parse_asked_path, "a path that begins with '/', with or without a query", "^/")
]
Method = Annotated[str, _text(http_values.parse_method, "a method such as GET", "^[A-Z][A-Z0-9_-]*$")]
Upgrade = Annotated[str, _text(http_values.parse_upgrade, "a protocol such as websocket")]
HeaderName = Annotated[
    str, _text(http_values.parse_header_name, _FIELD, http_values.TOKEN_PATTERN, is_key=True)
]
EditedHeader = Annotated[
    str, _text(http_values.parse_edited_header, _FIELD, http_values.TOKEN_PATTERN, is_key=True)
]
HeaderValue = Annotated[
    str, _text(http_values.parse_header_value, "a header value", numeric=True, secret=True)
]
HeaderConditions = Annotated[dict[HeaderName, HeaderValue], AfterValidator(_no_twins)]
HeaderValues = Annotated[dict[EditedHeader, HeaderValue], AfterValidator(_no_twins)]

Status = Annotated[int, integer(200, 599)]
RedirectStatus = Annotated[
    int, Kind(partial(_parse_status, allowed=_REDIRECTS), "a redirect status", {"enum": list(_REDIRECTS)})
]
StatusRange = Annotated[
    tuple[int, int],
    Kind(
        _parse_status_range,
        _RANGE_EXPECTED,
        {
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {"type": "string", "pattern": "^[1-5]"},
            ]
        },
    ),
]
RetryWord = Annotated[
    str | int,
    Kind(
        _parse_retry_word,
        _RETRY_EXPECTED,
        {"anyOf": [{"enum": list(RETRY_WORDS)}, {"type": "integer", "minimum": 400, "maximum": 599}]},
    ),
]
FailureWord = Annotated[str, choice(*(kind.value for kind in FailureKind))]
HealthType = Annotated[str, choice("http", "tcp")]
Scheme = Annotated[str, choice("http", "https")]
Balancer = Annotated[str, choice(*BALANCERS)]

ClientAuth = Annotated[str, choice("none", "optional", "required")]
ServerName = Annotated[str, _text(addresses.parse_server_name, "a host name or an IP address")]
Ciphers = Annotated[str, _text(tls_values.parse_ciphers, "suites in OpenSSL's notation")]
TlsVersion = Annotated[
    str, Kind(choice("1.2", "1.3").parse, "1.2 or 1.3", {"enum": ["1.2", "1.3", 1.2, 1.3]})
]

QueryName = Annotated[
    str, _text(http_values.parse_query_name, "a parameter such as dataset", http_values.QUERY_NAME_PATTERN)
]
CookieName = Annotated[str, _text(http_values.parse_cookie_name, "a cookie", http_values.TOKEN_PATTERN)]
CookiePath = Annotated[str, _text(http_values.parse_cookie_path, "a path that begins with '/'", "^/")]
CookieSecure = Annotated[str, choice("auto", "always", "never")]
SameSite = Annotated[str, choice("lax", "strict", "none", "unset")]
LoadPercent = Annotated[
    int,
    Kind(_parse_load_percent, _LOAD_EXPECTED, {"anyOf": [{"const": 0}, {"type": "integer", "minimum": 101}]}),
]

PathTemplate = Annotated[
    str, _text(locality_values.parse_path_template, locality_values.TEMPLATE_EXPECTED, "^/.*[{]")
]
JsonPointer = Annotated[str, _text(locality_values.parse_json_pointer, "a JSON pointer", "^/")]
FunctionName = Annotated[
    str,
    _text(
        locality_values.parse_function,
        locality_values.FUNCTION_EXPECTED,
        locality_values.FUNCTION_PATTERN,
    ),
]
DataKey = Annotated[str, _text(locality_values.parse_data_key, "a data key", "^.+$", is_key=True)]
TagUse = Annotated[str, choice("prefer", "require")]
