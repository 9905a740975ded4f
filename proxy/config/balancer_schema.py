"""The models of a cluster's balancing: what is hashed, and the cookie that keeps clients in place. See `schema`."""

from pydantic import Field, model_validator

from proxy.config.kinds import (
    CookieName,
    CookiePath,
    CookieSecure,
    Duration,
    Flag,
    HeaderName,
    LoadPercent,
    QueryName,
    SameSite,
    Secret,
    fault_error,
)
from proxy.config.section import Section, written

_SOURCES = ("header", "query", "cookie", "path", "client_address")


class Hash(Section):
    """What of a request `consistent_hashing` goes by. Of several keys the first in the order of this list that the
    request has, and not empty; at least one must be given. A request that has none goes where the fewest requests are
    in flight."""

    header: HeaderName = ""
    """Value of this header field; several are taken together. Default none."""
    query: QueryName = ""
    """Value of this query parameter, decoded; the first of several. Default none."""
    cookie: CookieName = ""
    """Value of this cookie. Default none."""
    path: Flag = False
    """The path, decoded once, without the query. Default false."""
    client_address: Flag = False
    """The address of the client: that of its connection, or the one which a trusted proxy names. Default false."""
    max_load_percent: LoadPercent = 125
    """Requests in flight at one endpoint, over all workers, as a percentage of its fair share; what is beyond goes to
    the next endpoint of the same key. Near 100 loads are even and keys move much; 0 = no bound, keys never move for
    load. 0 or 101 to 10000. Default 125."""

    @model_validator(mode="after")
    def _check(self) -> "Hash":
        if not any(getattr(self, source) for source in _SOURCES):
            raise fault_error("names nothing to hash", f"at least one of {', '.join(_SOURCES)}")
        return self


class Sticky(Section):
    """A cookie that Homeport sets, and takes out of requests again, so that a client stays with one endpoint while that
    is there and has room. Its value names the endpoint to nobody but Homeport; a value that is not valid counts as
    none. An answer that sets it also says `Cache-Control: private`."""

    cookie: CookieName
    """Name of the cookie; take one that no endpoint uses. Required."""
    secret: Secret | None = Field(default=None, repr=False)
    """Key that the cookie's values are made with; 1 to 1024 visible ASCII characters, best from `${file:PATH}` or
    `${ENV_VAR}`, and the same wherever clients should be recognised. Another one makes all clients choose anew.
    Default none: the cluster's name is the key, with which values are stable, but a person who knows it can check
    whether a value stands for an address that he guesses."""
    path: CookiePath = "/"
    """Path that the cookie is sent for. Default /."""
    max_age: Duration = written("0")
    """Time that the client keeps the cookie from when it was set, in whole seconds; it is not prolonged. Default 0 =
    until the browser is closed."""
    secure: CookieSecure = "auto"
    """Whether the cookie is for https alone: `always`, `never`, or when the client that gets it came by https. Default
    auto."""
    http_only: Flag = True
    """Hides the cookie from scripts in the browser. Default true."""
    same_site: SameSite = "lax"
    """When a browser sends the cookie with requests that other sites cause: `lax` (following a link), `strict` (never),
    `none` (always; needs `secure: always`), `unset` = as the browser has it. Default lax."""

    @model_validator(mode="after")
    def _check(self) -> "Sticky":
        if 0 < self.max_age < 1:
            raise fault_error("has a max_age below one second", "0, or at least 1s")
        if self.secure == "always":
            return self
        if self.same_site == "none":
            raise fault_error(
                "has same_site: none without secure: always", "both, or browsers drop the cookie"
            )
        if self.cookie.lower().startswith(("__host-", "__secure-")):
            raise fault_error("has a cookie that browsers take with Secure alone", "secure: always")
        return self
