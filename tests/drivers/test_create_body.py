"""What the engine is asked to make of a spec."""

from proxy.drivers.create_body import create_body
from proxy.drivers.spec import (
    ContainerSpec,
    Device,
    EngineHealthCheck,
    Mount,
    Port,
    Resources,
    RestartPolicy,
)


def body_of(spec):
    return create_body(spec, cluster="etl", owner="us", started="2026-11-23T08:00:00+00:00")


def test_the_least_says_little():
    spec = ContainerSpec("query:1")
    assert body_of(spec) == {
        "Image": "query:1",
        "Labels": {"homeport.cluster": "etl", "homeport.owner": "us", "homeport.spec": spec.digest()},
        "Env": [
            "SERVICE_NAME=etl",
            "CLUSTER_ID=us/etl",
            "DEPLOYMENT_TIME=2026-11-23T08:00:00+00:00",
            "DATA_PROCESSING_MODE=distributed",
        ],
        "ExposedPorts": {},
        "StopTimeout": 10,
        "HostConfig": {
            "PortBindings": {},
            "Binds": [],
            "Tmpfs": {},
            "NetworkMode": "default",
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "ReadonlyRootfs": False,
            "CapAdd": [],
            "CapDrop": [],
            "Privileged": False,
            "PidMode": "",
            "SecurityOpt": ["no-new-privileges"],
            "Init": False,
            "Devices": [],
        },
    }


def test_everything():
    body = body_of(
        ContainerSpec(
            "query:1",
            command=("a", "b"),
            entrypoint=("c",),
            environment=(("X", "1=2"), ("SERVICE_NAME", "other")),
            processing_mode="local",
            working_directory="/srv",
            resources=Resources(1 << 30, 1.5, 64, 1 << 20),
            devices=(Device("/dev/a", "/dev/b", "r"),),
            ports=(Port(80), Port(80, "tcp", True, "127.0.0.1", 0), Port(53, "udp", True, "", 5353)),
            mounts=(Mount("data", "/data", True), Mount("/srv/x", "/x")),
            tmpfs=(("/tmp", "size=1m"),),
            networks=("one", "two"),
            restart_policy=RestartPolicy("on-failure", 3),
            health_check=EngineHealthCheck(("CMD", "true"), 1.0, 0.5, 2, 3.0),
            labels=(("a", "b"), ("homeport.owner", "them")),
            user="1:2",
            read_only=True,
            cap_add=("SYS_NICE",),
            cap_drop=("ALL",),
            privileged=True,
            host_pid=True,
            no_new_privileges=False,
            init=True,
            stop_signal="SIGINT",
            stop_grace_s=3.0,
        )
    )
    assert body["Cmd"] == ["a", "b"] and body["Entrypoint"] == ["c"] and body["WorkingDir"] == "/srv"
    assert body["Env"] == [
        "SERVICE_NAME=other",
        "CLUSTER_ID=us/etl",
        "DEPLOYMENT_TIME=2026-11-23T08:00:00+00:00",
        "DATA_PROCESSING_MODE=local",
        "X=1=2",
    ]
    assert body["Labels"]["homeport.owner"] == "us" and body["Labels"]["a"] == "b"
    assert (body["User"], body["StopSignal"], body["StopTimeout"]) == ("1:2", "SIGINT", 3)
    assert body["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert body["Healthcheck"] == {
        "Test": ["CMD", "true"],
        "Interval": 10**9,
        "Timeout": 5 * 10**8,
        "Retries": 2,
        "StartPeriod": 3 * 10**9,
    }
    host = body["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (1 << 30, 1 << 30, 15 * 10**8)
    assert (host["PidsLimit"], host["ShmSize"]) == (64, 1 << 20)
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
        "53/udp": [{"HostIp": "", "HostPort": "5353"}],
    }
    assert host["Binds"] == ["data:/data:ro", "/srv/x:/x:rw"] and host["Tmpfs"] == {"/tmp": "size=1m"}
    assert host["NetworkMode"] == "one" and host["RestartPolicy"]["MaximumRetryCount"] == 3
    assert host["Privileged"] and host["PidMode"] == "host" and host["SecurityOpt"] == [] and host["Init"]
    assert host["Devices"] == [
        {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}
    ]


def test_the_image_s_own_check_can_be_switched_off():
    assert body_of(ContainerSpec("q", health_check=EngineHealthCheck(("NONE",))))["Healthcheck"] == {
        "Test": ["NONE"]
    }
