"""`homeport scale`: asks a running daemon for another size of a cluster, and says what becomes of it."""

import sys
from typing import TextIO
from urllib.parse import quote

import orjson

from proxy.admin.client import AdminUnreachable, fetch, parse_admin
from proxy.admin.render import scaling_text

EXIT_FAILED = 1


def ask_scale(
    admin: str,
    token: str | None,
    as_json: bool,
    cluster: str,
    count: int | None,
    *,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Have `count` instances of `cluster`, `None` = as many as its load asks for, and print what becomes of it; returns
    the exit code, 0 or 1."""
    out, err = out or sys.stdout, err or sys.stderr
    wish = "mode=auto" if count is None else f"instances={count}"
    path = f"/api/v1/clusters/{quote(cluster, safe='')}/scale?{wish}"
    try:
        answer = fetch(parse_admin(admin), path, token, is_asking=True)
        if as_json:
            out.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE).decode())
        else:
            out.write(f"{cluster}: {scaling_text(answer)}\n")
        return 0
    except AdminUnreachable as error:
        print(f"homeport: {error}", file=err)
    except (KeyError, TypeError) as error:
        print(f"homeport: {admin} answers as another version would: {error!r} is missing or odd", file=err)
    return EXIT_FAILED
