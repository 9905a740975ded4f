"""The instances of a cluster that were made from another spec than there is now, and how others take their place.

`policy.deploying` says how many there should be of either version; here is what these versions are, and what is told of
it. The spec of the old version is known for as long as this control lives: a deployment that is called off starts old
ones in place of those that went, and new ones only if there is nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.controlplane.events import EventType
from proxy.controlplane.instance_life import Life, Phase
from proxy.drivers.spec import InstanceSpec
from proxy.policy.deploying import Answers, DeployParams, Rollout, Sizes, Stage, why_worse

Tell = Callable[[EventType, str, str], None]


class Deployment:
    """Of one cluster. `halted` says why that of this spec was called off before this control began."""

    def __init__(
        self, cluster: str, spec: InstanceSpec, params: DeployParams, tell: Tell, halted: str = ""
    ) -> None:
        self._cluster = cluster
        self._tell = tell
        self.spec = spec
        """What new instances are made from."""
        self.version = spec.digest()
        self.old_spec: InstanceSpec | None = None
        """Of those that serve while a deployment is under way or called off; `None` = this control never knew."""
        self.rollout = Rollout(params, halted)
        self._before: dict[str, Answers] = {}
        """What requests had come to when it began, by instance."""

    def __repr__(self) -> str:
        return f"Deployment({self.version}, {self.rollout!r})"

    def change(self, spec: InstanceSpec, params: DeployParams) -> None:
        """Go by another configuration."""
        self.rollout.change(params)
        if spec.digest() != self.version:
            # Of several that were never finished, the first is what serves.
            self.old_spec = self.old_spec or self.spec
            self.version = spec.digest()
            self.rollout.forget()
        self.spec = spec

    def retry(self) -> None:
        """Somebody wants one that was called off to be tried again."""
        if self.rollout.stage is Stage.HALTED:
            self.rollout.forget()

    def is_new(self, version: str) -> bool:
        """Whether an instance of that version is as it should be."""
        return version == self.version

    def sizes(
        self,
        desired: int,
        new: Sequence[Life],
        old: Sequence[Life],
        answers: Mapping[str, Answers],
        *,
        now: float,
    ) -> Sizes:
        """How many there should be of either version; `new` and `old` are those that start or serve, `answers` what
        requests to them came to."""
        rollout = self.rollout
        if rollout.stage is Stage.HALTED and not old and self.old_spec is None:
            return Sizes(desired, 0)  # nobody knows what the old ones were made from
        if rollout.is_under_way:
            self._compare(new, old, answers)
        else:
            self._before = {}
        before = rollout.stage
        serving = sum(life.phase is Phase.SERVING for life in new)
        sizes = rollout.sizes(desired, serving, len(old), now=now)
        if rollout.stage is not before:
            self._tell_stage(serving, len(old), now)
        return sizes

    def blame(self, version: str, why: str) -> None:
        """An instance of `version` failed: the deployment of that is called off."""
        if self.is_new(version) and self.rollout.is_under_way:
            self._halt(f"a new one failed: {why}")

    def document(self, old: int, *, now: float) -> dict[str, Any]:
        """As the admin API has it; `old` are still there of other versions."""
        left_s = self.rollout.left_s(now)
        return {
            "stage": self.rollout.stage.value,
            "version": self.version,
            "old": old,
            "watched_for_s": None if left_s is None else round(left_s, 3),
            "reason": self.rollout.reason or None,
        }

    def _compare(self, new: Sequence[Life], old: Sequence[Life], answers: Mapping[str, Answers]) -> None:
        """Call it off when the new ones do worse than the old."""
        why = why_worse(self._sum(new, answers, is_new=True), self._sum(old, answers, is_new=False))
        if why is not None:
            self._halt(f"the new ones stand out: {why}")

    def _sum(self, lives: Sequence[Life], answers: Mapping[str, Answers], *, is_new: bool) -> Answers:
        """What came since it began: of new ones, all."""
        total = Answers()
        for own in [life.instance.id for life in lives if life.instance.id in answers]:
            total += answers[own].since(self._before.setdefault(own, Answers() if is_new else answers[own]))
        return total

    def _halt(self, why: str) -> None:
        self.rollout.halt(why)
        text = f"called off, the old ones stay: {why}"
        self._tell(EventType.DEPLOY_HALTED, f"cluster {self._cluster}", text)

    def _tell_stage(self, new: int, old: int, now: float) -> None:
        match self.rollout.stage:
            case Stage.STARTING:
                text = f"version {self.version} is to replace {old} instances"
            case Stage.BAKING:
                left_s = self.rollout.left_s(now) or 0.0
                text = f"{new} of version {self.version} serve, and are watched for {left_s:g} s"
            case Stage.ROLLING:
                text = f"version {self.version} does as well as the old one, the others follow"
            case _:
                self.old_spec = None
                text = f"done, after {self.rollout.took_s(now):.0f} s: {new} of version {self.version} serve"
        self._tell(EventType.DEPLOY, f"cluster {self._cluster}", text)
