"""The gauges of connections, when an endpoint leaves and comes back while connections of before are open."""

from support.fleet import Fleet, cluster, endpoint

from proxy.dataplane.pool import Pool
from proxy.scoreboard import E_CONNECTIONS, E_IDLE


class Connection:
    """An open one; when it is closed, its pool is told of its end later."""

    requests = 1
    place = -1
    security = None
    idle_since = 0.0

    def has_word(self):
        return False

    def close(self):
        pass


def connection(pool):
    made = Connection()
    pool.add(made)
    return made


def test_two_pools_share_a_row():
    fleet = Fleet()
    spec = cluster(endpoint("a", 3))
    row = fleet.scoreboard.endpoint_row(1, 3)

    def words():
        return row[E_CONNECTIONS], row[E_IDLE]

    def pool():
        one = fleet.apply(spec)
        member = one.endpoints[0]
        return Pool(member, one.spec, None, None, None, (), one.connection_limit(member))

    before = pool()
    busy, idle = connection(before), connection(before)
    before.put(idle, now=0.0)
    fleet.apply(cluster())
    after = pool()
    assert after.endpoint is not before.endpoint
    new = connection(after)
    after.put(new, now=1.0)
    assert words() == (3, 2)
    assert after.take(True) is new
    assert after.take(True) is None
    assert words() == (3, 1)
    before.put(busy, now=1.0)  # its endpoint is removed: it is closed instead
    before.remove(busy)
    before.remove(busy)
    before.close_idle(1.0)
    before.remove(idle)
    assert words() == (1, 0)
    after.put(new, now=2.0)
    after.discard(new)
    after.remove(new)
    assert words() == (0, 0)
