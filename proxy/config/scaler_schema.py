"""The models of how many instances a cluster has and what they are. See `schema`."""

from typing import Annotated

from pydantic import Field, model_validator

from proxy.config.container_schema import Container, Cpus, Process
from proxy.config.kinds import (
    Count,
    Duration,
    Flag,
    Percent,
    Positive,
    Size,
    choice,
    fault_error,
    integer,
    number,
)
from proxy.config.section import Section, written

Driver = Annotated[str, choice("docker", "process")]
# Each is an endpoint, of which there are 1024; nobody runs as many on one host.
Instances = Annotated[int, integer(1, 512)]
LargePercent = Annotated[float, number(0, 10_000)]
InFlight = Annotated[float, number(0.1, 100_000)]


class Deploy(Section):
    """How a changed `container` (or `process`) replaces the instances of the old one."""

    max_surge: Positive = 1
    """Instances beyond the size of the cluster that may run meanwhile. Default 1; more is quicker and needs the
    room."""
    max_unavailable: Count = 0
    """Instances that may be missing meanwhile. Default 0: an old one goes when a new one serves."""
    bake: Duration = written("30s")
    """Time for which new instances are compared with the old before more follow: error rate and latency. Default 30s;
    0 = not compared, so a version that starts well and fails is rolled out."""


class Scaler(Section):
    """How many instances a cluster has. The largest wish of all signals wins; growing is quick, shrinking is not."""

    driver: Driver = "docker"
    """What instances are: containers of the `docker` engine, or a local `process` each. Default docker."""
    container: Container | None = None
    """What a container is made from; goes with `driver: docker`, which needs it. Default none."""
    process: Process | None = None
    """What a process is made from; goes with `driver: process`, which needs it. Default none."""
    min_instances: Instances = 2
    """Never fewer, 1 to 512. Default 2: with 1, nobody serves while it is replaced."""
    max_instances: Instances = 20
    """Never more, `min_instances` to 512. It bounds what a flood or a wrong figure can cost. Default 20."""
    slots: Positive = 4
    """Requests that one instance works on at once: threads or workers of the service. Default 4."""
    max_connections: Count = 0
    """Requests in flight at once at each instance, over all workers; more wait in the cluster's `queue`, and go to
    whichever instance is free first, one that has just started included. Default 0 = no limit; best what the service
    works on at once, as `slots` has it."""
    target_in_flight: InFlight = 3
    """Requests in flight that each instance should have on average, 0.1 to 100000. Default 3; near `slots` nothing is
    idle and requests wait, far below it instances idle."""
    headroom: Annotated[float, number(0, 100)] = 1.25
    """Slots beyond those at work, in multiples of their square root, 0 to 100: a small cluster needs more to spare,
    for its size, than a large one. Default 1.25; 0 = what `target_in_flight` leaves."""
    target_work: Duration = written("4s")
    """Seconds of work, in flight and queued, that each instance may have before it, at least 10ms. Default 4s; short
    clears backlogs sooner with more instances."""
    target_queue_wait: Duration = written("500ms")
    """A request that waited longer in the queue asks for one instance more. Default 500ms; 0 = waiting asks for
    none."""
    cpu_threshold: Percent = 75
    """CPU, in percent of an instance's limit, that instances should use on average. Default 75; 0 = not looked at."""
    memory_threshold: Percent = 80
    """Memory, in percent of an instance's limit, that instances should use on average. Default 80; 0 = not looked
    at."""
    memory_extra: LargePercent = 50
    """How many more instances memory may ask for than all other signals do, in percent, 0 to 10000. Default 50; 0 =
    none. Memory that caches keep is never given back, and would ask for more for ever."""
    stable_window: Duration = written("60s")
    """Time over which load is averaged, at least 1s. Default 60s; long is calm and late."""
    panic_window: Duration = written("6s")
    """Time over which a burst is noticed, at least 1s and no longer than `stable_window`. Default 6s."""
    panic_threshold: Annotated[float, number(100, 10_000)] = 140
    """Load of the panic window, in percent of what instances should carry, from which on they are overrun: that window
    counts too, and nothing shrinks for a stable window. 100 to 10000. Default 140."""
    scale_up_cooldown: Duration = written("3s")
    """Time between two growths. Default 3s; long lets a burst outrun the cluster."""
    scale_down_cooldown: Duration = written("60s")
    """Time from any change to the next shrinking. Default 60s."""
    stabilisation: Duration = written("2m")
    """It shrinks only to the largest size that was asked for in so much time. Default 2m; short loses instances and
    their data in the pauses between bursts."""
    step_up: Positive = 4
    """Instances by which it may grow at once, or `step_up_percent`, whichever is more. Default 4."""
    step_up_percent: LargePercent = 100
    """The same as a share of its size, 0 to 10000. Default 100: it may double."""
    step_down: Positive = 1
    """Instances by which it may shrink at once, or `step_down_percent`, whichever is more. Default 1."""
    step_down_percent: Percent = 25
    """The same as a share of its size, 0 to 100. Default 25."""
    scale_to_zero: Flag = False
    """A cluster at rest keeps no instance; requests then wait in its `queue` for the first. Default false."""
    idle: Duration = written("10m")
    """Time without a request after which a cluster is at rest. Default 10m."""
    start_time: Duration = written("10s")
    """How long a start takes, until that has been seen. Default 10s."""
    start_timeout: Duration = written("60s")
    """Time from the order of an instance to its first passed `health_check`, at least 100ms; then it is removed, with
    the end of its log in an event, and the next one waits longer. Default 60s."""
    drain_timeout: Duration = written("30s")
    """How long an instance that is to go may take to finish what it has. Default 30s; 0 = it is cut at once."""
    restart_grace: Duration = written("15s")
    """Time without health after which an instance is replaced, which leaves the engine's restart policy its turn.
    Default 15s."""
    max_restarts: Positive = 3
    """Restarts by the engine within 5 minutes after which an instance is replaced. Default 3."""
    deploy: Deploy = Field(default_factory=Deploy)
    """How a changed `container` replaces instances. Default: as each key says."""
    dry_run: Flag = False
    """Says what it would do, and does nothing. Default false."""

    @model_validator(mode="after")
    def _check(self) -> "Scaler":
        if self.min_instances > self.max_instances:
            problem = f"has min_instances {self.min_instances} above max_instances {self.max_instances}"
            raise fault_error(problem, "min_instances of at most max_instances")
        if min(self.stable_window, self.panic_window) < 1:
            raise fault_error("has a window below 1s", "at least 1s")
        if self.panic_window > self.stable_window:
            raise fault_error("has a panic_window above its stable_window", "a shorter panic_window")
        if self.target_work < 0.01:
            raise fault_error("has a target_work below 10ms", "at least 10ms")
        if self.start_timeout < 0.1:
            raise fault_error("has a start_timeout below 100ms", "at least 100ms")
        return self


class HostBudget(Section):
    """What all instances that Homeport starts may claim together, by their limits. It is never exceeded, whatever
    `min_instances` say; an instance without a limit claims nothing."""

    cpus: Cpus = 0
    """Cores. Default 0 = no limit."""
    memory: Size = written("0")
    """Memory. Default 0 = no limit."""
