"""The admin API: health, metrics and status over HTTP, on its own address, served by aiohttp.

It reads the scoreboard, the current snapshot and what the workers report, all through one `DaemonView` a request, and
hands on what is asked of control. Every answer but `/metrics` is JSON. Who may ask is decided in `guard`, before
routing, so that a refused caller does not even learn which paths exist. aiohttp runs with its C parser only: the
pure-Python one was open to request smuggling (CVE-2023-47627, CVE-2025-69224).
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp.http_parser
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.admin.guard import Asking, Guard, Refusal
from proxy.admin.listener import bound_socket, remove_socket
from proxy.admin.streams import EventStreams
from proxy.controlplane.drains import UnknownTarget
from proxy.controlplane.events import EventLog
from proxy.controlplane.explaining import BadQuestion, NoAnswer, Question
from proxy.errors import ConfigError
from proxy.model import Address, TcpAddress, UnixAddress
from proxy.telemetry.metrics import MetricsPage
from proxy.telemetry.status import (
    DaemonView,
    cluster_document,
    clusters_document,
    find_cluster,
    status_document,
    unready_reason,
    unusable_reason,
)

_log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Need no token: orchestrators and Prometheus ask them."""

MAX_CONNECTIONS = 128
"""Connections at once; one more closes the oldest. Closing the newest instead would let anybody who holds
connections open shut out the health check."""

KEEP_ALIVE_S = 75.0
"""Seconds a connection may be idle between requests; longer than the usual scrape interval of 15 to 60 s."""

STOP_S = 2.0
"""Seconds that answers under way get when the server stops."""

MAX_DIGITS = 6
"""Of a number of instances; more than anybody has."""

_ERROR_NAMES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    421: "misdirected",
    500: "internal",
    503: "unavailable",
    504: "timeout",
}


def require_c_parser() -> None:
    """Raise ConfigError when aiohttp would parse requests in pure Python."""
    if value := os.environ.get("AIOHTTP_NO_EXTENSIONS"):
        raise ConfigError("environment: AIOHTTP_NO_EXTENSIONS", value, "it unset, for aiohttp's C parser")
    if aiohttp.http_parser.HttpRequestParser is aiohttp.http_parser.HttpRequestParserPy:
        raise ConfigError("installation: aiohttp", "pure Python", "a build with the C parser")


class Report(Protocol):
    """What became of something that was asked for."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        ...


class Commands(Protocol):
    """What control does when it is asked to."""

    events: EventLog

    async def reload(self) -> Report:
        """Serve what the configuration's file says now."""
        ...

    def set_drained(self, name: str, is_drained: bool) -> Report:
        """Drain endpoints, or end that. Raises `UnknownTarget`."""
        ...

    async def set_listener_drained(self, name: str, is_drained: bool) -> Report:
        """Drain a listener, or end that. Raises `UnknownTarget`, and `ConfigError` when it cannot be opened."""
        ...

    def scale(self, name: str, count: int | None) -> dict[str, Any]:
        """Have `count` instances of a cluster, `None` = as many as its load asks for; returns what becomes of it.
        Raises `UnknownTarget`."""
        ...

    def retry_deploy(self, name: str) -> dict[str, Any]:
        """Try the deployment of a cluster again that was called off. Raises `UnknownTarget`."""
        ...

    async def explain(self, question: Question) -> dict[str, Any]:
        """Where a request would go. Raises `UnknownTarget`, `BadQuestion` and `NoAnswer`."""
        ...


class AdminServer:
    """The server on one address. `view` is called for each request and must not block."""

    def __init__(
        self,
        bind: Address,
        token: str | None,
        view: Callable[[], DaemonView],
        metrics: MetricsPage,
        commands: Commands,
    ) -> None:
        self._bind = bind
        self._guard = Guard(bind, token)
        self._view = view
        self._metrics = metrics
        self._commands = commands
        self._streams = EventStreams(commands.events)
        self._address = bind
        self._runner: web.AppRunner | None = None
        self._server: asyncio.AbstractServer | None = None

    @property
    def address(self) -> Address:
        """Where it listens; with the port that was bound, once started."""
        return self._address

    def set_token(self, token: str | None) -> None:
        """Ask for `token` from the next request on."""
        self._guard = Guard(self._bind, token)

    async def start(self) -> None:
        """Begin to serve. Raises ConfigError when the address cannot be bound or aiohttp is not safe to
        use."""
        require_c_parser()
        sock = bound_socket(self._bind)
        if isinstance(self._bind, TcpAddress):
            self._address = TcpAddress(self._bind.host, sock.getsockname()[1])
        self._runner = web.AppRunner(
            self._application(),
            handle_signals=False,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            shutdown_timeout=STOP_S,
        )
        loop = asyncio.get_running_loop()
        serve = loop.create_unix_server if isinstance(self._bind, UnixAddress) else loop.create_server
        try:
            await self._runner.setup()
            self._server = await serve(self._new_connection, sock=sock)
        except BaseException:
            sock.close()
            remove_socket(self._bind)
            raise

    async def stop(self) -> None:
        """Close the address and finish answers under way. Idempotent."""
        if self._server is None or self._runner is None:
            return
        self._server.close()
        remove_socket(self._bind)
        await self._runner.cleanup()
        self._server = self._runner = None

    def _new_connection(self) -> asyncio.Protocol:
        assert self._runner is not None and self._runner.server is not None
        server = self._runner.server
        connections = server.connections
        if len(connections) >= MAX_CONNECTIONS:
            connections[0].force_close()
        return server()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[_answer_errors_in_json, self._check_caller], client_max_size=1024)
        app.on_response_prepare.append(_set_common_headers)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        app.on_shutdown.append(self._streams.on_shutdown)
        app.router.add_post("/api/v1/reload", self._reload_config)
        app.router.add_post("/api/v1/endpoints/{name:.+}/{action:drain|undrain}", self._drain_endpoints)
        app.router.add_post("/api/v1/listeners/{name}/{action:drain|undrain}", self._drain_listener)
        app.router.add_get("/api/v1/events", self._streams.serve)
        app.router.add_get("/api/v1/status", self._status)
        app.router.add_get("/api/v1/explain", self._explain)
        app.router.add_get("/api/v1/clusters", self._clusters)
        app.router.add_get("/api/v1/clusters/{name}", self._cluster)
        app.router.add_post("/api/v1/clusters/{name}/scale", self._scale)
        app.router.add_post("/api/v1/clusters/{name}/deploy/retry", self._retry_deploy)
        return app

    @web.middleware
    async def _check_caller(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        asking = Asking(
            hosts=request.headers.getall("Host", []),
            origin=request.headers.get("Origin"),
            authorization=request.headers.get("Authorization"),
            is_http10=request.version < (1, 1),
        )
        refused = self._guard.refusal(asking, is_open=request.path in OPEN_PATHS)
        if refused is None:
            return await handler(request)
        response = _error(refused.status, refused.text)
        if refused in (Refusal.NO_TOKEN, Refusal.WRONG_TOKEN):
            response.headers["WWW-Authenticate"] = 'Bearer realm="homeport admin"'
        return response

    async def _healthz(self, _: web.Request) -> web.Response:
        """Alive: this process answers."""
        return _json({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        """Fit for traffic: as a whole, or for one cluster."""
        view = self._view()
        reason = unready_reason(view)
        name = request.query.get("cluster")
        if reason is None and name is not None:
            cluster = find_cluster(view, name)
            if cluster is None:
                return _error(404, "there is no cluster of that name")
            reason = unusable_reason(view, cluster)
        if reason is not None:
            return _json({"ready": False, "reason": reason}, status=503)
        return _json({"ready": True})

    async def _metrics_page(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        encodings = ",".join(request.headers.getall("Accept-Encoding", []))
        # In a thread: a fleet's page takes longer than the loop may be busy.
        body, headers = await asyncio.to_thread(self._metrics.render, accept, encodings)
        return web.Response(body=body, headers={**headers, "Vary": "Accept, Accept-Encoding"})

    async def _reload_config(self, _: web.Request) -> web.Response:
        """Have the configuration's file read again. 422 when it has faults; then nothing has changed."""
        document = (await self._commands.reload()).document()
        if not document["faults"]:
            return _json(document)
        message = "the configuration has faults, the last one is served on"
        return _json({"error": "invalid_config", "message": message, **document}, status=422)

    async def _drain_endpoints(self, request: web.Request) -> web.Response:
        name, is_drained = request.match_info["name"], request.match_info["action"] == "drain"
        try:
            return _json(self._commands.set_drained(name, is_drained).document())
        except UnknownTarget as error:
            return _error(404, str(error))

    async def _drain_listener(self, request: web.Request) -> web.Response:
        name, is_drained = request.match_info["name"], request.match_info["action"] == "drain"
        try:
            return _json((await self._commands.set_listener_drained(name, is_drained)).document())
        except UnknownTarget as error:
            return _error(404, str(error))
        except ConfigError as error:
            return _error(409, str(error))

    async def _scale(self, request: web.Request) -> web.Response:
        """`?instances=N` sets the size by hand, `?mode=auto` leaves it to the load again."""
        count, mode = request.query.get("instances"), request.query.get("mode")
        if (count is None) is (mode is None) or mode not in (None, "auto"):
            return _error(400, "give either instances=N or mode=auto")
        if count is not None and not (count.isascii() and count.isdigit() and len(count) <= MAX_DIGITS):
            return _error(400, f"instances: it is no number of instances, got {count!r}")
        try:
            name, number = request.match_info["name"], None if count is None else int(count)
            return _json(self._commands.scale(name, number))
        except UnknownTarget as error:
            return _error(404, str(error))

    async def _retry_deploy(self, request: web.Request) -> web.Response:
        """Try a deployment again that was called off; does nothing to any other."""
        try:
            return _json(self._commands.retry_deploy(request.match_info["name"]))
        except UnknownTarget as error:
            return _error(404, str(error))

    async def _explain(self, request: web.Request) -> web.Response:
        """Where a request would go, and why. 504 when no worker answers."""
        query = request.query
        question = Question(
            query.get("cluster", ""),
            query.getall("data_key", []),
            query.get("size"),
            query.getall("tag", []),
            query.get("type", ""),
            query.get("route", ""),
        )
        try:
            return _json(await self._commands.explain(question))
        except UnknownTarget as error:
            return _error(404, str(error))
        except BadQuestion as error:
            return _error(400, str(error))
        except NoAnswer as error:
            return _error(504, str(error))

    async def _status(self, _: web.Request) -> web.Response:
        return _json(status_document(self._view()))

    async def _clusters(self, _: web.Request) -> web.Response:
        return _json(clusters_document(self._view()))

    async def _cluster(self, request: web.Request) -> web.Response:
        view = self._view()
        cluster = find_cluster(view, request.match_info["name"])
        if cluster is None:
            return _error(404, "there is no cluster of that name")
        return _json(cluster_document(view, cluster))


@web.middleware
async def _answer_errors_in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        response = _error(error.status, error.reason.lower())
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except Exception:
        _log.exception("admin API: %s failed", request.rel_url.path)
        return _error(500, "an internal error, see the log")


async def _set_common_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "homeport"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _json(document: dict[str, Any], *, status: int = 200) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return _json({"error": _ERROR_NAMES.get(status, "error"), "message": message}, status=status)
