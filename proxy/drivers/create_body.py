"""A container spec as the Docker Engine's `POST /containers/create` takes it. Pure.

This is the template that nothing else can reach into: a proxy in front of the engine's socket sees which call is made
but not its body, so what a body may hold is decided here and by the configuration's checks."""

from typing import Any

from proxy.drivers.labels import own_labels
from proxy.drivers.spec import ContainerSpec, EngineHealthCheck, Pairs, Resources

Body = dict[str, Any]


def create_body(spec: ContainerSpec, *, cluster: str, owner: str, started: str) -> Body:
    """The body for one instance of `cluster`. `started` is the time of its start as people read it, for
    DEPLOYMENT_TIME.

    Networks beyond the first are joined after it is made: engines before API 1.44 take one.
    """
    body: Body = {
        "Image": spec.image,
        "Labels": own_labels(cluster, owner, spec.digest(), spec.labels),
        "Env": environment(spec.environment, spec.processing_mode, cluster, owner, started),
        "ExposedPorts": {f"{port.port}/{port.protocol}": {} for port in spec.ports},
        "StopTimeout": int(spec.stop_grace_s),
        "HostConfig": _host_config(spec),
    }
    optional = {
        "Cmd": list(spec.command),
        "Entrypoint": list(spec.entrypoint),
        "WorkingDir": spec.working_directory,
        "User": spec.user,
        "StopSignal": spec.stop_signal,
        "Healthcheck": _health_check(spec.health_check),
    }
    body |= {name: value for name, value in optional.items() if value}
    return body


def environment(own: Pairs, mode: str, cluster: str, owner: str, started: str) -> list[str]:
    """`NAME=value` of an instance: what every instance is told, unless its spec says otherwise, and the spec's own."""
    told = {
        "SERVICE_NAME": cluster,
        "CLUSTER_ID": f"{owner}/{cluster}",
        "DEPLOYMENT_TIME": started,
        "DATA_PROCESSING_MODE": mode,
    }
    return [f"{name}={value}" for name, value in (told | dict(own)).items()]


def _host_config(spec: ContainerSpec) -> Body:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in spec.ports:
        if port.is_published:
            host_port = str(port.host_port) if port.host_port else ""
            binding = {"HostIp": port.host_address, "HostPort": host_port}
            bindings.setdefault(f"{port.port}/{port.protocol}", []).append(binding)
    policy = spec.restart_policy
    return {
        **_resources(spec.resources),
        "PortBindings": bindings,
        "Binds": [f"{m.source}:{m.target}:{'ro' if m.read_only else 'rw'}" for m in spec.mounts],
        "Tmpfs": dict(spec.tmpfs),
        "NetworkMode": spec.networks[0] if spec.networks else "default",
        "RestartPolicy": {"Name": policy.name, "MaximumRetryCount": policy.max_retries},
        "ReadonlyRootfs": spec.read_only,
        "CapAdd": list(spec.cap_add),
        "CapDrop": list(spec.cap_drop),
        "Privileged": spec.privileged,
        "PidMode": "host" if spec.host_pid else "",
        "SecurityOpt": ["no-new-privileges"] if spec.no_new_privileges else [],
        "Init": spec.init,
        "Devices": [
            {"PathOnHost": d.host_path, "PathInContainer": d.path, "CgroupPermissions": d.permissions}
            for d in spec.devices
        ],
    }


def _resources(resources: Resources) -> Body:
    body: Body = {}
    if resources.memory_bytes:
        # The same for both: no swap, which would only hide that memory is short.
        body |= {"Memory": resources.memory_bytes, "MemorySwap": resources.memory_bytes}
    if resources.cpus:
        body["NanoCpus"] = round(resources.cpus * 1e9)
    if resources.pids:
        body["PidsLimit"] = resources.pids
    if resources.shm_bytes:
        body["ShmSize"] = resources.shm_bytes
    return body


def _health_check(check: EngineHealthCheck | None) -> Body | None:
    if check is None:
        return None
    if check.command == ("NONE",):
        return {"Test": ["NONE"]}
    return {
        "Test": list(check.command),
        "Interval": round(check.interval_s * 1e9),
        "Timeout": round(check.timeout_s * 1e9),
        "Retries": check.retries,
        # 0 would be the image's; this is the least that is none.
        "StartPeriod": round(max(check.start_period_s, 0.001) * 1e9),
    }
