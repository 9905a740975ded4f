"""What a cluster's answers teach: how long requests work, how large data are, how fast they come, and whether what is
foretold is worth anything.

Sizes and speeds are learned from the same times. A miss that had its slot for as long as a hit, and a transfer more,
says how many bytes came at the speed that is believed of its endpoint, and how fast its endpoint is if the size is
believed. Each moves a little, so that what many endpoints say of one key ends up in its size, and what many keys say of
one endpoint in its speed. Sizes and speeds that somebody gives are not touched, unless they cannot be; while nobody
gives any, they are made up: the typical speed is held at `site.FIRST_BANDWIDTH`, and only ratios matter.

Predictions are judged by a model that knows nothing of data: that every request takes the mean time. When they are
worse than that, as with keys that mean nothing or services that lie, data are left out of choices until they are better
again. Waits are left out of both, because under overload they are large whatever one believes of data.
"""

from collections import OrderedDict
from collections.abc import Sequence
from statistics import median

from proxy.policy.pace import LEAST_S
from proxy.policy.residency import DataKey, Residency
from proxy.policy.site import FIRST_BANDWIDTH, Placement, Site

# Seconds that a transfer takes while none was seen.
FIRST_TRANSFER_S = 0.1
# Weights of a new sample. Where the request had to wait, the time with a slot is less certain.
SIZE_WEIGHT = 0.3
SIZE_WEIGHT_WAITED = 0.1
SPEED_WEIGHT = 0.1
CLASS_WEIGHT = 0.1
MEAN_WEIGHT = 0.02
# A transfer seems this many times faster or slower than expected at most; one sample says no more.
MOST_RATIO = 10.0
# A size that somebody gave is wrong when a transfer says that it is so many times off, and it is `MOST_RATIO` times off
# what is typical too: else it is the speed that is not known yet, for which this leaves room from 100 kB/s to 100 GB/s.
MOST_WRONG = 1000.0
# What is typical is no less for that: data that take no time, or little, are no measure.
FIRST_BYTES = FIRST_TRANSFER_S * FIRST_BANDWIDTH
# Transfers after which the typical speed is brought back to where it was.
LEVEL_EVERY = 64
# Processing types that are told apart, those of the latest answers.
MOST_CLASSES = 64
# A processing type takes no less than this part of the others' time.
LEAST_CLASS = 1e-3
# Answers before predictions are judged, and how much worse than the plain model's they must be to be left out.
JUDGED_AFTER = 100
WORSE = 1.25
# Errors that are no reason to: below that it is the proxy's own turns that are measured.
NEGLIGIBLE_S = 0.0005
# Seconds between two answers of an endpoint that are learned from while they bring what was expected: data that were
# held. 500 a second say as much as 5000, and cost a tenth; misses, of which there are few, are all learned from.
LEARN_S = 0.002
# Part of its transfer by which an answer that says nothing must be late to be taken for a miss.
LATE = 0.6


class Learning:
    """Of one cluster."""

    __slots__ = (
        "_classes", "_is_given", "_misses", "_residency", "error_s", "errors_s", "forgotten_types", "is_trusted",
        "judged", "plain_error_s", "plain_errors_s", "plain_s", "sites", "typical_bytes",
    )  # fmt: skip

    def __init__(self, residency: Residency) -> None:
        self.sites: Sequence[Site] = ()
        """Of all members."""
        self.typical_bytes = FIRST_BYTES
        """Of a key that nobody has measured."""
        self.is_trusted = True
        """Data count in choices."""
        self.judged = 0
        """Answers that predictions were held against."""
        self.error_s = 0.0
        """Mean error of predictions."""
        self.plain_error_s = 0.0
        """What it is when data are of no account."""
        self.errors_s = 0.0
        """Sum of the errors of predictions, and of those of the plain model."""
        self.plain_errors_s = 0.0
        self.plain_s = 0.0
        """Mean time with a slot."""
        self._residency = residency
        self._classes: OrderedDict[bytes, float] = OrderedDict()
        """How many times longer than others each processing type takes, the one unused for longest first."""
        self.forgotten_types = 0
        """How often one had to go for another."""
        self._misses = 0
        self._is_given = False
        """The size of some that were missing since speeds were last brought back."""

    def __repr__(self) -> str:
        return f"Learning(error {self.error_s:.4f} s, plain {self.plain_error_s:.4f} s, {self.judged} judged)"

    def on_answer(self, placement: Placement, took_s: float, is_hit: bool | None, *, now: float) -> bool:
        """An endpoint answered `took_s` after the request was sent; `is_hit` = whether it held the data, `None` when it
        does not say. Returns whether it did, as far as can be told."""
        site = placement.site
        if not placement.missing and not placement.is_joining and is_hit is not False:
            if now < site.learn_at:
                return True
            site.learn_at = now + LEARN_S
        worked_s = placement.worked_s(took_s, now=now)
        self._judge(placement, worked_s)
        for key in placement.keys:
            site.holdings.on_arrived(key)
        if is_hit is None:
            is_hit = self._looks_like_hit(placement, worked_s)
        if is_hit or not placement.keys:
            self._on_hit(placement, took_s, worked_s)
        else:
            self._on_miss(placement, worked_s)
        return is_hit

    def _judge(self, placement: Placement, worked_s: float) -> None:
        """Hold what was expected of work and transfer against what came."""
        self.judged += 1
        weight = max(MEAN_WEIGHT, 1.0 / self.judged)
        error, plain = abs(worked_s - placement.charge_s), abs(worked_s - self.plain_s)
        if self.judged > 1:
            # One wild prediction, as of a size that is a lie, is not to outweigh hundreds.
            error = min(error, MOST_RATIO * max(plain, self.plain_error_s))
            self.plain_errors_s += plain
            self.plain_error_s += weight * (plain - self.plain_error_s)
        self.errors_s += error
        self.error_s += weight * (error - self.error_s)
        self.plain_s += weight * (worked_s - self.plain_s)
        if self.judged >= JUDGED_AFTER:
            limit = WORSE if self.is_trusted else 1.0
            self.is_trusted = self.error_s <= limit * self.plain_error_s + NEGLIGIBLE_S

    def _looks_like_hit(self, placement: Placement, worked_s: float) -> bool:
        """Whether an answer that says nothing came from data that were there, by its time."""
        missing = placement.missing
        if missing and not placement.had_left:
            return False
        keys = missing or placement.keys
        if not missing and (placement.has_waited or not all([key.samples or key.is_given for key in keys])):
            return True
        transfer_s = sum([key.size_bytes for key in keys]) * placement.site.s_per_byte
        return worked_s - placement.terms.service_s < LATE * transfer_s

    def _on_hit(self, placement: Placement, took_s: float, worked_s: float) -> None:
        site = placement.site
        for key in placement.keys:
            site.holdings.on_hit(key, had_left=placement.had_left and key in placement.missing)
        # What waited for data on their way says nothing of the work.
        if placement.is_joining:
            return
        ratio = self._class_ratio(placement, worked_s) if placement.work_class else 1.0
        if site.pace.add(took_s / ratio, worked_s / ratio, placement.in_flight, placement.work_s):
            site.pace.fit([other.pace for other in self.sites])

    def _class_ratio(self, placement: Placement, worked_s: float) -> float:
        """How many times longer than others requests of this processing type take."""
        site, work_class = placement.site, placement.work_class
        if work_class in self._classes:
            self._classes.move_to_end(work_class)
        else:
            if len(self._classes) >= MOST_CLASSES:
                self._forget_type()
            self._classes[work_class] = 1.0
        # What it takes elsewhere is the best first guess.
        known = site.classes.get(work_class, self._classes[work_class])
        if site.pace.is_known:
            seen = worked_s / site.pace.service_s
            known += CLASS_WEIGHT * (seen - known)
            self._classes[work_class] += CLASS_WEIGHT * (seen - self._classes[work_class])
        site.classes[work_class] = max(known, LEAST_CLASS)
        return site.classes[work_class]

    def _forget_type(self) -> None:
        """Make room for another processing type."""
        gone, _ = self._classes.popitem(last=False)
        for site in self.sites:
            site.classes.pop(gone, None)
        self.forgotten_types += 1

    def _on_miss(self, placement: Placement, worked_s: float) -> None:
        site, waited = placement.site, placement.has_waited
        keys = placement.missing or placement.keys
        # Of what was still on its way others may be told that it was missing too, if each fetches for itself.
        if not placement.missing and not placement.is_joining:
            for key in keys:
                site.holdings.on_miss(key)
        transfer_s = max(worked_s - placement.terms.service_s, LEAST_S)
        size = sum([key.size_bytes for key in keys])
        share = transfer_s / (size * site.s_per_byte)
        for key in keys:
            if key.is_given and self._is_lie(key.size_bytes, share):
                key.is_given, key.samples, waited = False, 0, False
        is_sized = all([key.samples or key.is_given for key in keys])
        if site.is_speed_said and site.is_doubtful(share, MOST_RATIO if is_sized else MOST_WRONG, is_sized):
            return
        if not waited and not site.is_speed_given and is_sized:
            ratio = min(max(transfer_s / (size * site.s_per_byte), 1.0 / MOST_RATIO), MOST_RATIO)
            site.transfers += 1
            site.s_per_byte *= 1.0 + max(SPEED_WEIGHT, 1.0 / (site.transfers + 1)) * (ratio - 1.0)
        share = transfer_s / (size * site.s_per_byte)
        for key in keys:
            if key.is_given:
                key.samples += 1
            else:
                self._learn_size(key, key.size_bytes * share, waited)
        self._misses += 1
        weight = max(MEAN_WEIGHT, 1.0 / self._misses)
        self.typical_bytes += weight * (
            sum([key.size_bytes for key in keys]) / len(keys) - self.typical_bytes
        )
        if any([key.is_given for key in keys]):
            self._is_given = True
        if self._misses % LEVEL_EVERY == 0:
            self._level()

    def _is_lie(self, said_bytes: float, share: float) -> bool:
        """Whether the size that was said cannot be, of which a transfer took `share` times as long as it should."""
        if share < 1.0 / MOST_WRONG:
            return said_bytes > MOST_RATIO * max(self.typical_bytes, FIRST_BYTES)
        return share > MOST_WRONG and said_bytes * MOST_RATIO < self.typical_bytes

    def believed_bytes(self, key: DataKey, said_bytes: float) -> float:
        """What counts of a size that somebody says `key` has. Before anything was seen of it no more than ten times
        the typical, or 100 MB; later all that transfers do not disprove."""
        if not key.samples:
            return min(said_bytes, MOST_RATIO * max(self.typical_bytes, FIRST_BYTES))
        return key.size_bytes if self._is_lie(said_bytes, key.size_bytes / said_bytes) else said_bytes

    def _learn_size(self, key: DataKey, seen_bytes: float, waited: bool) -> None:
        if key.samples:
            weight = SIZE_WEIGHT_WAITED if waited else SIZE_WEIGHT
        else:
            weight = SIZE_WEIGHT if waited else 1.0
        key.samples += 1
        size = key.size_bytes + weight * (seen_bytes - key.size_bytes)
        self._residency.resize(key, max(size, 1.0))

    def _level(self) -> None:
        """Bring the typical speed back, so that sizes and speeds do not drift together. One of them that is given
        keeps the others in place."""
        is_given, self._is_given = self._is_given, False
        if is_given or not self.sites or any([site.is_speed_given for site in self.sites]):
            return
        level = median([site.s_per_byte for site in self.sites]) * FIRST_BANDWIDTH
        for site in self.sites:
            site.s_per_byte /= level
