"""The models of routing by data: what tells which data requests need, and what is known of a cluster. See `schema`."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.functional_validators import WrapValidator
from pydantic_core import CoreSchema

from proxy.config.kinds import (
    CookieName,
    Count,
    DataKey,
    Duration,
    Flag,
    FunctionName,
    HeaderName,
    JsonPointer,
    LoadPercent,
    Name,
    PathTemplate,
    PlainPath,
    Positive,
    QueryName,
    Size,
    TagUse,
    fault_error,
    size,
)
from proxy.config.section import Section, written

_PLAIN = ("header", "query", "path", "cookie")
_ALL = (*_PLAIN, "json", "function")
MAX_SOURCES = 8


def _check_one_of(section: Section, names: tuple[str, ...], given: list[str]) -> None:
    if len(given) != 1:
        problem = "names no source" if not given else f"names several sources: {', '.join(given)}"
        raise fault_error(problem, f"exactly one of {', '.join(names)}")


class Source(Section):
    """Where in a request a value is: exactly one of these."""

    header: HeaderName = ""
    """Value of this header field. Default none."""
    query: QueryName = ""
    """Value of this query parameter, decoded. Default none."""
    path: PathTemplate = ""
    """Beginning of the path, decoded once, with `{name}` for the value: `/datasets/{dataset}`. Default none."""
    cookie: CookieName = ""
    """Value of this cookie. Default none."""

    @model_validator(mode="after")
    def _check(self) -> "Source":
        _check_one_of(self, _PLAIN, [name for name in _PLAIN if getattr(self, name)])
        return self


class TagSource(Section):
    """Where a request says which tags its endpoint should have (words separated by commas), and how much that counts.
    Exactly one of header, query, path and cookie."""

    # `as` is no name in Python.
    model_config = ConfigDict(serialize_by_alias=True)

    header: HeaderName = ""
    """Value of this header field, such as X-Data-Affinity. Default none."""
    query: QueryName = ""
    """Value of this query parameter, decoded. Default none."""
    path: PathTemplate = ""
    """Beginning of the path, decoded once, with `{name}` for the value. Default none."""
    cookie: CookieName = ""
    """Value of this cookie. Default none."""
    use: TagUse = Field(default="prefer", alias="as")
    """`prefer`: an endpoint without the tag counts as `distance` farther away; `require`: it gets no such request, so a
    client can ask for tags that nobody has and is refused. Default `prefer`."""
    distance: Duration = written("50ms")
    """How far an endpoint is away for each tag that it has not, as time. Default 50ms; 0 = tags do not matter."""

    @model_validator(mode="after")
    def _check(self) -> "TagSource":
        _check_one_of(self, _PLAIN, [name for name in _PLAIN if getattr(self, name)])
        return self


class KeySource(Section):
    """Where in a request the names of its data are: exactly one of header, query, path, cookie, json and function."""

    # Models of pydantic have a method `json`.
    model_config = ConfigDict(serialize_by_alias=True)

    header: HeaderName = ""
    """Value of this header field; a list separated by commas is several keys. Default none."""
    query: QueryName = ""
    """Value of this query parameter, decoded; given several times it is several keys. Default none."""
    path: PathTemplate = ""
    """Beginning of the path, decoded once, with `{name}` for each key, at most one between two slashes:
    `/datasets/{dataset}/…` or `/join/{left}/{right}.parquet`. Default none."""
    cookie: CookieName = ""
    """Value of this cookie. Default none."""
    pointer: JsonPointer = Field(default="", alias="json")
    """JSON pointer (RFC 6901) into the request's body, to a string, a whole number or a list of them:
    `/query/dataset`. The endpoint is picked when the body is here, or known to be larger than `max_body`. Default
    none."""
    max_body: Annotated[int, size(1, 1024 * 1024)] = written("64KiB")
    """With `json`: bodies that are larger go on without a key from it, 1B to 1MiB. Each request in progress may hold
    so much memory. Default 64KiB."""
    function: FunctionName = ""
    """`module:function`: a Python function that is called with the request (`method`, `path`, `query`, `headers`)
    and returns a key (text or bytes), several, or None. It runs in the process that carries traffic, which waits for
    it: no I/O. The module must be installed or on PYTHONPATH. One that raises or takes longer than `timeout` is not
    called again before its settings change or the daemon starts anew. Default none."""
    timeout: Duration = written("5ms")
    """With `function`: how long a call may take, 1ms to 1s: in CPU time, or four times that on the clock. Default
    5ms."""

    @model_validator(mode="after")
    def _check(self) -> "KeySource":
        values = {"json": self.pointer} | {name: getattr(self, name) for name in (*_PLAIN, "function")}
        _check_one_of(self, _ALL, [name for name in _ALL if values[name]])
        if "max_body" in self.model_fields_set and not self.pointer:
            raise fault_error("has a max_body without json", "json, or no such key")
        if "timeout" in self.model_fields_set and not self.function:
            raise fault_error("has a timeout without function", "function, or no such key")
        if not 0.001 <= self.timeout <= 1:
            raise fault_error("has a timeout outside of 1ms to 1s", "a time such as 5ms")
        return self


class _OneOrMany:
    """Takes a source without a list around it for a list of one, and says so in the JSON Schema."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


def _as_list(value: Any, validate: Any) -> tuple[KeySource, ...]:
    if isinstance(value, dict):
        return (KeySource.model_validate(value),)
    sources: tuple[KeySource, ...] = validate(value)
    if not 1 <= len(sources) <= MAX_SOURCES:
        raise fault_error("has too few or too many items", f"1 to {MAX_SOURCES} sources")
    return sources


class RouteLocality(Section):
    """What of a route's requests tells which data they need. Values that are not sensible are left out and counted in
    `homeport_cluster_ignored_data_values_total`; no request fails for them."""

    data_key: Annotated[tuple[KeySource, ...], WrapValidator(_as_list), _OneOrMany()] = ()
    """Where the names of the data are: a source, or a list of up to 8, whose keys are taken together. A request has at
    most 16 keys of at most 1024 bytes. Default none."""
    size: Source | None = None
    """Where the size of all its data is, in bytes. Default none: sizes are learned."""
    tags: TagSource | None = None
    """Where a request says which tags its endpoint should have. Default none."""
    processing_type: Source | None = None
    """Where its processing type is, at most 64 bytes: each has its own expected time. Default none: all are alike."""
    require: tuple[Name, ...] = ()
    """Tags that an endpoint must have to get requests of this route. Default none."""
    prefer: dict[Name, Duration] = Field(default_factory=dict)
    """Tags, and how far an endpoint without them is away, as time: `{gpu: 20ms}`. Default none."""


class Residency(Section):
    """Endpoints are asked which data they hold, by a GET that is answered with 200 and at most 16 MiB of JSON:
    `{"resident": [{"key": "customers", "bytes": 1048576}, "orders"], "complete": true, "slots": 4, "cache_bytes": N,
    "bandwidth": N}`. All but `resident` may be left out, and `resident` alone, a list, is an answer too. Of what is not
    in a list that says nothing of `complete`, or true, the endpoint is believed to hold nothing."""

    path: PlainPath
    """What is asked for, such as /residency. Required."""
    interval: Duration = written("30s")
    """Pause between two questions to an endpoint, 1s or more. Default 30s."""
    timeout: Duration = written("5s")
    """Time until a question without an answer is given up, 10ms or more. Default 5s."""

    @field_validator("interval")
    @classmethod
    def _check_interval(cls, interval: float) -> float:
        if interval < 1:
            raise fault_error("is too short", "at least 1s")
        return interval

    @field_validator("timeout")
    @classmethod
    def _check_timeout(cls, timeout: float) -> float:
        if timeout < 0.01:
            raise fault_error("is too short", "at least 10ms")
        return timeout


class Locality(Section):
    """What `data_locality_aware` knows beforehand of endpoints and data; all of it can be learned. An endpoint says in
    its answers what it holds: `X-Data-Cache: hit`, `X-Data-Resident: KEY;bytes=N, …`, `X-Data-Evicted: KEY, …`; and of
    itself, in place of the keys here, `X-Data-Slots: N`, `X-Data-Cache-Bytes: N`, `X-Data-Bandwidth: N` (a second)."""

    bandwidth: Size = written("0")
    """Bytes a second at which an endpoint gets data that it does not hold. Default 0 = learned."""
    cache: Size = written("0")
    """Bytes of data that an endpoint holds. Default 0 = learned."""
    slots: Count = 0
    """Requests that an endpoint works on at once, while others wait in it. Default 0 = learned."""
    sizes: dict[DataKey, Annotated[int, size(1)]] = Field(default_factory=dict)
    """Bytes of data by key, 1B or more: `{customers: 10MiB}`. Default none: learned."""
    zones: dict[Name, Duration] = Field(default_factory=dict)
    """How far the endpoints of a zone are away, as time: `{us-east-1b: 2ms}`. Default none: all are near."""
    max_keys: Positive = 50_000
    """Data keys that each worker remembers, and control; 420 bytes each where one endpoint holds it, 570 where three
    do. The ones unused for longest are forgotten. Default 50000."""
    max_load_percent: LoadPercent = 0
    """Requests in flight at one endpoint as a percentage of its fair share, beyond which it gets no more whatever it
    holds. 0 or 101 to 10000. Default 0 = the balancer's own bound."""
    strip_headers: Flag = False
    """Takes the fields by which endpoints say what they hold out of answers to clients. Default false."""
    explain_header: HeaderName = ""
    """Field that is added to answers, such as X-Homeport-Explain: why this endpoint was picked. Not for clients that
    must not know the endpoints. Default none."""
    residency: Residency | None = None
    """Asks the endpoints which data they hold. Default none: learned from what they are sent and what they say."""
