"""What an operator may say about the size of a cluster, and what the host has room for. Pure.

Defaults are Knative's and Kubernetes' where they fit fleets of 2 to 20 instances on one host, and otherwise what came
out best of a day of load in virtual time (`python -m loadtests.scaling`).
"""

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class HostBudget:
    """What all instances on a host may claim together, and what one of this cluster claims."""

    cpus: float | None = None
    """Cores for all managed instances; `None` = not limited."""
    memory_bytes: int | None = None
    """Memory for all managed instances; `None` = not limited."""
    instance_cpus: float = 0.0
    """Cores that one instance may use by its limits. 0 = it claims none, and cores limit nothing."""
    instance_memory_bytes: int = 0
    """Memory that one instance may use by its limits. 0 = it claims none, and memory limits nothing."""

    def room(self, taken_cpus: float = 0.0, taken_memory_bytes: int = 0) -> int | None:
        """How many instances fit beside others that claim so much already; `None` = any number.

        With 8 cores and 2 for each instance, 3 taken by others: 2. Never below 0.
        """
        fits = [
            int((limit - taken) / each + 1e-9)
            for limit, taken, each in (
                (self.cpus, taken_cpus, self.instance_cpus),
                (self.memory_bytes, taken_memory_bytes, self.instance_memory_bytes),
            )
            if limit is not None and each > 0
        ]
        return max(min(fits), 0) if fits else None


@dataclass(frozen=True, slots=True)
class ScalingParams:
    """How many instances a cluster has, and how eagerly that changes."""

    min_instances: int = 2
    """Never fewer, ≥ 1; one that dies leaves another. Fewer only at rest with `scale_to_zero`, or when the host's
    budget has no room for them."""
    max_instances: int = 20
    """Never more, ≥ `min_instances`. It bounds what a flood, an attack or a wrong figure can cost."""
    slots: int = 4
    """Requests that one instance works on at once, ≥ 1: workers, threads or cores of the service."""
    target_in_flight: float = 3.0
    """Requests in flight that an instance should have on average, above 0. Near `slots` nothing is idle and requests
    wait; half of it and half of what is paid for idles. 75 % of the slots, as with CPU: with a queue that all
    instances share hardly anybody waits yet."""
    headroom: float = 1.25
    """Slots beyond those at work, in multiples of their square root. By chance 4 at work are 6 at times, and 36 are
    42: a small fleet needs more to spare, for its size, than a large one (Halfin and Whitt 1981). With 4 slots and the
    default target it counts up to 4 instances. 0 = the target alone."""
    target_work_s: float = 4.0
    """Seconds of work, in flight and queued, that one instance may have before it, above 0: with 4 slots they are done
    in a second. Dask allows 5. Small clears backlogs sooner, with more instances; large leaves it to the other signals.
    No backlog is to be cleared in less than a quarter of a start's time."""
    target_queue_wait_s: float = 0.5
    """A request that waits longer in the queue asks for one more instance than are ready, whatever the other signals
    say. 0 = waiting asks for nothing."""
    cpu_threshold_percent: float = 75.0
    """CPU, in percent of an instance's limit, that instances should use on average. 0 = not looked at."""
    memory_threshold_percent: float = 80.0
    """Memory, in percent of an instance's limit, that instances should use on average. 0 = not looked at."""
    memory_extra_percent: float = 50.0
    """How many more instances memory may ask for than all other signals do, in percent. Memory that leaks, or that a
    cache keeps, is not given back when others take over the load: without a limit it would ask for more for ever. 0 =
    none."""
    stable_window_s: float = 60.0
    """Seconds over which load is averaged, as with Knative. Long is calm and late."""
    panic_window_s: float = 6.0
    """Seconds over which a burst is noticed; a tenth of the stable window, as with Knative."""
    panic_threshold_percent: float = 140.0
    """Load of the panic window, in percent of what the instances that are ready should carry, from which on they are
    overrun: from then the panic window counts too, and nothing shrinks until a stable window after. Slots are full at
    133 % of the default target, which small fleets reach by chance; Knative waits for 200 %."""
    scale_up_cooldown_s: float = 3.0
    """Seconds between two growths. Long lets a burst outrun the fleet."""
    scale_down_cooldown_s: float = 60.0
    """Seconds from a change of either kind to the next shrinking."""
    stabilisation_s: float = 120.0
    """The fleet shrinks only to the largest size that anything asked for in so many seconds. Long keeps instances
    through the pauses between bursts; Kubernetes takes 300. `python -m loadtests.scaling` shows what it costs."""
    step_up: int = 4
    """Instances by which it may grow at once, ≥ 1, or `step_up_percent`, whichever is more."""
    step_up_percent: float = 100.0
    """Share of the fleet by which it may grow at once, in percent; doubling, as with Kubernetes."""
    step_down: int = 1
    """Instances by which it may shrink at once, ≥ 1, or `step_down_percent`, whichever is more."""
    step_down_percent: float = 25.0
    """Share of the fleet by which it may shrink at once, in percent. All at once loses caches all at once."""
    scale_to_zero: bool = False
    """Whether a cluster at rest keeps no instance. The first request then waits for a start."""
    idle_s: float = 600.0
    """Seconds without a request after which a cluster is at rest."""
    start_s: float = 10.0
    """Seconds from the order of an instance until it serves, taken until some were seen to start."""
    start_timeout_s: float = 60.0
    """Seconds after which an instance that is not healthy is given up; no start is expected to take longer."""
    budget: HostBudget = HostBudget()
    """What the host has room for."""

    def step_up_from(self, size: int) -> int:
        """By how many a fleet of this size may grow at once."""
        return max(self.step_up, ceil(size * self.step_up_percent / 100.0 - 1e-9))

    def step_down_from(self, size: int) -> int:
        """By how many a fleet of this size may shrink at once."""
        return max(self.step_down, int(size * self.step_down_percent / 100.0 + 1e-9))
