"""From the sections of `resilience_schema` to the parameters of the policies. Pure."""

from proxy.config.resilience_schema import (
    CircuitBreaker,
    HealthCheck,
    OutlierDetection,
    Queue,
    RateLimit,
    Retry,
    SlowStart,
)
from proxy.policy.admission import QueueParams
from proxy.policy.breaker import BreakerParams
from proxy.policy.failures import FailureKind, retry_on
from proxy.policy.health import HealthParams
from proxy.policy.outlier import OutlierParams
from proxy.policy.rate_limit import RateLimitParams
from proxy.policy.retry import RetryParams
from proxy.policy.slow_start import SlowStartParams
from proxy.snapshot import RateLimitSpec


def breaker_params(section: CircuitBreaker) -> BreakerParams:
    """When circuits open."""
    return BreakerParams(
        failure_threshold=section.failure_threshold,
        recovery_timeout_s=section.recovery_timeout,
        success_threshold=section.success_threshold,
        half_open_max_trials=section.half_open_max_trials,
        failures=frozenset(FailureKind(word) for word in section.failures),
    )


def health_params(section: HealthCheck) -> HealthParams:
    """How often endpoints are checked, and how many checks decide."""
    return HealthParams(
        interval_s=section.interval,
        unhealthy_interval_s=min(section.unhealthy_interval, section.interval)
        if "unhealthy_interval" not in section.model_fields_set
        else section.unhealthy_interval,
        timeout_s=section.timeout,
        unhealthy_after=section.unhealthy_after,
        healthy_after=section.healthy_after,
        jitter_percent=section.jitter,
    )


def outlier_params(section: OutlierDetection) -> OutlierParams:
    """When endpoints are ejected."""
    return OutlierParams(
        consecutive_failures=section.consecutive_failures,
        failure_percent=section.failure_percent,
        latency_factor=section.latency_factor,
        latency_floor_s=section.latency_floor,
        min_requests=section.min_requests,
        window_s=section.window,
        interval_s=section.interval,
        base_ejection_s=section.base_ejection,
        max_ejection_s=section.max_ejection,
        jitter_percent=section.jitter,
        max_ejected_percent=section.max_ejected_percent,
    )


def slow_start_params(section: SlowStart | None) -> SlowStartParams:
    """How shares grow."""
    if section is None:
        return SlowStartParams(window_s=0.0)
    return SlowStartParams(
        window_s=section.window, min_percent=section.min_percent, aggression=section.aggression
    )


def retry_params(section: Retry) -> RetryParams:
    """What is tried again."""
    return RetryParams(
        max_retries=section.max_retries,
        on=retry_on(section.on),
        budget_percent=section.budget_percent,
        min_retries=section.min_retries,
        per_try_timeout_s=section.per_try_timeout,
        backoff_s=section.backoff,
        max_backoff_s=section.max_backoff,
        replay_bytes=section.replay_bytes,
    )


def queue_params(section: Queue) -> QueueParams:
    """Who waits."""
    return QueueParams(max_pending=section.max_pending, timeout_s=section.timeout, ageing_s=section.ageing)


def rate_limit_spec(section: RateLimit) -> RateLimitSpec:
    """How many requests each client may send."""
    params = RateLimitParams(
        requests=section.requests,
        per_s=section.per,
        burst=section.burst or section.requests,
    )
    return RateLimitSpec(params, section.header.lower().encode())
