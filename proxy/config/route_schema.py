"""The models of a route: what it matches, what it does, what it changes. See `schema`."""

from pydantic import Field, model_validator

from proxy.config.kinds import (
    Authority,
    EditedHeader,
    HeaderConditions,
    HeaderValues,
    HostPattern,
    Method,
    Name,
    PlainPath,
    RedirectStatus,
    Scheme,
    SplitWeight,
    Status,
    Text,
    fault_error,
)
from proxy.config.locality_schema import RouteLocality
from proxy.config.resilience_schema import Priority, RateLimit
from proxy.config.section import Section

# A status without content (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
_BODILESS = (204, 205, 304)


class Match(Section):
    """Conditions of a route; all given ones must hold. Without any, everything matches."""

    listener: Name = ""
    """Name of the listener that took the connection. Default any."""
    host: HostPattern = ""
    """Host of the request without port. `*.example.com` matches any depth of subdomain but not `example.com`.
    Default any, as is `*`."""
    path: PlainPath = ""
    """The whole path, decoded once. Default any."""
    path_prefix: PlainPath = ""
    """A prefix of the decoded path that ends at a segment: `/query` matches `/query` and `/query/x`, not
    `/queryx`. Default any."""
    methods: tuple[Method, ...] = ()
    """Methods, in upper case. Default any."""
    headers: HeaderConditions = Field(default_factory=dict)
    """Header fields and their exact values; `*` = the field is present. Default none."""

    @model_validator(mode="after")
    def _check(self) -> "Match":
        prefix = self.path_prefix.removesuffix("/")
        if self.path and not f"{self.path}/".startswith(f"{prefix}/"):
            raise fault_error("never holds: path is not below path_prefix", "one of path and path_prefix")
        return self


class SplitPart(Section):
    """One cluster of a split."""

    cluster: Name
    """Name of the cluster. Required."""
    weight: SplitWeight = 1
    """Share of requests relative to the other parts, 0 to 65535; 0 = none. Default 1."""


class Respond(Section):
    """A fixed response."""

    status: Status = 200
    """Status code, 200 to 599. Default 200."""
    body: Text = ""
    """The body, sent as UTF-8, at most 65536 characters. Default empty."""
    headers: HeaderValues = Field(default_factory=dict)
    """Header fields of the response, such as Content-Type. Default none."""

    @model_validator(mode="after")
    def _check(self) -> "Respond":
        if self.body and self.status in _BODILESS:
            raise fault_error("has a body with a status that allows none", "no body with 204, 205 and 304")
        return self


class Redirect(Section):
    """A redirect. Parts that are not given are taken from the request; at least one must be given."""

    status: RedirectStatus = 308
    """301, 302, 303, 307 or 308. Default 308: permanent, and the method stays."""
    scheme: Scheme = ""
    """`http` or `https`. Default: the request's."""
    host: Authority = ""
    """Host with an optional `:port`. Default: the request's."""
    path: PlainPath = ""
    """Replaces the whole path; the query stays. Default: the request's path."""
    path_prefix: PlainPath = ""
    """Replaces the part of the path that the route's `path_prefix` matched; the query stays. Default:
    nothing."""

    @model_validator(mode="after")
    def _check(self) -> "Redirect":
        if not (self.scheme or self.host or self.path or self.path_prefix):
            raise fault_error("leads back to itself", "at least one of scheme, host, path, path_prefix")
        if self.path and self.path_prefix:
            raise fault_error("has both path and path_prefix", "one of them")
        return self


class HeaderEdits(Section):
    """Header fields removed and set, in that order. Host and the fields of framing and connection are
    refused."""

    set: HeaderValues = Field(default_factory=dict)
    """Fields that are replaced, or added where there is none. Default none."""
    remove: tuple[EditedHeader, ...] = ()
    """Fields that are taken out, whatever their case. Default none."""


class Rewrite(Section):
    """What changes on the way to the endpoint and back."""

    strip_prefix: PlainPath = ""
    """Prefix taken off the path; must be in what the route matches. Default none."""
    prefix: PlainPath = ""
    """Prefix put in front of what is left of the path, as plain text. Default none."""
    host: Authority = ""
    """Host sent to the endpoint, with an optional `:port`. Default: the client's."""
    request_headers: HeaderEdits = Field(default_factory=HeaderEdits)
    """Fields changed on the way to the endpoint. Default none."""
    response_headers: HeaderEdits = Field(default_factory=HeaderEdits)
    """Fields changed on the way to the client. Default none."""


class Route(Section):
    """A match and what happens to what it matches: exactly one of cluster, split, respond and redirect."""

    name: Name = ""
    """Name for logs and metrics. Default `route-1` and so on, by position."""
    match: Match = Field(default_factory=Match)
    """Conditions. Default none: everything matches."""
    cluster: Name = ""
    """Name of the cluster that gets the requests. Default none."""
    split: tuple[SplitPart, ...] = ()
    """Clusters that share the requests by weight. Default none."""
    respond: Respond | None = None
    """A fixed response. Default none."""
    redirect: Redirect | None = None
    """A redirect. Default none."""
    rewrite: Rewrite = Field(default_factory=Rewrite)
    """What changes on the way to the endpoint and back; only with `cluster` or `split`. Default nothing."""
    priority: Priority = Field(default_factory=Priority)
    """How urgent its requests are when they have to wait. Default: as each key says."""
    rate_limit: RateLimit | None = None
    """How many requests each client may send. Default none: as many as it likes."""
    locality: RouteLocality | None = None
    """What of its requests tells which data they need; only with a cluster that is `data_locality_aware`. Default
    none."""
