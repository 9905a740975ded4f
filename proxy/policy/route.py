"""Which route a request takes.

Precedence, the first difference decides:

1. a route for the request's listener, before one for any listener;
2. the exact host, before the longest wildcard (`*.a.example.com` before `*.example.com`), before any host;
3. the exact path, before the longest prefix, before any path;
4. more header conditions, before fewer;
5. methods given, before any method;
6. the order of the file.

The first route in that order whose conditions all hold wins. So a request that matches a host but none of
that host's paths falls through to less specific hosts, and then to routes for any listener. A prefix ends at
a segment (`/query` and `/query/` both match `/query` and `/query/x`, not `/queryx`); `/` is every path, `*`
of `OPTIONS *` included. Methods are literal: a route for GET does not take HEAD.

A request that no route takes is answered 421 when every route of its listener names a host and none names
this one, 405 when a route would have taken it but for the method, and otherwise 404.

The order is worked out once per snapshot. A request costs a look-up of its host (and of each parent domain,
when there are wildcards), then per group of equal host one of its path and one per segment that a prefix can
have.
"""

from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from proxy.errors import Reason
from proxy.policy.data_key import DataKeys
from proxy.policy.rewrite import PathRewrite, Redirect, bare_prefix, compile_edits, compile_host
from proxy.snapshot import (
    HeaderEdits,
    MatchSpec,
    RedirectSpec,
    RespondSpec,
    RewriteSpec,
    RouteSpec,
    SplitSpec,
)

Field = Callable[[bytes], bytes | None]
"""Value of the request's field by its lower-case name, several joined by `, ` (RFC 9110 5.3); or `None`."""


_NO_REWRITE = RewriteSpec()


class CompiledRoute:
    """A route as the data plane uses it."""

    __slots__ = (
        "_bounds",
        "_clusters",
        "_redirect",
        "_rewrite",
        "action",
        "data",
        "fields",
        "host",
        "index",
        "is_plain",
        "match",
        "methods",
        "name",
        "only_cluster",
        "priority",
        "rate_limit",
        "request_edits",
        "respond_fields",
        "response_edits",
    )

    def __init__(self, spec: RouteSpec, index: int) -> None:
        self.name = spec.name
        self.index = index
        """Position in the file, from 0."""
        self.match = spec.match
        self.action = spec.action
        self.priority = spec.priority
        self.rate_limit = spec.rate_limit
        self.data = DataKeys(spec.locality) if spec.locality is not None else None
        """What tells which data its requests need; `None` = nothing does."""
        self.methods = frozenset(method.encode() for method in spec.match.methods)
        """Empty = any."""
        self.fields = tuple((name.encode(), value.encode()) for name, value in spec.match.headers)
        rewrite = spec.rewrite
        self.host = compile_host(rewrite.host)
        """Host for the endpoint; empty = the client's."""
        self.request_edits = compile_edits(rewrite.request_headers)
        self.response_edits = compile_edits(rewrite.response_headers)
        self.is_plain = rewrite == _NO_REWRITE
        """Nothing changes on the way: targets, fields and Host pass as they are."""
        answer = spec.action.headers if isinstance(spec.action, RespondSpec) else ()
        self.respond_fields = compile_edits(HeaderEdits(set=answer)).added
        """Lines of a fixed response, as in `FieldEdits.added`."""
        has_rewrite = rewrite.strip_prefix or rewrite.prefix
        self._rewrite = PathRewrite(rewrite.strip_prefix, rewrite.prefix) if has_rewrite else None
        redirect = spec.action if isinstance(spec.action, RedirectSpec) else None
        self._redirect = Redirect(redirect, spec.match.path_prefix) if redirect else None
        shares = spec.action.clusters if isinstance(spec.action, SplitSpec) else ()
        shares = tuple(share for share in shares if share[1] > 0)
        self._clusters = tuple(cluster for cluster, _ in shares)
        self._bounds = tuple(accumulate(weight for _, weight in shares))
        self.only_cluster = self._clusters[0] if len(shares) == 1 else None
        """The one cluster that all requests go to; `None` when there are several, or none."""

    def __repr__(self) -> str:
        return f"<CompiledRoute {self.index} {self.name!r}>"

    def takes(self, field: Field) -> bool:
        """Whether the request's fields satisfy the route's header conditions."""
        for name, wanted in self.fields:
            value = field(name)
            if value is None or (value != wanted and wanted != b"*"):
                return False
        return True

    def rewrite_target(self, raw_path: bytes, query_with_mark: bytes) -> bytes:
        """The target to forward: begins with one `/` if the route rewrites it, else as it came."""
        path = raw_path if self._rewrite is None else self._rewrite.apply(raw_path)
        return path + query_with_mark

    def redirect_location(self, scheme: bytes, host: bytes, raw_path: bytes, query_with_mark: bytes) -> bytes:
        """See `Redirect.location`; only for a route whose action is a redirect."""
        assert self._redirect is not None, self
        return self._redirect.location(scheme, host, raw_path, query_with_mark)

    def choose_cluster(self, rng: Random) -> str:
        """The cluster for a request, with odds by weight; only for a route whose action is a split."""
        if self.only_cluster is not None:
            return self.only_cluster
        bounds = self._bounds
        assert bounds, self
        return self._clusters[bisect(bounds, rng.random() * bounds[-1], 0, len(bounds) - 1)]


@dataclass(frozen=True, slots=True)
class Miss:
    """Why no route takes a request."""

    reason: Reason
    """`MISDIRECTED`, `METHOD_NOT_ALLOWED` or `NO_ROUTE`."""
    allow: bytes = b""
    """Value of the Allow field of a 405; empty otherwise."""


class _PathTable:
    """The routes of one listener condition and one host condition, by path."""

    __slots__ = ("_exact", "_longest_prefix", "_prefixes", "_rest")

    def __init__(self, routes: Iterable[CompiledRoute]) -> None:
        """`routes` are in order of precedence."""
        exact: dict[str, list[CompiledRoute]] = {}
        prefixes: dict[str, list[CompiledRoute]] = {}
        rest: list[CompiledRoute] = []
        for route in routes:
            match, prefix = route.match, bare_prefix(route.match.path_prefix)
            if match.path:
                # Both conditions must hold: decided here, once.
                if not prefix or match.path == prefix or match.path.startswith(prefix + "/"):
                    exact.setdefault(match.path, []).append(route)
            elif prefix:
                prefixes.setdefault(prefix, []).append(route)
            else:
                rest.append(route)
        self._exact = {path: tuple(found) for path, found in exact.items()}
        self._prefixes = {prefix: tuple(found) for prefix, found in prefixes.items()}
        self._longest_prefix = max(map(len, prefixes), default=0)
        self._rest = (tuple(rest),)

    def groups(self, path: str) -> Iterable[tuple[CompiledRoute, ...]]:
        """The routes whose path condition holds, in order of precedence, grouped by that condition."""
        if not self._exact and not self._prefixes:
            return self._rest
        found = []
        if path in self._exact:
            found.append(self._exact[path])
        # Only what can be a prefix is looked up, or a path of thousands of slashes would cost thousands of
        # hashes.
        longest = self._longest_prefix
        end = len(path) if len(path) <= longest else path.rfind("/", 0, longest + 1)
        while end > 0:
            routes = self._prefixes.get(path[:end])
            if routes is not None:
                found.append(routes)
            end = path.rfind("/", 0, end)
        found += self._rest
        return found


class _HostTable:
    """The routes that a listener's requests can take, by host."""

    __slots__ = ("_any_host", "_by_pattern", "_wildcards")

    def __init__(self, tables: dict[tuple[str, str], _PathTable], listener: str) -> None:
        """`tables` are all there are, by (listener or empty, host pattern or empty)."""
        tiers = dict.fromkeys((listener, ""))
        patterns = {host for tier, host in tables if tier in tiers and host}
        self._any_host = _chain(tables, tiers, [""])
        self._by_pattern = {host: _chain(tables, tiers, _patterns_for(host)) for host in patterns}
        self._wildcards = any(host.startswith("*.") for host in patterns)

    def chain(self, host: str) -> tuple[_PathTable, ...]:
        """The tables of all conditions that hold for `host`, in order of precedence."""
        by_pattern = self._by_pattern
        if not by_pattern:
            return self._any_host
        if host[-1:] == ".":
            host = host[:-1]  # The root of the name system, written out.
        chain = by_pattern.get(host)
        if chain is None and self._wildcards:
            # The longest wildcard that matches says which others do.
            dot = host.find(".", 1)
            while dot > 0 and chain is None:
                chain = by_pattern.get("*" + host[dot:])
                dot = host.find(".", dot + 1)
        return self._any_host if chain is None else chain


class RouteTable:
    """All routes of a snapshot. Immutable."""

    __slots__ = ("_by_listener", "_other_listener", "routes")

    def __init__(self, routes: Iterable[RouteSpec]) -> None:
        """Raises `ValueError` for an impossible header field."""
        self.routes = tuple(CompiledRoute(spec, index) for index, spec in enumerate(routes))
        """In order of the file."""
        grouped: dict[tuple[str, str], list[CompiledRoute]] = {}
        for route in sorted(self.routes, key=_rank_within_path):
            grouped.setdefault((route.match.listener, _host_pattern(route.match)), []).append(route)
        tables = {key: _PathTable(found) for key, found in grouped.items()}
        self._by_listener = {name: _HostTable(tables, name) for name, _ in tables}
        self._other_listener = self._by_listener.get("") or _HostTable(tables, "")
        """For listeners that no route names."""

    def match(self, listener: str, host: str, path: str, method: bytes, field: Field) -> CompiledRoute | None:
        """The route for a request, or `None`; then ask `miss`.

        `host` is in lower case without port, empty when there is none; `path` comes from `routing_path`.
        """
        for table in self._by_listener.get(listener, self._other_listener).chain(host):
            for routes in table.groups(path):
                for route in routes:
                    if (not route.methods or method in route.methods) and (
                        not route.fields or route.takes(field)
                    ):
                        return route
        return None

    def miss(self, listener: str, host: str, path: str, field: Field) -> Miss:
        """Why `match` gave `None` for this request."""
        hosts = self._by_listener.get(listener, self._other_listener)
        chain = hosts.chain(host)
        if not chain:
            # A route for any host would be in the chain.
            return Miss(Reason.MISDIRECTED if self._has_routes(listener) else Reason.NO_ROUTE)
        allowed = {
            method
            for table in chain
            for routes in table.groups(path)
            for route in routes
            if route.takes(field)
            for method in route.methods
        }
        if not allowed:
            return Miss(Reason.NO_ROUTE)
        return Miss(Reason.METHOD_NOT_ALLOWED, b", ".join(sorted(allowed)))

    def _has_routes(self, listener: str) -> bool:
        return any(route.match.listener in ("", listener) for route in self.routes)


def _rank_within_path(route: CompiledRoute) -> tuple[int, bool, int]:
    return -len(route.fields), not route.methods, route.index


def _host_pattern(match: MatchSpec) -> str:
    return "" if match.host == "*" else match.host


def _patterns_for(host: str) -> list[str]:
    """Patterns that match `host`, the most specific first: `a.b.c` gives `a.b.c`, `*.b.c`, `*.c` and the
    empty one."""
    parents = ["*" + host[index:] for index, letter in enumerate(host) if letter == "." and index]
    return list(dict.fromkeys([host, *parents, ""]))


def _chain(
    tables: dict[tuple[str, str], _PathTable], tiers: Iterable[str], patterns: list[str]
) -> tuple[_PathTable, ...]:
    keys = [(tier, pattern) for tier in tiers for pattern in patterns]
    return tuple(tables[key] for key in keys if key in tables)
