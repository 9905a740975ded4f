"""What workers count of routing by data, decoded: hits and what was moved, predictions, the shadow, news."""

from dataclasses import dataclass

from proxy import scoreboard as sb
from proxy.scoreboard import Scoreboard
from proxy.snapshot import ClusterSpec


@dataclass(frozen=True, slots=True)
class EndpointDataReading:
    """One endpoint, all workers' words together. Requests that need no data do not count."""

    hits_total: int
    """Answers from data that the endpoint held."""
    misses_total: int
    """Answers for which it had to get them."""
    surprises_total: int
    """Misses of data that were believed to be there."""
    moved_bytes_total: int
    """Size of what was missed, as given or learned."""
    work_s: float
    """Predicted seconds that the requests in flight have a slot for."""
    polls_total: int
    """Times that it was asked what it holds."""
    polls_failed_total: int
    """Those without an answer of use."""

    @property
    def hit_ratio(self) -> float | None:
        """0–1; `None` without answers."""
        asked = self.hits_total + self.misses_total
        return self.hits_total / asked if asked else None


def read_endpoint_data(board: Scoreboard, slot: int) -> EndpointDataReading:
    """The endpoint in `slot`."""
    words, standing = board.endpoint_sum(slot), board.standing_row(slot)
    return EndpointDataReading(
        hits_total=words[sb.E_DATA_HITS],
        misses_total=words[sb.E_DATA_MISSES],
        surprises_total=words[sb.E_DATA_SURPRISES],
        moved_bytes_total=words[sb.E_DATA_MOVED_BYTES],
        work_s=words[sb.E_WORK_US] / 1e6,
        polls_total=standing[sb.X_RESIDENCY_ASKED],
        polls_failed_total=standing[sb.X_RESIDENCY_FAILED],
    )


@dataclass(frozen=True, slots=True)
class ClusterDataReading:
    """One cluster, all workers' words together."""

    known_keys: int
    """Data keys that the worker knows that knows most of them."""
    untrusted_workers: int
    """Workers that leave data out of their choices, because predictions are worse than a plain model's."""
    predictions_total: int
    """Answers that predictions were held against."""
    error_s_total: float
    """Sum of how far predictions of work and transfer were from what came."""
    plain_error_s_total: float
    """The same for a model that expects the mean of every request."""
    shadow_picks_total: int
    shadow_differing_total: int
    shadow_saved_s_total: float
    """Predicted seconds by which the shadow's picks would have been done sooner, of those that differ."""
    shadow_lost_s_total: float
    """The same, later."""
    news_total: int
    """What workers told each other: one of a key at an endpoint."""
    news_dropped_total: int
    """What they did not, for lack of room."""

    @property
    def error_mean_s(self) -> float | None:
        """Mean error of a prediction; `None` without any."""
        return self.error_s_total / self.predictions_total if self.predictions_total else None

    @property
    def plain_error_mean_s(self) -> float | None:
        """The same for the plain model."""
        return self.plain_error_s_total / self.predictions_total if self.predictions_total else None


def read_cluster_data(board: Scoreboard, spec: ClusterSpec) -> ClusterDataReading:
    """The words of `spec`."""
    words = board.cluster_sum(spec.slot)
    return ClusterDataReading(
        known_keys=max(board.cluster_words(sb.K_DATA_KEYS, board.used_workers, spec.slot), default=0),
        untrusted_workers=words[sb.K_UNTRUSTED],
        predictions_total=words[sb.K_PREDICTIONS],
        error_s_total=words[sb.K_ERROR_US] / 1e6,
        plain_error_s_total=words[sb.K_PLAIN_ERROR_US] / 1e6,
        shadow_picks_total=words[sb.K_SHADOW_PICKS],
        shadow_differing_total=words[sb.K_SHADOW_DIFFERS],
        shadow_saved_s_total=words[sb.K_SHADOW_SAVED_US] / 1e6,
        shadow_lost_s_total=words[sb.K_SHADOW_LOST_US] / 1e6,
        news_total=words[sb.K_NEWS_SENT],
        news_dropped_total=words[sb.K_NEWS_DROPPED],
    )
