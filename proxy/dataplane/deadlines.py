"""Who has the next step of an exchange, and how long."""

from typing import TYPE_CHECKING

from proxy.dataplane.states import State
from proxy.errors import Reason

if TYPE_CHECKING:
    from proxy.dataplane.upload import Upload
    from proxy.dataplane.upstream import Upstream
    from proxy.snapshot import ClusterSpec, DownstreamTimeouts

_REPLYING = State.REPLYING
_CONNECT_TIMEOUT = Reason.CONNECT_TIMEOUT
_IDLE_TIMEOUT = Reason.IDLE_TIMEOUT
_RESPONSE_TIMEOUT = Reason.RESPONSE_TIMEOUT
_BODY_TIMEOUT = Reason.BODY_TIMEOUT


def next_step(
    state: State,
    cluster: "ClusterSpec",
    per_try_s: float,
    clients: "DownstreamTimeouts",
    upstream: "Upstream | None",
    upload: "Upload | None",
) -> tuple[float, Reason]:
    """Seconds for the next step in DISPATCHED or REPLYING (0 = any time), and what is wrong when they are over.
    `per_try_s` is how long an endpoint may take before another is asked; 0 = no other will be."""
    timeouts = cluster.timeouts
    if upstream is None:
        return timeouts.connect_s, _CONNECT_TIMEOUT
    if state is _REPLYING or upstream.wire.is_blocked:
        return timeouts.idle_s, _IDLE_TIMEOUT
    if upload is not None and upload.is_awaited:
        return clients.body_s, _BODY_TIMEOUT
    timeout = timeouts.response_s
    if per_try_s and (not timeout or per_try_s < timeout):
        timeout = per_try_s
    return timeout, _RESPONSE_TIMEOUT
