"""From the sections about containers to what drivers take. Pure."""

from proxy.config.container_schema import Container, ContainerHealthCheck, Docker, Process
from proxy.config.schema import Cluster
from proxy.drivers.labels import CLUSTER
from proxy.drivers.spec import (
    ContainerSpec,
    EngineHealthCheck,
    EngineOptions,
    InstanceSpec,
    ProcessSpec,
    Resources,
    Selector,
)


def engine_options(section: Docker) -> EngineOptions:
    """Where the engine is."""
    tls = section.tls
    return EngineOptions(
        host=section.host,
        ca_file=str(tls.ca) if tls is not None else "",
        certificate_file=str(tls.cert) if tls is not None else "",
        key_file=str(tls.key) if tls is not None else "",
        timeout_s=section.timeout,
        owner=section.owner,
    )


def selector(cluster: Cluster) -> Selector | None:
    """Which containers belong to `cluster`; `None` when none can."""
    docker = cluster.discovery.docker if cluster.discovery is not None else None
    container = cluster.scaler.container if cluster.scaler is not None else None
    if docker is None and container is None:
        return None
    labels = tuple(docker.labels.items()) if docker is not None else ()
    port = docker.port if docker is not None else None
    if port is None and container is not None:
        port = next((each.port for each in container.ports if each.protocol == "tcp"), None)
    return Selector(
        cluster=cluster.name,
        labels=labels or ((CLUSTER, cluster.name),),
        port=port or 0,
        network=docker.network if docker is not None else "",
    )


def instance_spec(cluster: Cluster) -> InstanceSpec | None:
    """What instances of `cluster` are made from; `None` without a scaler."""
    scaler = cluster.scaler
    if scaler is None:
        return None
    if scaler.process is not None:
        return _process(scaler.process)
    assert scaler.container is not None
    return _container(scaler.container, _selected_labels(cluster))


def _selected_labels(cluster: Cluster) -> dict[str, str]:
    """Labels by which discovery will find the cluster's own instances."""
    docker = cluster.discovery.docker if cluster.discovery is not None else None
    return dict(docker.labels) if docker is not None else {}


def _container(section: Container, selected: dict[str, str]) -> ContainerSpec:
    resources = section.resources
    labels = {name: value for name, value in selected.items() if name != CLUSTER}
    return ContainerSpec(
        image=section.image,
        pull=section.pull,
        command=section.command,
        entrypoint=section.entrypoint,
        environment=tuple(section.environment.items()),
        processing_mode=section.processing_mode,
        working_directory=section.working_directory,
        resources=Resources(
            memory_bytes=resources.memory,
            cpus=resources.cpus,
            pids=resources.pids,
            shm_bytes=resources.shm,
        ),
        devices=resources.devices,
        ports=section.ports,
        mounts=section.volumes,
        tmpfs=section.tmpfs,
        networks=section.network,
        restart_policy=section.restart_policy,
        health_check=_health_check(section.health_check),
        labels=tuple((labels | section.labels).items()),
        user=section.user,
        read_only=section.read_only,
        cap_add=section.cap_add,
        cap_drop=section.cap_drop,
        privileged=section.privileged,
        host_pid=section.host_pid,
        no_new_privileges=section.no_new_privileges,
        init=section.init,
        stop_signal=section.stop_signal,
        stop_grace_s=section.stop_grace,
    )


def _health_check(section: ContainerHealthCheck | None) -> EngineHealthCheck | None:
    if section is None:
        return None
    if section.disable:
        return EngineHealthCheck(command=("NONE",))
    return EngineHealthCheck(
        command=section.command,
        interval_s=section.interval,
        timeout_s=section.timeout,
        retries=section.retries,
        start_period_s=section.start_period,
    )


def _process(section: Process) -> ProcessSpec:
    return ProcessSpec(
        command=section.command,
        environment=tuple(section.environment.items()),
        processing_mode=section.processing_mode,
        working_directory=section.working_directory,
        memory_bytes=section.memory,
        stop_signal=section.stop_signal,
        stop_grace_s=section.stop_grace,
    )
