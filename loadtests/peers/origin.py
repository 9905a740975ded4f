"""The origin that every proxy forwards to: one nginx worker on two ports, so that it never is what is
measured.

| path       | answers                                                                                   |
|------------|-------------------------------------------------------------------------------------------|
| `/tiny`    | three bytes, from memory                                                                  |
| `/10k`     | 10 KB by length                                                                           |
| `/1m` `/8m`| 1 MB, 8 MB by length                                                                      |
| `/chunked` | the 1 MB again with chunked coding, in chunks of 32 KiB                                   |
| `/upload`  | reads the whole body into memory, then answers with the number of bytes of the request    |
| `/echo`    | reads the whole body, then answers with it: the check that an upload arrives unharmed     |
| `/headers` | the forwarding headers that arrived, one a line, after the request line                   |
| `/port`    | the port it was reached on                                                                |

Two of these need a trick. nginx has no handler that reads a body and drops it: `return` alone answers first
and discards later, which would time an early reply. Here the `mirror` module reads the body (that is its duty
before it copies the request to a location that does nothing), then the static handler refuses the POST with
405, which `error_page` makes a 200. Sending the body on to a second server would work as well, and cost the
load's core twice. And a static file loses its length, so becomes chunked, when the addition module may put
something after it.
"""

import os
import pwd
from pathlib import Path

from loadtests.peers.processes import Child, Children

FORWARDING_HEADERS = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "via",
    "x-request-id",
)
KB = 1000
SIZES = {"tiny": 3, "10k": 10 * KB, "1m": 1000 * KB, "8m": 8000 * KB}
UPLOAD_BYTES = SIZES["1m"]


def payload(size: int) -> bytes:
    """`size` bytes without a short period: a block that is lost, doubled or moved changes them."""
    words = (b"%08x" % (index * 2654435761 % 2**32) for index in range(size // 8 + 1))
    return b"".join(words)[:size]


def user_directive() -> str:
    """For root only: nginx would give its workers another user, who may not read the files made here."""
    return f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""


def render(directory: Path, ports: tuple[int, int], send_buffer: str | None = None) -> str:
    """nginx's configuration; `directory` is the place of the files and of its process id.

    `send_buffer`, as `4k`, is the size of its sockets' send buffers; None leaves it to the kernel.
    """
    sndbuf = f" sndbuf={send_buffer}" if send_buffer else ""
    listen = "\n".join(f"        listen 127.0.0.1:{port} backlog=8192{sndbuf};" for port in ports)
    names = "".join(f"{name}: $http_{name.replace('-', '_')}\\n" for name in FORWARDING_HEADERS)
    return f"""{user_directive()}
worker_processes 1;
daemon off;
pid {directory}/origin.pid;
error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    default_type application/octet-stream;
    keepalive_requests 100000000;
    keepalive_timeout 3600s;
    send_timeout 3600s;
    sendfile on;
    tcp_nodelay on;
    open_file_cache max=16 inactive=1h;
    client_max_body_size 0;
    client_body_buffer_size 2m;
    client_body_temp_path {directory}/origin-body;
    proxy_temp_path {directory}/origin-proxy;
    fastcgi_temp_path {directory}/origin-fastcgi;
    uwsgi_temp_path {directory}/origin-uwsgi;
    scgi_temp_path {directory}/origin-scgi;
    server {{
{listen}
        root {directory}/files;
        location = /tiny {{ return 200 "ok\\n"; }}
        location = /chunked {{
            alias {directory}/files/1m;
            sendfile off;
            output_buffers 2 32k;
            addition_types *;
            add_after_body /nothing;
        }}
        location = /nothing {{ internal; empty_gif; return 200; }}
        location = /upload {{ mirror /mirror; alias {directory}/files/tiny; error_page 405 =200 @received; }}
        location = /echo {{ mirror /mirror; alias {directory}/files/tiny; error_page 405 =200 @same; }}
        location = /mirror {{ internal; return 204; }}
        location @received {{ return 200 "$request_length\\n"; }}
        location @same {{ return 200 "$request_body"; }}
        location = /port {{ return 200 "$server_port\n"; }}
        location = /headers {{ return 200 "$request\\n{names}"; }}
    }}
}}
"""


def start(
    children: Children,
    directory: Path,
    ports: tuple[int, int],
    cores: list[int],
    send_buffer: str | None = None,
) -> Child:
    """Write the files, start nginx on `cores`, return when it accepts."""
    files = directory / "files"
    files.mkdir(parents=True)
    for name, size in SIZES.items():
        (files / name).write_bytes(b"ok\n" if name == "tiny" else payload(size))
    config = directory / "origin.conf"
    config.write_text(render(directory, ports, send_buffer))
    child = children.start("origin", ["nginx", "-c", str(config), "-p", str(directory)], cores)
    for port in ports:
        child.wait_for_port(port)
    return child
