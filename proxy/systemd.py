"""What systemd asks of a service: sockets that it opened, and word when the service is ready, stopping or alive.

Source: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3). Does nothing where nobody asks. Standard library only:
the parent imports this.
"""

import os
import socket
from collections import deque
from collections.abc import MutableMapping

_FIRST_FD = 3
# Far more than the life of a service has states.
MAX_UNSENT = 16


def take_listen_fds(environ: MutableMapping[str, str], pid: int) -> list[socket.socket]:
    """The listening stream sockets that were passed to process `pid`; whatever else was passed stays as it is.

    The variables are removed, so that no child takes them for its own.
    """
    count, addressee = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if addressee != str(pid) or not count.isdecimal():
        return []
    found = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
        except OSError:
            continue  # no socket, or nothing at all
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.append(sock)
        else:
            sock.detach()
    return found


class Notifier:
    """Tells the service manager what happens."""

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        """The variables are removed from `environ`: children have nothing to say there."""
        self._address = environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        interval, addressee = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(pid))
        is_ours = interval.isdecimal() and addressee == str(pid)
        self.watchdog_s = int(interval) / 1e6 if is_ours else 0.0
        """Seconds within which the watchdog must hear of us; 0 = there is none. Half of it is a good interval."""
        self._unsent: deque[str] = deque(maxlen=MAX_UNSENT)

    def restored_environ(self) -> dict[str, str]:
        """The variables, for a re-exec of this very process."""
        address = "@" + self._address[1:] if self._address.startswith("\0") else self._address
        variables = {"NOTIFY_SOCKET": address} if address else {}
        if self.watchdog_s:
            variables["WATCHDOG_USEC"] = str(int(self.watchdog_s * 1e6))
        return variables

    def tell(self, state: str) -> None:
        """Send `state`, such as `READY=1`; lines are separated by line feeds. What the manager has no room for, because
        it has not read what came before, waits for `flush`. Lost when nobody listens."""
        if self._address:
            self._unsent.append(state)
            self.flush()

    def beat(self) -> None:
        """Tell the watchdog that we are alive; not worth waiting when there is no room."""
        self.tell("WATCHDOG=1")
        if self._unsent and self._unsent[-1] == "WATCHDOG=1":
            self._unsent.pop()

    def flush(self) -> None:
        """Send what waits, in order. Call it now and then."""
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()

    def _send(self, state: str) -> bool:
        """False when there is no room."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.setblocking(False)
                sock.sendto(state.encode(), self._address)
            except BlockingIOError:
                return False
            except OSError:
                pass  # a manager that went away
        return True
