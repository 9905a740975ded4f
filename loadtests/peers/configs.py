"""The configuration of every proxy of the comparison, with equal duties as far as each can.

HTTP/1.1 on both sides, two endpoints in turn with connections kept, bodies streamed both ways, access log
off, one worker or thread, `X-Forwarded-For`, `-Proto` and `-Host`, `Forwarded`, `Via`, and a new
`X-Request-Id` where none came. Where a default would stop a measurement (limits on connections, timeouts that
cut a stalled reader) it is raised for everybody; other defaults stay, for they are what people run.
"""

from dataclasses import dataclass
from pathlib import Path

from loadtests.peers.origin import user_directive

# Above what the memory rows open: 10 000 connections and as many to the origin at the very most.
CONNECTIONS = 19_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where one proxy runs: its ports, its origin's ports, a directory of its own, and its certificate."""

    port: int
    tls_port: int
    origins: tuple[int, ...]
    directory: Path
    certificate: Path
    """PEM: certificate and key."""


def nginx_config(place: Place, duties: bool) -> str:
    """One worker, requests and replies streamed, connections to both origins kept."""
    added = """
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header Forwarded 'for=$remote_addr;host="$http_host";proto=$scheme';
        proxy_set_header Via "1.1 nginx";
        proxy_set_header X-Request-Id $new_request_id;"""
    locations = f"""
        proxy_http_version 1.1;
        proxy_set_header Connection "";{added if duties else ""}
        proxy_request_buffering off;
        proxy_max_temp_file_size 0;
        proxy_read_timeout 3600s;
        proxy_send_timeout 3600s;
        location / {{ proxy_pass http://origin; }}"""
    return f"""{user_directive()}
worker_processes 1;
daemon off;
pid {place.directory}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections {CONNECTIONS}; }}
http {{
    access_log off;
    client_body_temp_path {place.directory}/body;
    proxy_temp_path {place.directory}/proxy;
    fastcgi_temp_path {place.directory}/fastcgi;
    uwsgi_temp_path {place.directory}/uwsgi;
    scgi_temp_path {place.directory}/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 3600s;
    send_timeout 3600s;
    tcp_nodelay on;
    client_max_body_size 0;
    map $http_x_request_id $new_request_id {{ "" $request_id; default $http_x_request_id; }}
    upstream origin {{
        server 127.0.0.1:{place.origins[0]};
        server 127.0.0.1:{place.origins[1]};
        keepalive 256;
        keepalive_requests 100000000;
        keepalive_timeout 3600s;
    }}
    server {{
        listen 127.0.0.1:{place.port} backlog=8192;{locations}
    }}
    server {{
        listen 127.0.0.1:{place.tls_port} ssl backlog=8192;
        ssl_certificate {place.certificate};
        ssl_certificate_key {place.certificate};
        ssl_protocols TLSv1.2 TLSv1.3;{locations}
    }}
}}
"""


def haproxy_config(place: Place, duties: bool) -> str:
    """One thread; unused connections to the origin are free for every client."""
    return f"""
global
    nbthread 1
    maxconn {CONNECTIONS}
    # Twice as many descriptors as connections are wanted at the very most; take what the limit allows.
    no strict-limits
defaults
    mode http
    no log
    maxconn {CONNECTIONS}
    timeout connect 5s
    timeout client 3600s
    timeout server 3600s
    timeout http-keep-alive 3600s
    http-reuse always
{_haproxy_listen(place, duties, "http", "")}
{_haproxy_listen(place, duties, "https", f" ssl crt {place.certificate} alpn http/1.1")}
"""


def _haproxy_listen(place: Place, duties: bool, scheme: str, tls: str) -> str:
    added = f"""
    option forwardfor
    http-request set-header X-Forwarded-Proto {scheme}
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header Forwarded for=%[src];host=\\"%[req.hdr(host)]\\";proto={scheme}
    http-request add-header Via "1.1 haproxy"
    http-request set-header X-Request-Id %[uuid()] unless {{ req.hdr(x-request-id) -m found }}"""
    return f"""
listen {scheme}
    bind 127.0.0.1:{place.tls_port if tls else place.port} backlog 8192{tls}{added if duties else ""}
    balance roundrobin
    server one 127.0.0.1:{place.origins[0]}
    server two 127.0.0.1:{place.origins[1]}"""


ENVOY_TYPES = "type.googleapis.com/envoy.extensions"


def envoy_config(place: Place, duties: bool) -> dict[str, object]:
    """One worker. The limits of the cluster, 1024 by default, and the timeouts that would cut a stalled
    reader are raised."""
    remote = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
    added = {
        "X-Forwarded-Host": "%REQ(:authority)%",
        "Forwarded": f'for={remote};host="%REQ(:authority)%";proto=http',
    }
    manager: dict[str, object] = {
        "@type": f"{ENVOY_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "codec_type": "HTTP1",
        "use_remote_address": duties,
        "skip_xff_append": not duties,
        "generate_request_id": duties,
        "preserve_external_request_id": True,
        "stream_idle_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{ENVOY_TYPES}.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}],
                    "request_headers_to_add": [
                        {"header": {"key": key, "value": value}} for key, value in added.items() if duties
                    ],
                }
            ]
        },
    }
    if duties:
        manager["via"] = "1.1 envoy"
    thresholds = {name: CONNECTIONS for name in ("max_connections", "max_pending_requests", "max_requests")}
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "edge",
                    "address": _envoy_address(place.port),
                    "tcp_backlog_size": 8192,
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "origin",
                    "type": "STATIC",
                    "lb_policy": "ROUND_ROBIN",
                    "connect_timeout": "5s",
                    "circuit_breakers": {"thresholds": [thresholds]},
                    "load_assignment": {
                        "cluster_name": "origin",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {"endpoint": {"address": _envoy_address(port)}} for port in place.origins
                                ]
                            }
                        ],
                    },
                }
            ],
        }
    }


def _envoy_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def traefik_configs(place: Place) -> tuple[dict[str, object], dict[str, object]]:
    """Its static and dynamic configuration. It adds X-Forwarded-* by itself, but can neither make
    `Forwarded`, whose value differs from request to request, nor a request id without a plug-in."""
    timeouts = {"readTimeout": "0s", "writeTimeout": "0s", "idleTimeout": "3600s"}
    static: dict[str, object] = {
        "entryPoints": {
            "edge": {"address": f"127.0.0.1:{place.port}", "transport": {"respondingTimeouts": timeouts}}
        },
        "providers": {"file": {"filename": str(place.directory / "dynamic.json"), "watch": False}},
        "serversTransport": {"maxIdleConnsPerHost": 256},
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "ERROR"},
    }
    servers = [{"url": f"http://127.0.0.1:{port}"} for port in place.origins]
    dynamic: dict[str, object] = {
        "http": {
            "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "origin", "middlewares": ["duties"]}},
            "middlewares": {"duties": {"headers": {"customRequestHeaders": {"Via": "1.1 traefik"}}}},
            "services": {"origin": {"loadBalancer": {"servers": servers}}},
        }
    }
    return static, dynamic


def caddy_config(place: Place) -> str:
    """It adds X-Forwarded-* and Via by itself."""
    forwarded = r"for={http.request.remote.host};host=\"{http.request.hostport}\";proto={http.request.scheme}"
    return f"""{{
    admin off
    auto_https off
    persist_config off
    log {{
        level ERROR
    }}
    servers {{
        protocols h1
        timeouts {{
            idle 1h
        }}
    }}
}}
http://:{place.port} {{
    bind 127.0.0.1
    @new not header X-Request-Id *
    request_header @new X-Request-Id {{http.request.uuid}}
    reverse_proxy 127.0.0.1:{place.origins[0]} 127.0.0.1:{place.origins[1]} {{
        lb_policy round_robin
        header_up Forwarded "{forwarded}"
        transport http {{
            keepalive 1h
            keepalive_idle_conns_per_host 256
        }}
    }}
}}
"""


def homeport_config(place: Place, admin_port: int, *, by_data: bool = False) -> dict[str, object]:
    """The smallest configuration: everything that is on by default stays on. `by_data` = requests go where the data are
    that a header names."""
    cluster: dict[str, object] = {
        "name": "origin",
        "endpoints": [{"address": f"127.0.0.1:{port}"} for port in place.origins],
    }
    route: dict[str, object] = {"match": {"path_prefix": "/"}, "cluster": "origin"}
    if by_data:
        cluster["balancer"] = "data_locality_aware"
        route["locality"] = {"data_key": {"header": "X-Dataset-Id"}}
    return {
        "listeners": [
            {"bind": f"127.0.0.1:{place.port}"},
            {
                "bind": f"127.0.0.1:{place.tls_port}",
                "tls": {"certificates": [{"cert": str(place.certificate), "key": str(place.certificate)}]},
            },
        ],
        "admin": {"bind": f"127.0.0.1:{admin_port}"},
        "clusters": [cluster],
        "routes": [route],
    }
