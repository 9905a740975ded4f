"""What the two connections of an exchange tell whoever stands between them: an `Exchange`, later a `Tunnel`."""

from typing import Protocol

from proxy.errors import Reason


class Relay(Protocol):
    """The events of both sides. Those that return a bool say whether the connection stays open for writing."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes held on their way to the endpoint."""
        ...

    @property
    def is_receiving(self) -> bool:
        """Whether the client's next bytes belong here; otherwise they are the next request."""
        ...

    def on_request_data(self, data: bytes) -> None: ...

    def on_client_eof(self) -> bool: ...

    def on_client_gone(self) -> None: ...

    def on_downstream_blocked(self) -> None:
        """The client does not take what was written."""
        ...

    def on_downstream_writable(self) -> None: ...

    def on_reply_data(self, data: bytes) -> None: ...

    def on_reply_eof(self) -> bool: ...

    def on_upstream_lost(self, error: Exception | None) -> None: ...

    def on_upstream_blocked(self) -> None:
        """The endpoint does not take what was written."""
        ...

    def on_upstream_writable(self) -> None: ...

    def on_deadline(self, reason: Reason) -> None:
        """The time allowed for the present step is over."""
        ...

    def probe_client(self) -> None:
        """Find out whether a client that sent FIN is still there, if that can be asked."""
        ...

    def abort(self, reason: Reason) -> None:
        """Give up at once and cut the client's connection."""
        ...
