"""The models of the configuration file: every key, with its unit, its default and what its extremes do.

The text under each key is its description in the JSON Schema that `homeport schema` prints. Unknown keys
are errors, scalars are read by the `kinds` alone, and what concerns more than one key of a model is in
`checks`. Defaults are written as a user would write them and read by the same parsers; they equal those of
`proxy.snapshot`, which a test compares. Times are durations (`250ms 30s 5m 1h`), sizes `64KiB 1MiB 2GiB
10MB 512B` or whole bytes.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from proxy.config.balancer_schema import Hash, Sticky
from proxy.config.container_schema import Docker
from proxy.config.discovery_schema import Discovery
from proxy.config.kinds import (
    Address,
    Balancer,
    Bind,
    Count,
    Duration,
    Flag,
    Name,
    Network,
    Percent,
    Secret,
    Sink,
    Size,
    Upgrade,
    Weight,
    Workers,
    fault_error,
    integer,
    size,
)
from proxy.config.locality_schema import Locality
from proxy.config.resilience_schema import (
    CircuitBreaker,
    HealthCheck,
    OutlierDetection,
    Queue,
    Retry,
    SlowStart,
)
from proxy.config.route_schema import Route
from proxy.config.scaler_schema import HostBudget, Scaler
from proxy.config.section import Section, written
from proxy.config.tls_schema import ClusterTls, ListenerTls

_KIB = 1024
_MIB = 1024 * 1024
# Each is a socket in every process; nobody needs as many.
# The parent passes all sockets and the snapshot in one message, of at most 253 descriptors.
MAX_LISTENERS = 128


class Listener(Section):
    """A socket that takes connections."""

    name: Name = ""
    """Name for routes, logs and metrics. Default `listener-1` and so on, by position."""
    bind: Bind
    """Where to listen: `127.0.0.1:8080`, `[::1]:8080`, `unix:/path`; on all interfaces `0.0.0.0:8080` by IPv4 and
    `[::]:8080` by IPv6: for both, two listeners. Port 0 takes a free one. Required."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks (CIDR) whose X-Forwarded-*, Forwarded and X-Real-IP are believed; `unix` trusts the peers
    of a Unix socket. Default none: these fields are replaced. `0.0.0.0/0` believes everybody, who can then
    pose as anybody."""
    proxy_protocol: Flag = False
    """Each connection must begin with a PROXY protocol header, v1 or v2. Default false: such a header is a
    bad request. Switch it on only where nobody but the load balancer in front can connect."""
    tls: ListenerTls | None = None
    """TLS for its connections; after the PROXY protocol's header, where there is one. Default none: plain
    text."""


class Admin(Section):
    """The admin API: health, metrics, status."""

    bind: Bind = written("127.0.0.1:9901")
    """Where the admin API listens, as for a listener. Default `127.0.0.1:9901`."""
    token: Secret | None = Field(default=None, repr=False)
    """Secret that callers send as `Authorization: Bearer TOKEN`; 1 to 1024 visible ASCII characters, best
    from `${file:PATH}` or `${ENV_VAR}`. Default none, which only a loopback address or a Unix socket may
    have."""


class Endpoint(Section):
    """One address of a cluster."""

    address: Address
    """`host:port`, `10.0.0.1:9000`, `[::1]:9000` or `unix:/path`. A name is resolved again at
    `dns.refresh`, and each of its addresses becomes an endpoint. Required."""
    weight: Weight = 1
    """Share of traffic relative to the other endpoints, 1 to 65535; `round_robin` alone does not look at
    it. Default 1."""
    max_connections: Count = 0
    """Requests in flight at once, over all workers; more go to other endpoints or wait in the cluster's `queue`.
    Default 0 = no limit."""
    zone: Name = ""
    """Where the endpoint is, for people, metrics and `locality.zones`. Default none."""
    tags: tuple[Name, ...] = ()
    """Words that describe the endpoint, which requests may ask for by `locality` of their route. Default none."""
    slots: Count = 0
    """Requests that it works on at once, while others wait in it. Default 0 = as `locality.slots`."""
    cache: Size = written("0")
    """Bytes of data that it holds. Default 0 = as `locality.cache`."""
    bandwidth: Size = written("0")
    """Bytes a second at which it gets data that it does not hold. Default 0 = as `locality.bandwidth`."""


class ClusterTimeouts(Section):
    """How long an endpoint may take."""

    connect: Duration = written("5s")
    """From the attempt to the established connection; then 504. Default 5s; 0 = as long as the kernel
    tries."""
    response: Duration = written("300s")
    """From the last byte of the request to the first byte of the answer; then 504. Default 300s; 0 = no
    limit."""
    idle: Duration = written("60s")
    """Between two bytes of an answer while the client takes them, or until the endpoint takes more of an
    upload; then the exchange is cut. Default 60s; 0 = no limit."""
    tunnel: Duration = written("1h")
    """Without a byte in either direction of a tunnel (WebSocket); then it is closed. Default 1h; 0 = no
    limit."""
    total: Duration = written("0")
    """From the request's head to the end of the answer; does not count for tunnels. Default 0 = no limit."""


class Pool(Section):
    """Connections kept open to each endpoint between requests."""

    max_idle: Count = 128
    """Idle connections kept per endpoint and worker. Default 128; 0 = a fresh connection for every
    request."""
    idle_timeout: Duration = written("30s")
    """Time unused after which a connection is closed; keep it below the endpoint's own. Default 30s; 0 =
    never."""
    max_requests: Count = 0
    """Requests after which a connection is closed. Default 0 = no limit."""


class Dns(Section):
    """How endpoints with a host name are found."""

    refresh: Duration = written("30s")
    """Time between two resolutions of a name. Default 30s; 0 = only at the start and at a reload. While a
    name cannot be resolved its last addresses stay."""


class Cluster(Section):
    """A group of interchangeable endpoints."""

    name: Name
    """Name for routes, logs and metrics. Required."""
    balancer: Balancer = "round_robin"
    """How an endpoint is picked: `round_robin`; `weighted_round_robin` (smooth, by `weight`); `least_connections`
    (fewest requests in flight per weight, over all workers); `least_response_time` (by the time until its answers
    begin and what is in flight); `consistent_hashing` (the same endpoint for the same `hash`);
    `data_locality_aware` (where the request will be done first: where its data is, unless waiting there takes longer
    than moving the data; `locality` of the route says which data); `random` (by weight); `p2c` (the less loaded of two
    drawn at random). Default `round_robin`."""
    shadow: Balancer = ""
    """A second balancer that picks for each request too, which nobody follows: metrics say how often it differs and
    what that would have saved or cost. Default none."""
    hash: Hash | None = None
    """What `consistent_hashing` goes by; required with it, and only with it. Default none."""
    locality: Locality = Field(default_factory=Locality)
    """What `data_locality_aware` knows beforehand; only with it. Default: as each key says."""
    sticky: Sticky | None = None
    """Keeps a client with the endpoint that served it first, with any balancer. Default none."""
    endpoints: tuple[Endpoint, ...] = ()
    """The endpoints; at most 1024 in all clusters, those that are found or started included. Default none; `[]` for a
    cluster without any, whose requests get 503."""
    discovery: Discovery | None = None
    """Where more endpoints come from. Default none; containers of the `scaler` are found without it."""
    scaler: Scaler | None = None
    """How many instances Homeport keeps running. Default none: it starts nothing."""
    timeouts: ClusterTimeouts = Field(default_factory=ClusterTimeouts)
    """How long an endpoint may take. Default: as each key says."""
    pool: Pool = Field(default_factory=Pool)
    """Connections kept open between requests. Default: as each key says."""
    dns: Dns = Field(default_factory=Dns)
    """How host names are resolved. Default: as each key says."""
    health_check: HealthCheck | None = None
    """Questions asked of each endpoint; `{}` for all defaults. Default none: what requests meet alone decides."""
    circuit_breaker: CircuitBreaker = Field(default_factory=CircuitBreaker)
    """When an endpoint whose requests fail is left alone. Default: as each key says."""
    outlier_detection: OutlierDetection | None = None
    """When an endpoint that does worse than the others is left out; `{}` for all defaults. Default none."""
    panic_percent: Percent = 50
    """Share of the endpoints that are ready, in percent, below which failed checks and ejections are not believed and
    all endpoints are used whose circuit lets them. Default 50; 0 = never."""
    slow_start: SlowStart | None = None
    """How the share of an endpoint grows that comes or comes back; `{}` for all defaults. Default none: all at
    once."""
    retry: Retry = Field(default_factory=Retry)
    """What is tried again on another endpoint. Default: as each key says."""
    queue: Queue = Field(default_factory=Queue)
    """Requests that wait because every endpoint is at its `max_connections`. Default: as each key says."""
    tls: ClusterTls | None = None
    """TLS to the endpoints; `{}` for all defaults. Default none: plain text."""


class Timeouts(Section):
    """How long a client may take."""

    header: Duration = written("10s")
    """From the first byte of a request (or the accept) to the end of its head, however slowly it drips;
    then 408. Default 10s; 0 = no limit."""
    body: Duration = written("60s")
    """Between two bytes of a request's body; then 408. Default 60s; 0 = no limit."""
    keep_alive: Duration = written("75s")
    """Between two requests of a connection; then it is closed. Default 75s; 0 = no limit."""
    write: Duration = written("60s")
    """Without the client taking a byte of the answer that waits for it; then it is cut. Default 60s; 0 =
    no limit."""


class Limits(Section):
    """What one client, and all of them, may use up."""

    request_line_bytes: Annotated[int, size(256, _MIB)] = written("8KiB")
    """Method, target and version, 256B to 1MiB; beyond it 414. Default 8KiB."""
    header_bytes: Annotated[int, size(_KIB, 16 * _MIB)] = written("32KiB")
    """The whole head of a request, or of an answer, 1KiB to 16MiB; beyond it 431 (502). Default 32KiB."""
    header_count: Annotated[int, integer(1, 10_000)] = 100
    """Fields in a head, 1 to 10000; beyond it 431 (502). Default 100."""
    body_bytes: Size = written("0")
    """Body of a request; beyond it 413. Default 0 = no limit."""
    connections: Count = 0
    """Client connections at once. Default 0 = as many as the descriptor limit allows when each needs one
    to an endpoint."""
    connections_per_client: Count = 0
    """Client connections at once from one address. Default 0 = no limit."""
    requests_per_connection: Count = 0
    """Requests after which a client connection is closed. Default 0 = no limit; 1 = no keep-alive."""
    pipelined_requests: Annotated[int, integer(1, 10_000)] = 32
    """Requests of one connection answered in one turn before other connections get theirs, 1 to 10000.
    Default 32."""
    pipelined_bytes: Annotated[int, size(_KIB, 16 * _MIB)] = written("64KiB")
    """Bytes kept of requests that arrived before the current one is answered, 1KiB to 16MiB; beyond it
    reading pauses. Default 64KiB."""
    buffered_bytes: Size = written("256MiB")
    """Bytes that wait in each worker for slow readers; beyond it the worst are cut first. Default 256MiB;
    0 = no limit."""
    min_rate: Size = written("1KiB")
    """Slowest average rate, in bytes a second, of a request's head and body, and of a reader that has
    bytes waiting. Default 1KiB; 0 = no limit."""
    min_rate_grace: Duration = written("30s")
    """Time before that rate is asked for. Default 30s; 0 = from the first byte."""


class AccessLog(Section):
    """The access log: a JSON object for each exchange."""

    sink: Sink = "off"
    """`off`, `stdout`, or the absolute path of a file in a directory that is there; it is reopened on SIGUSR1. Default
    `off`."""


def _check_number(listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
    # Not pydantic's `min_length`: that counts only what is valid.
    if not 1 <= len(listeners) <= MAX_LISTENERS:
        raise fault_error("has too few or too many items", f"1 to {MAX_LISTENERS} listeners")
    return listeners


class Config(Section):
    """The configuration of Homeport."""

    listeners: Annotated[tuple[Listener, ...], AfterValidator(_check_number)] = Field(
        json_schema_extra={"minItems": 1, "maxItems": MAX_LISTENERS}
    )
    """Sockets that take connections, 1 to 128. Required."""
    admin: Admin = Field(default_factory=Admin)
    """The admin API. Default: as each key says."""
    workers: Workers = written("auto")
    """Processes that carry traffic: `auto` or 1 to 16. Default `auto`: the usable cores, by CPU affinity
    and the control group's quota, at most 8. More than there are cores only cost memory. With fewer at a reload,
    those too many stop as the daemon does: what they have left after `drain_timeout` is cut, WebSockets too."""
    drain_timeout: Duration = written("30s")
    """How long a stop waits for exchanges in flight. Default 30s; 0 = they are cut at once."""
    clusters: tuple[Cluster, ...] = ()
    """Groups of endpoints, at most 1024. Default none; a file needs at least one cluster or route."""
    routes: tuple[Route, ...] = ()
    """What happens to requests, the most specific match first. Default none: every request gets 404."""
    docker: Docker = Field(default_factory=Docker)
    """The Docker Engine, which is asked only when a cluster has `discovery.docker` or a `scaler` with `driver:
    docker`. Default: as each key says."""
    host_budget: HostBudget = Field(default_factory=HostBudget)
    """What all instances may claim together. Default: as each key says."""
    timeouts: Timeouts = Field(default_factory=Timeouts)
    """How long a client may take. Default: as each key says."""
    limits: Limits = Field(default_factory=Limits)
    """What one client, and all of them, may use up. Default: as each key says."""
    upgrades: tuple[Upgrade, ...] = ("websocket",)
    """Protocols of `Upgrade` that are relayed as tunnels; any other is left out and the request goes on
    without. Default `[websocket]`; `[]` = none."""
    access_log: AccessLog = Field(default_factory=AccessLog)
    """The access log. Default: as each key says."""


def config_json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors. Values may hold `${…}`, which only loading can judge."""
    schema = Config.model_json_schema()
    for model in (schema, *schema["$defs"].values()):
        for prop in model.get("properties", {}).values():
            # "" and null mean "not given" inside; in a file they are faults.
            if prop.get("default") in ("", None):
                prop.pop("default", None)
            variants = [each for each in prop.get("anyOf", ()) if each != {"type": "null"}]
            if len(variants) == 1:
                del prop["anyOf"]
                prop.update(variants[0])
    actions = [{"required": [name]} for name in ("cluster", "split", "respond", "redirect")]
    schema["$defs"]["Route"]["oneOf"] = actions
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
