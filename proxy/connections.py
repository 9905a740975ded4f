"""How many connections there are to an endpoint over all workers, idle ones included: at most its `max_connections`.

A service with a thread for each connection serves those that it has taken, idle or not; with one more than it has
threads, a request waits until an idle connection is closed. So each connection holds a byte of the endpoint's lock file
from before it is made until it is closed, as each request holds another. Whoever has a request's permit and no byte for
its connection knows that a connection is idle somewhere, and asks for it to be closed.
"""

from proxy.endpoint import Endpoint
from proxy.scoreboard import E_CONNECTIONS, E_IDLE
from proxy.surroundings import Peers, Surroundings


class ConnectionLimit:
    """The connections to one endpoint, as one worker counts them."""

    __slots__ = ("_endpoint", "_peers", "_surroundings")

    def __init__(self, endpoint: Endpoint, surroundings: Surroundings) -> None:
        self._endpoint = endpoint
        self._surroundings = surroundings
        self._peers = Peers(surroundings.scoreboard, surroundings.worker)

    def __repr__(self) -> str:
        return f"ConnectionLimit({self._endpoint.id!r}, {self._endpoint.locks.connections!r})"

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return self._endpoint.max_connections > 0

    def take(self) -> int:
        """A place for a connection; -1 = there is none. The sum counts those that were made under another limit."""
        endpoint = self._endpoint
        self._peers.look()
        elsewhere = self._peers.words(E_CONNECTIONS, [endpoint.spec.slot])[0]
        if endpoint.row[E_CONNECTIONS] + elsewhere >= endpoint.max_connections:
            return -1
        return endpoint.locks.connections.take(endpoint.max_connections)

    def give(self, place: int) -> None:
        """Give back what `take` gave, once; the connection is closed."""
        self._endpoint.locks.connections.give(place)

    def may_keep(self, place: int) -> bool:
        """Whether a connection in `place` (-1 = it has none) may stay open without a request."""
        limit = self._endpoint.max_connections
        return not limit or 0 <= place < limit

    def ask(self) -> None:
        """Ask the worker that has most idle connections to close one."""
        board, slot = self._surroundings.scoreboard, self._endpoint.spec.slot
        idle = [(board.endpoint_row(worker, slot)[E_IDLE], worker) for worker in self._peers.known]
        most, worker = max(idle, default=(0, -1))
        if most > 0:
            self._surroundings.posts.to_worker(
                worker, {"close_idle": slot, "from": self._surroundings.worker}
            )

    def tell(self, worker: int) -> None:
        """Tell the one who asked that a connection was closed."""
        self._surroundings.posts.to_worker(worker, {"closed_idle": self._endpoint.spec.slot})
