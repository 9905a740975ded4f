"""The checks of instances that start: the cluster's own health check, before anybody else knows of the instance.

Endpoints are checked too, but an endpoint that is down counts: a cluster of two that starts four more would look as if
most of it had failed. So an instance becomes an endpoint when it has passed a check. In a cluster without health checks
it has to take a connection.
"""

from proxy.config.endpoints import NO_SLOT, endpoint_id
from proxy.config.resilience_schema import HealthCheck
from proxy.config.schema import Cluster
from proxy.controlplane.asking import Contexts
from proxy.controlplane.probes import Probe
from proxy.drivers.driver import Instance
from proxy.model import TcpAddress
from proxy.snapshot import ClusterTlsSpec, EndpointSpec

NO_CHECK = HealthCheck()


class InstanceChecks:
    """Checks, with the TLS contexts that they need."""

    def __init__(self) -> None:
        self._contexts = Contexts()

    def __repr__(self) -> str:
        return f"InstanceChecks({self._contexts!r})"

    async def run(self, cluster: Cluster, tls: ClusterTlsSpec | None, instance: Instance) -> str:
        """Check once; returns why it failed, empty when it passed."""
        if not instance.addresses:
            return "it has no address"
        check = cluster.health_check or NO_CHECK
        spec = _endpoint(cluster, instance, instance.addresses[0])
        self._contexts.keep([tls])
        verdict = await Probe(check, spec, tls, check.timeout).run(self._contexts.of(tls))
        return verdict.failure


def _endpoint(cluster: Cluster, instance: Instance, address: TcpAddress) -> EndpointSpec:
    wanted = cluster.tls.server_name if cluster.tls is not None else ""
    return EndpointSpec(
        id=endpoint_id(cluster.name, address, instance.id),
        slot=NO_SLOT,
        address=address,
        name=str(address),
        server_name=wanted or address.host,
    )
