"""A client stays with the endpoint that served it first, by a cookie that Homeport sets and reads alone.

The cookie's value is a keyed hash of the endpoint's id (blake2b, 128 bits): the same in all workers and after a
restart, of the same length for all, and nothing that a client could make up, change into another endpoint's or read an
address from. What it stands for is found in a table of the present endpoints' values, so one that was forged, belongs
to another cluster or names an endpoint that is gone is simply not there, and the request is as one without a cookie.
HAProxy's `cookie NAME insert indirect nocache` is the model:

- set only on the answer to a request that did not bring the right one (insert);
- taken out of the request, so that endpoints neither see nor log nor reflect it (indirect);
- an answer that sets it says `Cache-Control: private`, or a shared cache would hand one client's endpoint to all who
  ask for the same (nocache).
"""

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import Generic

from proxy.policy.picker import C
from proxy.snapshot import StickySpec

_TOKEN_BYTES = 16


def secret_key(secret: str, cluster: str) -> bytes:
    """The key of a cluster's tokens, 32 bytes. Without a `secret` it is made from the cluster's name: it agrees over
    workers and restarts, but who knows the name can tell whether a token is that of an address he guesses."""
    return blake2b(secret.encode() or cluster.encode(), digest_size=32, person=b"homeport sticky").digest()


def endpoint_token(endpoint_id: str, key: bytes) -> bytes:
    """What stands for an endpoint in the cookie: 22 characters of base64url."""
    digest = blake2b(endpoint_id.encode(), digest_size=_TOKEN_BYTES, key=key).digest()
    return urlsafe_b64encode(digest).rstrip(b"=")


def cookie_value(field: bytes, name: bytes) -> bytes | None:
    """The value of the cookie `name` in the value of Cookie (RFC 6265 4.2.1), the first of several; `None` if absent.

    `a=1; b=2` has 2 for b. Blanks around it and the quotes that a value may have are left out.
    """
    if name not in field:
        return None
    for pair in field.split(b";"):
        key, separator, value = pair.partition(b"=")
        if separator and key.strip(b" \t") == name:
            value = value.strip(b" \t")
            return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value
    return None


def without_cookie(field: bytes, name: bytes) -> bytes:
    """The value of Cookie without the cookie `name`: `a=1; b=2; c=3` without b is `a=1; c=3`. May be empty."""
    pairs = [pair for pair in field.split(b";") if pair.partition(b"=")[0].strip(b" \t") != name]
    return b";".join(pairs).strip(b" \t")


class Stickiness(Generic[C]):
    """The tokens of one cluster's members, and the lines that set them."""

    __slots__ = ("_lines", "_members", "name")

    def __init__(self, spec: StickySpec, members: Sequence[C], cluster: str) -> None:
        key = secret_key(spec.secret, cluster)
        tokens = [endpoint_token(member.id, key) for member in members]
        self.name = spec.cookie.encode()
        """The cookie's name."""
        self._members = dict(zip(tokens, members, strict=True))
        self._lines = {
            member.id: tuple(_set_line(spec, token, is_https) for is_https in (False, True))
            for token, member in self._members.items()
        }

    def __repr__(self) -> str:
        return f"<Stickiness {self.name!r}, {len(self._members)} members>"

    def member(self, token: bytes | None) -> C | None:
        """Whom `token` stands for; `None` when it is nobody's."""
        return None if token is None else self._members.get(token)

    def set_line(self, member: C, token: bytes | None, *, is_https: bool) -> bytes:
        """What the answer from `member` gets, lines that begin with CRLF; empty when the client brought the right
        `token`."""
        lines = self._lines.get(member.id)
        if lines is None or (token is not None and self._members.get(token) is member):
            return b""
        return lines[is_https]


def _set_line(spec: StickySpec, token: bytes, is_https: bool) -> bytes:
    """Set-Cookie (RFC 6265 4.1) for `token`, and what keeps the answer out of shared caches (RFC 9111 5.2.2.7)."""
    parts = [b"%b=%b" % (spec.cookie.encode(), token), b"Path=" + spec.path.encode()]
    if spec.max_age_s:
        parts.append(b"Max-Age=%d" % spec.max_age_s)
    if spec.secure == "always" or (spec.secure == "auto" and is_https):
        parts.append(b"Secure")
    if spec.http_only:
        parts.append(b"HttpOnly")
    if spec.same_site != "unset":
        parts.append(b"SameSite=" + spec.same_site.title().encode())
    return b"\r\nSet-Cookie: " + b"; ".join(parts) + b"\r\nCache-Control: private"
