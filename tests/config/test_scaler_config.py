"""How a file says what containers are, how many there are and where others come from: values and faults."""

from dataclasses import fields
from pathlib import Path

import pytest

from proxy.config.container import engine_options, instance_spec, selector
from proxy.config.faults import InvalidConfig
from proxy.config.load import load_bytes, load_file
from proxy.config.scaling import scaling_params
from proxy.drivers.spec import (
    ContainerSpec,
    Device,
    EngineHealthCheck,
    EngineOptions,
    Mount,
    Port,
    ProcessSpec,
    Resources,
    RestartPolicy,
    Selector,
)
from proxy.policy.scaling_params import HostBudget, ScalingParams

BASE = """\
listeners: [{bind: "127.0.0.1:8080"}]
clusters:
  - name: etl
"""
EXAMPLE = Path(__file__).parents[2] / "config" / "containers.yaml"


def load(text):
    return load_bytes(text.encode(), "f", Path("/here"), {})


def cluster(*keys):
    return load(BASE + "".join(f"    {key}\n" for key in keys)).clusters[0]


def container(keys="ports: [8000]", image="q:1", more=""):
    """A cluster whose scaler starts containers with these keys."""
    return f"scaler: {{container: {{image: '{image}', {keys}}}{more}}}"


def spec(keys="ports: [8000]", image="q:1"):
    return instance_spec(cluster(container(keys, image)))


def faults(*keys, top=""):
    """The faults of a file, each of which begins where § stands: all of them but the places."""
    text = BASE + "".join(f"    {key}\n" for key in keys) + top
    places = []
    while "§" in text:
        before = text.partition("§")[0]
        places.append(f"f:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: ")
        text = text.replace("§", "", 1)
    with pytest.raises(InvalidConfig) as error:
        load(text)
    lines = str(error.value).split("\n")
    assert len(lines) == len(places), lines
    for line, place in zip(lines, places, strict=True):
        assert line.startswith(place), (line, place)
    told = [line.removeprefix(place) for line, place in zip(lines, places, strict=True)]
    return told[0] if len(told) == 1 else told


# --- what they become


def test_the_least_of_a_container_has_the_defaults_of_the_spec():
    assert spec("ports: [8000]") == ContainerSpec("q:1", ports=(Port(8000),))


def test_the_example_says_everything():
    config = load_file(EXAMPLE, {"QUERY_TOKEN": "hush"})
    first = config.clusters[0]
    assert instance_spec(first) == ContainerSpec(
        image="registry.example.com/query:1.4",
        pull="missing",
        entrypoint=("python", "-m"),
        command=("query", "--threads", "4"),
        environment=(("DATASETS", "/data"), ("TOKEN", "hush")),
        working_directory="/srv",
        resources=Resources(memory_bytes=2**30, cpus=1.0, pids=256, shm_bytes=2**26),
        devices=(Device("/dev/fuse", "/dev/fuse", "rw"),),
        ports=(Port(8000),),
        mounts=(Mount("/srv/data/customers", "/data", True), Mount("scratch", "/scratch")),
        tmpfs=(("/tmp", "size=64m"),),
        networks=("data",),
        restart_policy=RestartPolicy("unless-stopped"),
        health_check=EngineHealthCheck(("CMD", "query", "--self-test"), timeout_s=5.0),
        labels=(("homeport.zone", "us-east-1a"), ("com.example.team", "data")),
        user="10001:10001",
        read_only=True,
        cap_add=("SYS_NICE",),
        cap_drop=("ALL",),
        init=True,
        stop_signal="SIGTERM",
    )
    assert "hush" not in repr(instance_spec(first)) + repr(config)
    assert selector(first) == Selector("analytics", (("homeport.cluster", "analytics"),), 8000, "data")
    assert instance_spec(config.clusters[1]) == ProcessSpec(
        command=("python", "-m", "features", "--port", "{port}"),
        environment=(("FEATURES", "/srv/features"),),
        processing_mode="local",
        working_directory="/srv",
        memory_bytes=2**29,
    )
    assert [selector(each) for each in config.clusters[1:]] == [None] * 4
    assert [instance_spec(each) for each in config.clusters[2:]] == [None] * 3
    assert engine_options(config.docker) == EngineOptions(
        host="tcp://127.0.0.1:2376",
        ca_file=str(EXAMPLE.parent / "docker-ca.pem"),
        certificate_file=str(EXAMPLE.parent / "docker-client.pem"),
        key_file=str(EXAMPLE.parent / "docker-client-key.pem"),
    )


def test_defaults_are_those_of_the_policy():
    config = load(f"{BASE}    {container()}\n")
    assert scaling_params(config.clusters[0].scaler, config.host_budget) == ScalingParams()


def test_all_that_scaling_goes_by():
    config = load_file(EXAMPLE, {})
    params = scaling_params(config.clusters[0].scaler, config.host_budget)
    budget = HostBudget(12, 48 * 2**30, 1.0, 2**30)
    assert params == ScalingParams(budget=budget)  # the example writes the defaults
    process = scaling_params(config.clusters[1].scaler, config.host_budget)
    assert process == ScalingParams(max_instances=4, budget=HostBudget(12, 48 * 2**30, 0.0, 2**29))
    other = {
        "min_instances": 3, "max_instances": 30, "slots": 5, "target_in_flight": 4.5, "headroom": 2,
        "cpu_threshold": 60, "memory_threshold": 70, "memory_extra": 10, "panic_threshold": 200,
        "step_up": 2, "step_up_percent": 50, "step_down": 3, "step_down_percent": 10, "scale_to_zero": True,
    }  # fmt: skip
    times = {
        "target_work": 1, "target_queue_wait": 2, "stable_window": 30, "panic_window": 5, "scale_up_cooldown": 6,
        "scale_down_cooldown": 7, "stabilisation": 8, "idle": 9, "start_time": 11, "start_timeout": 12,
    }  # fmt: skip
    written = ", ".join(
        [f"{key}: {str(value).lower()}" for key, value in other.items()]
        + [f"{key}: {value}s" for key, value in times.items()]
    )
    config = load(f"{BASE}    {container(more=', ' + written)}\n")
    params = scaling_params(config.clusters[0].scaler, config.host_budget)
    known = {field.name: getattr(params, field.name) for field in fields(ScalingParams)}
    said = {
        next(
            name for name in known if name.removesuffix("_percent").removesuffix("_s") == key or name == key
        ): value
        for key, value in ({**other, **times, "start": times["start_time"]}).items()
        if key != "start_time"
    }
    assert {name: known[name] for name in said} == said and len(said) == len(known) - 1


def test_without_a_section_the_engine_is_where_the_environment_says():
    assert engine_options(load(BASE + "    endpoints: []\n").docker) == EngineOptions()


def test_the_labels_that_find_a_cluster_are_on_its_own_instances():
    found = "discovery: {docker: {labels: {com.example.app: etl, homeport.cluster: etl}, port: 9000}}"
    one = cluster(found, container("labels: {team: data}"))
    assert instance_spec(one).labels == (("com.example.app", "etl"), ("team", "data"))
    assert selector(one) == Selector("etl", (("com.example.app", "etl"), ("homeport.cluster", "etl")), 9000)


def test_a_scaler_finds_its_own_by_the_first_tcp_port():
    one = cluster(container("ports: ['8125/udp', '127.0.0.1::8000', 9000]"))
    assert selector(one) == Selector("etl", (("homeport.cluster", "etl"),), 8000)


@pytest.mark.parametrize(
    "text, port",
    [
        ("8000", Port(8000)),
        ("'53/udp'", Port(53, "udp")),
        ("'80:8000'", Port(8000, "tcp", True, "", 80)),
        ("'127.0.0.1:80:8000'", Port(8000, "tcp", True, "127.0.0.1", 80)),
        ("'127.0.0.1::8000'", Port(8000, "tcp", True, "127.0.0.1", 0)),
        ("'[::1]::8000/tcp'", Port(8000, "tcp", True, "::1", 0)),
    ],
)
def test_ports(text, port):
    one = cluster(container(f"ports: [9, {text}]", more=", min_instances: 1, max_instances: 1"))
    assert instance_spec(one).ports[1] == port


@pytest.mark.parametrize(
    "keys, field, value",
    [
        ("command: sh -c 'a b'", "command", ("sh", "-c", "a b")),
        ("command: [sh, -c, a b]", "command", ("sh", "-c", "a b")),
        ("stop_signal: term", "stop_signal", "SIGTERM"),
        ("stop_signal: 9", "stop_signal", "9"),
        ("stop_signal: SIGRTMIN+3", "stop_signal", "SIGRTMIN+3"),
        ("restart_policy: no", "restart_policy", RestartPolicy("no")),
        ("restart_policy: 'on-failure:5'", "restart_policy", RestartPolicy("on-failure", 5)),
        ("cap_drop: [cap_net_raw]", "cap_drop", ("NET_RAW",)),
        ("network: [a1, b1]", "networks", ("a1", "b1")),
        ("health_check: {command: curl -f x}", "health_check", EngineHealthCheck(("CMD-SHELL", "curl -f x"))),
        ("health_check: {disable: true}", "health_check", EngineHealthCheck(("NONE",))),
        ("volumes: ['data:/data/']", "mounts", (Mount("data", "/data"),)),
        ("user: 1000", "user", "1000"),
        ("resources: {memory: 6MiB, cpus: 0.01}", "resources", Resources(memory_bytes=6 * 2**20, cpus=0.01)),
        ("environment: {A: 1, B: '', C: 'x=y'}", "environment", (("A", "1"), ("B", ""), ("C", "x=y"))),
    ],
)
def test_values(keys, field, value):
    assert getattr(spec(f"ports: [8000], {keys}"), field) == value


@pytest.mark.parametrize(
    "image", ["q", "q:1.4", "a/b-c/d__e:latest", "localhost:5000/q", "R.example.com/q@sha256:" + "0" * 64]
)
def test_images(image):
    assert spec(image=image).image == image


def test_a_digest_changes_with_what_changes_the_container():
    one = spec("ports: [8000]")
    assert one.digest() == spec("ports: [8000]").digest() and len(one.digest()) == 16
    assert one.digest() == spec("ports: [8000], pull: always").digest()
    others = [
        spec(f"ports: [8000], {keys}").digest()
        for keys in ("environment: {A: 1}", "command: x", "stop_grace: 3s", "resources: {memory: 1GiB}")
    ]
    assert len({one.digest(), *others}) == 5


# --- what the engine would refuse, `check` refuses first


@pytest.mark.parametrize(
    "keys, fault",
    [
        (
            "resources: {memory: §5MiB}",
            "resources.memory: is too little, got '5MiB', expected 0, or at least 6MiB",
        ),
        (
            "resources: {cpus: §0.001}",
            "resources.cpus: is too little, got 0.001, expected 0, or at least 0.01",
        ),
        ("resources: {devices: [§fuse]}", "resources.devices[0]: is not a device, got 'fuse'"),
        ("ports: [8000, §0]", "ports[1]: has no valid port, got 0"),
        ("ports: [§8000-8010]", "ports[0]: is a range of ports, got '8000-8010', expected one port for each"),
        ("ports: [§'70000:8000']", "ports[0]: has no valid port, got '70000:8000'"),
        ("ports: [§'host::8000']", "ports[0]: has no valid host address, got 'host::8000'"),
        ("ports: [§'8000/icmp']", "ports[0]: has no known protocol, got '8000/icmp'"),
        (
            "ports: [8000, §'80:8000']",
            "ports[1]: is a fixed port of the host, which only one instance can have",
        ),
        (
            "ports: §['53/udp']",
            "ports: names no TCP port, got a list, expected the port that instances serve at",
        ),
        ("volumes: [§/data]", "volumes[0]: is not a volume, got '/data', expected VOLUME:/path or"),
        ("volumes: [§'a b:/x']", "volumes[0]: has no valid source, got 'a b:/x'"),
        ("volumes: [§'data:/']", "volumes[0]: has no valid path in the container, got 'data:/'"),
        ("volumes: [§'data:/x:rx']", "volumes[0]: is not a volume, got 'data:/x:rx'"),
        ("tmpfs: [§tmp]", "tmpfs[0]: is not a tmpfs, got 'tmp'"),
        ("network: §none", "network[0]: gives an instance no address of its own, expected the name"),
        ("network: ['a1', §'container:x']", "network[1]: gives an instance no address of its own"),
        (
            "restart_policy: §sometimes",
            "restart_policy: is not a restart policy, got 'sometimes', expected no, always,",
        ),
        (
            "restart_policy: §'always:3'",
            "restart_policy: has a number of times that means nothing, got 'always:3'",
        ),
        ("stop_signal: §SIGNO", "stop_signal: is not a signal, got 'SIGNO'"),
        (
            "stop_grace: §1.5s",
            "stop_grace: is no whole number of seconds, got '1.5s', expected whole seconds",
        ),
        ("cap_drop: [§NET]", "cap_drop[0]: is not a capability, got 'NET'"),
        ("user: §'a b'", "user: is not a user, got 'a b'"),
        ("command: §''", "command: is empty, got '', expected a command"),
        ('command: §"a \'b"', "command: has a quote that is not closed"),
        ("environment: {§A B: 1}", "environment.A B: is not the name of a variable, got 'A B'"),
        ("environment: {A: §{}}", "environment.A: is of the wrong type, got (hidden), expected a text"),
        ("labels: {§homeport.owner: me}", "labels.homeport.owner: is a label that Homeport sets itself"),
        ("working_directory: §srv", "working_directory: is not an absolute path, got 'srv'"),
        ("health_check: §{}", "health_check: has neither or both of command and disable, got a mapping"),
        ("health_check: §{command: x, interval: 0}", "health_check: has a time below 1ms"),
        ("health_check: §", "health_check: is empty, got nothing, expected a mapping, or no such key"),
        ("pull: §sometimes", "pull: is not known, got 'sometimes', expected one of never, missing, always"),
        (
            "privileged: §true",
            "privileged: gives a container power over the host, got true, expected docker.allow",
        ),
        (
            "host_pid: §true",
            "host_pid: gives a container power over the host, got true, expected docker.allow.host_pid",
        ),
        (
            "network: §host",
            "network: gives a container power over the host, got 'host', expected docker.allow.host_",
        ),
        (
            "cap_add: [§NET_ADMIN]",
            "cap_add[0]: gives a container power over the host, got 'NET_ADMIN', expected NET_",
        ),
        (
            "volumes: [§'/etc:/x']",
            "volumes[0]: gives a container power over the host, got '/etc:/x', expected /etc,",
        ),
        ("resources: {devices: [§/dev/kvm]}", "resources.devices[0]: gives a container power over the host"),
    ],
)
def test_faults_of_containers(keys, fault):
    ports = "" if "ports:" in keys else "ports: [8000], "
    told = faults(container(ports + keys))
    assert told.startswith(f"clusters[0].scaler.container.{fault}"), told


@pytest.mark.parametrize("image", ["", "Query:1", "q:1:2", "q@sha256:12", "q q", "-q"])
def test_faults_of_images(image):
    told = faults(f"scaler: {{container: {{image: §'{image}', ports: [80]}}}}")
    assert told.startswith("clusters[0].scaler.container.image: ")


def test_containers_whose_parts_do_not_fit():
    told = faults("scaler: {container: §{image: q, ports: [80], volumes: ['a1:/x'], tmpfs: [/x]}}")
    assert "mounts something at the same path twice" in told
    assert "has the same port twice" in faults("scaler: {container: §{image: q, ports: [80, 80]}}")
    assert "has the same network twice" in faults(
        "scaler: {container: §{image: q, ports: [80], network: [aa, aa]}}"
    )
    told = faults(
        "scaler: {container: §{image: q, ports: ['::80'], network: host}}".replace("::80", "127.0.0.1::80"),
        top="docker: {allow: {host_network: true}}\n",
    )
    assert "has network: host beside networks or published ports" in told


def test_what_is_allowed_by_name_is_taken():
    top = (
        "docker:\n  allow: {privileged: true, host_network: true, host_pid: true, capabilities: [cap_net_admin],"
        " mounts: [/srv/data/], devices: [/dev/kvm]}\n"
    )
    keys = "ports: [80], privileged: true, host_pid: true, network: host, cap_add: [NET_ADMIN], "
    keys += "volumes: ['/srv/data:/a', '/srv/data/b:/b:ro'], resources: {devices: ['/dev/kvm:rw']}"
    config = load(f"{BASE}    {container(keys)}\n{top}")
    assert instance_spec(config.clusters[0]).privileged
    told = faults(container("ports: [80], volumes: [§'/srv/database:/a', §'/srv:/b']"), top=top)
    assert all("in docker.allow.mounts" in one for one in told)


@pytest.mark.parametrize(
    "keys, fault",
    [
        (
            ["scaler: §{min_instances: 3, max_instances: 2, container: {image: q, ports: [80]}}"],
            "has min_instances 3",
        ),
        (["scaler: §{driver: process}"], "process: is missing, though the driver is process"),
        (["scaler: §{}"], "container: is missing, though the driver is docker"),
        (["scaler: {driver: §swarm}"], "driver: is not known, got 'swarm', expected one of docker, process"),
        (
            ["scaler: {driver: process, process: {command: x}, container: §{image: q, ports: [80]}}"],
            "container: has no",
        ),
        (
            ["scaler: {container: {image: q, ports: [80]}, process: §{command: x}}"],
            "process: has no effect with",
        ),
        (
            ["scaler: §{panic_window: 2m, driver: process, process: {command: x}}"],
            "has a panic_window above its",
        ),
        (
            ["scaler: {max_instances: §0, driver: process, process: {command: x}}"],
            "max_instances: is out of range",
        ),
    ],
)
def test_faults_of_scalers(keys, fault):
    told = faults(*keys)
    assert told.removeprefix("clusters[0].scaler").lstrip(".: ").startswith(fault), told


def test_a_budget_needs_limits_to_count():
    top = "host_budget: {cpus: 2, memory: 4GiB}\n"
    told = faults("scaler: {container: §§{image: q, ports: [80]}}", top=top)
    assert [one.partition(",")[0] for one in told] == [
        f"clusters[0].scaler.container.resources.{key}: is missing" for key in ("cpus", "memory")
    ]
    told = faults("scaler: {driver: process, process: §{command: x}}", top=top)
    assert told == (
        "clusters[0].scaler.process.memory: is missing, though host_budget counts it, expected a limit of memory"
    )
    limits = "resources: {cpus: 1, memory: 1GiB}"
    assert load(f"{BASE}    {container(f'ports: [80], {limits}')}\n{top}").host_budget.cpus == 2


def test_a_container_needs_an_image():
    assert "image: is missing, expected an image such as" in faults("scaler: {container: §{ports: [80]}}")


def test_a_cluster_needs_something_to_send_requests_to():
    text = BASE.replace("- name", "- §name") + "    balancer: p2c\n"
    before, after = text.split("§")
    with pytest.raises(InvalidConfig) as error:
        load(before + after)
    assert str(error.value) == (
        "f:3:5: clusters[0]: has no endpoints, no discovery and no scaler, got a mapping, expected one of them;"
        " endpoints: [] for a cluster that has none yet"
    )
    assert cluster("endpoints: []").endpoints == ()


@pytest.mark.parametrize(
    "text, fault",
    [
        ("discovery:§", "discovery: is empty"),
        (
            "discovery: §{}",
            "discovery: names no source, got a mapping, expected exactly one of docker, dns, file",
        ),
        (
            "discovery: §{docker: {}, dns: {name: a, port: 1}}",
            "discovery: names several sources: docker, dns",
        ),
        ("discovery: {dns: §{name: a}}", "discovery.dns: has no port"),
        (
            "discovery: {dns: §{name: _a._tcp.b, record: srv, port: 1}}",
            "discovery.dns: has a port, which srv records",
        ),
        ("discovery: {dns: {name: §a b, port: 1}}", "discovery.dns.name: is not a name, got 'a b'"),
        ("discovery: {dns: §{name: a, port: 1, refresh: 10ms}}", "discovery.dns: has a refresh below 1s"),
        ("discovery: {docker: {port: §0}}", "discovery.docker.port: is out of range, got 0"),
        ("discovery: {docker: {labels: {§'a=b': x}}}", "discovery.docker.labels.a=b: is not a label"),
        ("discovery: {file: §{}}", "discovery.file.path: is missing, expected the path of a file"),
    ],
)
def test_faults_of_discovery(text, fault):
    told = faults(text)
    assert told.startswith(f"clusters[0].{fault}"), told


def test_a_cluster_whose_containers_another_takes_is_refused():
    wide, narrow = "{labels: {app: etl}}", "§{labels: {app: etl, tier: a}}"
    top = "  - {name: other, discovery: {docker: %s}}\n"
    told = faults(f"discovery: {{docker: {wide}}}", top=top % narrow)
    assert told == (
        "clusters[1].discovery.docker: takes no container that cluster 'etl', which comes first, does not take,"
        " got a mapping, expected other labels, or another order"
    )
    load(BASE + f"    discovery: {{docker: {narrow.removeprefix('§')}}}\n" + top % wide)
    load(BASE + "    discovery: {docker: {}}\n" + top % "{}")


def test_a_source_that_finds_no_instance_of_the_scaler_is_refused():
    told = faults("discovery: {dns: §{name: a, port: 1}}", container())
    assert told.startswith("clusters[0].discovery.dns: finds no instance of the scaler")
    told = faults("discovery: {docker: §{}}", "scaler: {driver: process, process: {command: x}}")
    assert told.startswith("clusters[0].discovery.docker: finds no process of the scaler")


@pytest.mark.parametrize(
    "text, fault",
    [
        (
            "{host: §'ssh://a'}",
            "docker.host: is not an engine's address, got 'ssh://a', expected unix:///var/run",
        ),
        ("{host: §'tcp://a'}", "docker.host: is not an engine's address"),
        ("§{timeout: 10ms}", "docker: has a timeout outside of 100ms to 5m"),
        ("§{tls: {ca: a, cert: b, key: c}}", "docker: has tls without a tcp:// host"),
        ("{allow: {capabilities: [§NET]}}", "docker.allow.capabilities[0]: is not a capability"),
    ],
)
def test_faults_of_the_engine(text, fault):
    told = faults("endpoints: []", top=f"docker: {text}\n")
    assert told.startswith(fault), told
