"""From the sections about scaling to the parameters of the policy. Pure."""

from proxy.config.scaler_schema import HostBudget as HostBudgetSection
from proxy.config.scaler_schema import Scaler
from proxy.policy.scaling_params import HostBudget, ScalingParams


def scaling_params(scaler: Scaler, budget: HostBudgetSection) -> ScalingParams:
    """How many instances a cluster has. `budget` is that of all clusters together."""
    return ScalingParams(
        min_instances=scaler.min_instances,
        max_instances=scaler.max_instances,
        slots=scaler.slots,
        target_in_flight=scaler.target_in_flight,
        headroom=scaler.headroom,
        target_work_s=scaler.target_work,
        target_queue_wait_s=scaler.target_queue_wait,
        cpu_threshold_percent=scaler.cpu_threshold,
        memory_threshold_percent=scaler.memory_threshold,
        memory_extra_percent=scaler.memory_extra,
        stable_window_s=scaler.stable_window,
        panic_window_s=scaler.panic_window,
        panic_threshold_percent=scaler.panic_threshold,
        scale_up_cooldown_s=scaler.scale_up_cooldown,
        scale_down_cooldown_s=scaler.scale_down_cooldown,
        stabilisation_s=scaler.stabilisation,
        step_up=scaler.step_up,
        step_up_percent=scaler.step_up_percent,
        step_down=scaler.step_down,
        step_down_percent=scaler.step_down_percent,
        scale_to_zero=scaler.scale_to_zero,
        idle_s=scaler.idle,
        start_s=scaler.start_time,
        start_timeout_s=scaler.start_timeout,
        budget=_budget(scaler, budget),
    )


def _budget(scaler: Scaler, budget: HostBudgetSection) -> HostBudget:
    """The budget, and what one instance claims of it by its limits. A process has no limit of cores."""
    cpus, memory = 0.0, 0
    if scaler.container is not None:
        cpus, memory = scaler.container.resources.cpus, scaler.container.resources.memory
    elif scaler.process is not None:
        memory = scaler.process.memory
    return HostBudget(
        cpus=budget.cpus or None,
        memory_bytes=budget.memory or None,
        instance_cpus=cpus,
        instance_memory_bytes=memory,
    )
