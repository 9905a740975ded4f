"""The complete, immutable picture that control hands to a worker: plain frozen values, no library, no behaviour.

A worker swaps one reference when a new snapshot arrives. Everything is resolved: names to numeric addresses, defaults
filled in, references between routes and clusters checked. All times are seconds, all sizes bytes; 0 switches a limit
or a timeout off unless its text says otherwise.
"""

from dataclasses import dataclass, field

from proxy.model import Address
from proxy.policy.admission import DEFAULT_URGENCY, QueueParams
from proxy.policy.breaker import BreakerParams
from proxy.policy.locality import LocalityParams
from proxy.policy.rate_limit import RateLimitParams
from proxy.policy.retry import RetryParams
from proxy.policy.slow_start import SlowStartParams
from proxy.policy.standing import PanicParams


@dataclass(frozen=True, slots=True)
class CertificateSpec:
    """A certificate with its chain and its key, as PEM text, found to belong together."""

    chain: bytes = field(repr=False)
    """The certificate itself first."""
    key: bytes = field(repr=False)
    """Without a password."""
    names: tuple[str, ...] = ()
    """What it is valid for, lower case: `example.com`, `*.example.com`, `10.0.0.1`."""
    expires_at: float = 0.0
    """When the first of the chain ends, in seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class ListenerTlsSpec:
    """TLS on a listener."""

    certificates: tuple[CertificateSpec, ...]
    """The client's server name chooses among them; the first is for clients that send none, or an unknown one."""
    client_auth: str = "none"
    """Whether clients show a certificate: `none`, `optional` or `required`."""
    client_ca: bytes = field(default=b"", repr=False)
    """Certificates, as PEM text, that sign the clients'."""
    forward_client_cert: bool = False
    """Endpoints are sent the client's certificate in Client-Cert (RFC 9440)."""
    min_version: str = "1.2"
    """`1.2` or `1.3`."""
    ciphers: str = ""
    """Suites of TLS 1.2 in OpenSSL's notation; empty = our own choice."""
    session_tickets: bool = True
    """Clients may resume a session with the worker that they had it with."""


@dataclass(frozen=True, slots=True)
class ClusterTlsSpec:
    """TLS to the endpoints of a cluster."""

    ca: bytes = field(default=b"", repr=False)
    """Certificates, as PEM text, that sign the endpoints'."""
    verify: bool = True
    """Whether the endpoint's certificate must be valid and name it."""
    certificate: CertificateSpec | None = None
    """What is shown to endpoints that ask for a certificate."""
    min_version: str = "1.2"
    """`1.2` or `1.3`."""


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One address of a cluster."""

    id: str
    """Stable over snapshots: `CLUSTER/ADDRESS`, or `CLUSTER/INSTANCE`. What survives keeps its connections and
    counters."""
    slot: int
    """Row in the scoreboard; fixed for the life of the endpoint."""
    address: Address
    name: str
    """The address as configured (`query-1:9000`), or what its source calls it, for people."""
    weight: int = 1
    """Share of traffic relative to the others, ≥ 1."""
    max_connections: int = 0
    """Requests in flight at once; 0 = no limit."""
    zone: str = ""
    tags: frozenset[str] = frozenset()
    slots: int = 0
    """Requests that it works on at once, the others waiting in it; 0 = as its cluster has it."""
    cache_bytes: int = 0
    """Data that it holds; 0 = as its cluster has it."""
    bandwidth_bytes_per_s: float = 0.0
    """How fast it gets data that it does not hold; 0 = as its cluster has it."""
    server_name: str = ""
    """What its certificate must name, and the name that is asked for: a host name or an IP address. Only with TLS."""
    source: str = ""
    """Who found it: `docker`, `dns`, `file` or `scaler`; empty = the configuration lists it."""
    instance: str = ""
    """Which container or process it is, as its source knows it; empty = whoever is at the address."""
    leaving: str = ""
    """Why it gets nothing new, while what it has goes on, in words of its source; empty = it is not leaving."""
    veto: str = ""
    """Why its source says that it cannot serve now; empty = it does not say so."""


@dataclass(frozen=True, slots=True)
class UpstreamTimeouts:
    """How long an endpoint may take."""

    connect_s: float = 5.0
    """From the attempt to the established connection; then 504."""
    response_s: float = 300.0
    """From the last byte of the request to the first byte of the answer; then 504."""
    idle_s: float = 60.0
    """Between two bytes of an answer while the client takes them, or until the endpoint takes more of an upload; then
    the exchange is cut."""
    tunnel_s: float = 3600.0
    """Without a byte in either direction of a tunnel (WebSocket); then it is closed."""
    total_s: float = 0.0
    """From the request's head to the end of the answer. 0 = no limit. Does not count for tunnels."""


@dataclass(frozen=True, slots=True)
class PoolParams:
    """Connections kept open to each endpoint between requests."""

    max_idle: int = 128
    """Idle connections kept per endpoint and worker; 0 = a fresh connection for every request."""
    idle_timeout_s: float = 30.0
    """Seconds unused after which a connection is closed. Keep it below the endpoint's own."""
    max_requests: int = 0
    """Requests after which a connection is closed; 0 = no limit."""


@dataclass(frozen=True, slots=True)
class HashSpec:
    """What of a request `consistent_hashing` hashes: the first of these that is given and that the request has."""

    header: str = ""
    """Lower-case name of a field."""
    query: str = ""
    """Name of a query parameter."""
    cookie: str = ""
    path: bool = False
    """The path, decoded once, without the query."""
    client_address: bool = False
    """The address of the client's connection."""
    max_load_percent: int = 125
    """Requests in flight of one endpoint as a percentage of its fair share; beyond it the next on the ring gets more.
    Above 100; 0 = no bound."""


@dataclass(frozen=True, slots=True)
class StickySpec:
    """The cookie that keeps a client with its endpoint."""

    cookie: str
    secret: str = field(default="", repr=False)
    """Key of the cookie's value; empty = made from the cluster's name."""
    path: str = "/"
    max_age_s: int = 0
    """0 = until the browser is closed."""
    secure: str = "auto"
    """`auto` (when the client came by https), `always` or `never`."""
    http_only: bool = True
    same_site: str = "lax"
    """`lax`, `strict`, `none` or `unset`."""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where in a request a value is: exactly one of the texts is given."""

    header: str = ""
    """Lower-case name of a field; a list in it, separated by commas, is several values."""
    query: str = ""
    """Name of a query parameter; given several times it is several values."""
    path: str = ""
    """Template of the path's beginning, compared decoded: `/datasets/{dataset}`; each `{…}` is a value."""
    cookie: str = ""
    json: str = ""
    """JSON pointer (RFC 6901) into the body: to a string, a whole number, or a list of them."""
    function: str = ""
    """`module:function`, which is called with the request."""
    max_body_bytes: int = 64 * 1024
    """With `json`: requests with a larger body have no such value."""
    timeout_s: float = 0.005
    """With `function`: how long one call may take, in CPU time."""


@dataclass(frozen=True, slots=True)
class DataSpec:
    """What of the requests of a route tells which data they need. Only clusters that go by data look at it."""

    keys: tuple[SourceSpec, ...] = ()
    """Names of the data: those of all sources together."""
    size: SourceSpec | None = None
    """Bytes of all of it."""
    tags: SourceSpec | None = None
    """Words that the request wishes its endpoint to have among its tags."""
    requires_tags: bool = False
    """Whether those are required; else an endpoint without one is farther away."""
    tag_distance_s: float = 0.0
    """By how many seconds, for each of them."""
    work_class: SourceSpec | None = None
    """The processing type."""
    require: frozenset[str] = frozenset()
    """Tags that the endpoint must have for any request."""
    prefer: tuple[tuple[str, float], ...] = ()
    """(tag, seconds by which an endpoint without it is farther away), for any request."""


@dataclass(frozen=True, slots=True)
class ResidencySpec:
    """Endpoints are asked which data they hold."""

    path: str
    """Target of the GET request."""
    interval_s: float = 30.0
    """Pause between two questions to an endpoint."""
    timeout_s: float = 5.0
    """Until a question without an answer is given up."""


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A group of interchangeable endpoints."""

    name: str
    balancer: str = "round_robin"
    endpoints: tuple[EndpointSpec, ...] = ()
    hash: HashSpec | None = None
    """With `consistent_hashing` alone."""
    ring: bytes = field(default=b"", repr=False)
    """`hashring.ring_points` of the endpoints' ids in their order; empty for balancers that have no ring."""
    sticky: StickySpec | None = None
    locality: LocalityParams = LocalityParams()
    """What `data_locality_aware` knows beforehand."""
    shadow: str = ""
    """Name of a second balancer whose picks are compared and not followed; empty = none."""
    strip_data_headers: bool = False
    """Clients do not get the fields by which endpoints say what they hold."""
    explain_header: str = ""
    """Name of a field that answers get, and that says why their endpoint was picked; empty = they get none."""
    residency: ResidencySpec | None = None
    """`None` = nobody is asked."""
    timeouts: UpstreamTimeouts = UpstreamTimeouts()
    pool: PoolParams = PoolParams()
    tls: ClusterTlsSpec | None = None
    """`None` = plain text."""
    breaker: BreakerParams = BreakerParams()
    panic: PanicParams = PanicParams()
    slow_start: SlowStartParams = SlowStartParams(window_s=0.0)
    retry: RetryParams = RetryParams()
    queue: QueueParams = QueueParams()
    is_scaled: bool = False
    """Instances are started for it: where there is no endpoint, one is on its way, and requests wait for it."""
    is_awaited: bool = False
    """Its endpoints are instances that others stop and start: where none is left but such as leave, one may be back in
    a moment, and requests wait for it."""
    slot: int = 0
    """Row in the scoreboard; fixed for the life of the cluster."""


@dataclass(frozen=True, slots=True)
class PrioritySpec:
    """How urgent the requests of a route are when they have to wait."""

    urgency: int = DEFAULT_URGENCY
    """0 (first) to 7 (last)."""
    from_client: bool = False
    """A Priority field (RFC 9218) of the request says it instead."""


@dataclass(frozen=True, slots=True)
class RateLimitSpec:
    """How many requests of a route each client may send."""

    params: RateLimitParams
    field: bytes = b""
    """Lower-case name of the field whose value tells clients apart; empty, or without one, by the client's address."""


@dataclass(frozen=True, slots=True)
class MatchSpec:
    """Conditions of a route; all given ones must hold. Empty = anything."""

    listener: str = ""
    host: str = ""
    """Lower case, no port. `*.example.com` matches any depth of subdomain but not `example.com`; empty or `*` any."""
    path: str = ""
    """The whole path, decoded once."""
    path_prefix: str = ""
    """A prefix that ends at a segment: `/query` matches `/query` and `/query/x`, not `/queryx`."""
    methods: frozenset[str] = frozenset()
    headers: tuple[tuple[str, str], ...] = ()
    """(lower-case name, exact value); value `*` = the field is present."""


@dataclass(frozen=True, slots=True)
class HeaderEdits:
    """Fields set (replaced or added) and removed, in that order: remove, then set."""

    set: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RewriteSpec:
    """What changes on the way to the endpoint and back."""

    strip_prefix: str = ""
    """Prefix taken off the path."""
    prefix: str = ""
    """Prefix put in front of what is left."""
    host: str = ""
    """Host sent to the endpoint; empty = the client's."""
    request_headers: HeaderEdits = HeaderEdits()
    response_headers: HeaderEdits = HeaderEdits()


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """Where requests go: clusters with their weights (≥ 0, at least one above 0). One cluster is a split of one."""

    clusters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class RespondSpec:
    """A fixed response."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RedirectSpec:
    """A redirect. Parts that are empty are taken from the request."""

    status: int = 308
    scheme: str = ""
    host: str = ""
    """With an optional `:port`."""
    path: str = ""
    """Replaces the whole path; the query stays."""
    path_prefix: str = ""
    """Replaces the part of the path that the route's `path_prefix` matched; the query stays."""


Action = SplitSpec | RespondSpec | RedirectSpec


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A match and what happens to what it matches."""

    name: str
    match: MatchSpec
    action: Action
    rewrite: RewriteSpec = RewriteSpec()
    priority: PrioritySpec = PrioritySpec()
    rate_limit: RateLimitSpec | None = None
    """`None` = no limit."""
    locality: DataSpec | None = None
    """`None` = nothing is known of the data that its requests need."""


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """A socket that takes connections."""

    name: str
    bind: Address
    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) whose X-Forwarded-*, Forwarded and X-Real-IP are believed; `unix` trusts Unix socket peers."""
    proxy_protocol: bool = False
    """Each connection must begin with a PROXY protocol header, v1 or v2."""
    tls: ListenerTlsSpec | None = None
    """`None` = plain text. With the PROXY protocol TLS begins after its header."""


@dataclass(frozen=True, slots=True)
class DownstreamTimeouts:
    """How long a client may take."""

    header_s: float = 10.0
    """From the first byte of a request (or the accept) to the end of its head, however slowly it drips; then 408."""
    body_s: float = 60.0
    """Between two bytes of a request's body; then 408."""
    keep_alive_s: float = 75.0
    """Between two requests of a connection; then it is closed."""
    write_s: float = 60.0
    """Without the client taking a byte of the answer that waits for it; then it is cut."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all of them, may use up."""

    request_line_bytes: int = 8 * 1024
    """Method, target and version; beyond it 414."""
    header_bytes: int = 32 * 1024
    """The whole head of a request, or of an answer; beyond it 431 (502)."""
    header_count: int = 100
    """Fields in a head; beyond it 431 (502)."""
    body_bytes: int = 0
    """Body of a request; beyond it 413. 0 = no limit."""
    connections: int = 0
    """Client connections at once. 0 = as many as the descriptor limit allows when each needs one to an endpoint."""
    connections_per_client: int = 0
    """Client connections at once from one address. 0 = no limit."""
    requests_per_connection: int = 0
    """Requests after which a client connection is closed. 0 = no limit."""
    pipelined_requests: int = 32
    """Requests of one connection answered in one turn before other connections get theirs, ≥ 1."""
    pipelined_bytes: int = 64 * 1024
    """Bytes kept of requests that arrived before the current one is answered; beyond it reading pauses."""
    buffered_bytes: int = 256 * 1024 * 1024
    """Bytes that wait in each worker for slow readers; beyond it the worst are cut first. 0 = no limit."""
    min_rate_bytes_per_s: int = 1024
    """Slowest average rate of a request's head and body, and of a reader that has bytes waiting. 0 = no limit."""
    min_rate_grace_s: float = 30.0
    """Seconds before that rate is asked for."""


@dataclass(frozen=True, slots=True)
class AccessLogSpec:
    """Where the access log goes."""

    sink: str = "off"
    """`off`, `stdout`, or the path of a file, which is reopened on SIGUSR1."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a worker serves from."""

    generation: int
    """Grows by one with each snapshot."""
    listeners: tuple[ListenerSpec, ...]
    clusters: tuple[ClusterSpec, ...]
    routes: tuple[RouteSpec, ...]
    """In order of configuration; the table sorts them by precedence."""
    timeouts: DownstreamTimeouts = DownstreamTimeouts()
    limits: Limits = Limits()
    upgrades: frozenset[str] = frozenset({"websocket"})
    """Upgrade tokens that are relayed, lower case; any other Upgrade is left out and the request goes on without."""
    access_log: AccessLogSpec = field(default=AccessLogSpec())
    drain_timeout_s: float = 30.0
    """How long a drain waits for exchanges in flight."""
    drained_endpoints: tuple[str, ...] = ()
    """Ids, or `CLUSTER/NAME`, of endpoints that an operator drained, whether they are there now or not. For control:
    workers go by the rows of standings."""
    drained_listeners: tuple[str, ...] = ()
    """Names of listeners that an operator drained: they are not among `listeners`, and their connections end after the
    exchange in progress."""
