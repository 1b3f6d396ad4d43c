"""The chart's autoscaling of encoders, simulated: its own thresholds and policies, 200 people on a made-up day."""

import bisect
import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tests.deploy.chart import of_kind, rendered

from labeling_ground.simulate.capacity import Team, day
from labeling_ground.simulate.queueing import Engines, Need
from labeling_ground.types import Priority

ENCODE_S = 0.4
STARTS_S = 180.0
"""From the wish for one more engine to its first image: a pod is placed, the weights are pulled and loaded."""
PROXIES, QUEUE = 3, 64
"""A proxy has so many images of a job wait, and sends the job's client away with the rest (``encode_queue``)."""


@dataclass
class Autoscaler:
    """What KEDA and the autoscaler of Kubernetes do with a ScaledObject's triggers (values averaged over replicas)."""

    spec: dict[str, Any]
    replicas: int
    changes: list[tuple[float, int]] = field(default_factory=list)
    """When the number of replicas changed, and by how many."""
    wished: deque[tuple[float, int]] = field(default_factory=deque)

    def look(self, now: float, waiting: int) -> int:
        """One look at the triggers; returns how many replicas are added or taken away."""
        values = {"waiting": float(waiting), "seconds": waiting * ENCODE_S}
        triggers = self.spec["triggers"]
        assert {trigger["metricType"] for trigger in triggers} == {"AverageValue"}
        wish: int = max(math.ceil(values[one["name"]] / float(one["metadata"]["threshold"])) for one in triggers)
        wish = min(max(wish, self.spec["minReplicaCount"]), self.spec["maxReplicaCount"])
        behavior = self.spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        up, down = behavior["scaleUp"], behavior["scaleDown"]
        assert up["stabilizationWindowSeconds"] == 0
        self.wished.append((now, wish))
        while self.wished[0][0] < now - down["stabilizationWindowSeconds"]:
            self.wished.popleft()
        if wish > self.replicas:
            change = min(wish - self.replicas, self._allowed(up, now, 1))
        else:
            most = max(each for _, each in self.wished)
            change = -min(max(0, self.replicas - most), self._allowed(down, now, -1))
        if change:
            self.replicas += change
            self.changes.append((now, change))
        return change

    def _allowed(self, rules: dict[str, Any], now: float, sign: int) -> int:
        policy: dict[str, Any]
        [policy] = rules["policies"]
        assert policy["type"] == "Pods"
        done = sum(abs(by) for at, by in self.changes if by * sign > 0 and at > now - policy["periodSeconds"])
        return int(policy["value"]) - done


def the_day(team: Team, spec: dict[str, Any]) -> tuple[Engines, Autoscaler]:
    """The day, with as many encoders as the autoscaler wants."""
    load, scaler = day(team), Autoscaler(spec, spec["minReplicaCount"])
    engines = Engines(scaler.replicas, ENCODE_S)
    start = load.needs[0].time
    job = iter(Need(0.0, -1 - number, Priority.JOB) for number in range(team.job_images))
    waiting_job: Iterator[Need] = iter(())
    ticks = np.arange(start, load.needs[-1].time, spec["pollingInterval"])
    times = [need.time for need in load.needs]
    for tick, until in itertools.pairwise(ticks):
        change = scaler.look(float(tick), engines.waiting)
        for _ in range(abs(change)):
            engines.add(float(tick) + STARTS_S) if change > 0 else engines.remove()
        if tick >= start + load.seconds / 4:
            waiting_job = job
        for number in range(math.ceil(spec["pollingInterval"])):  # the job's client comes again each second
            now = float(tick) + number
            engines.advance(now)
            for need in load.needs[bisect.bisect_left(times, now) : bisect.bisect_left(times, min(now + 1, until))]:
                engines.need(need)
            for _ in range(PROXIES * QUEUE - engines.waiting):
                if (one := next(waiting_job, None)) is None:
                    break
                engines.need(Need(min(now + 1, float(until)), one.key, one.priority))
    engines.advance(float("inf"))
    return engines, scaler


def test_people_do_not_wait_for_engines_to_start_and_engines_do_not_come_and_go() -> None:
    spec = of_kind(rendered("six-gpus"), "ScaledObject")["sam-vit-h-encoder"]["spec"]
    engines, scaler = the_day(Team(200, job_images=60_000), spec)
    waited = np.array(engines.waited[Priority.INTERACTIVE])
    assert len(waited) > 1000
    assert np.percentile(waited, 99) <= ENCODE_S + 1.0
    assert len(engines.waited[Priority.JOB]) == 60_000
    assert max(change for _, change in scaler.changes) > 0  # the job has brought more
    assert scaler.replicas == spec["minReplicaCount"]  # and they went
    moments = [at for at, _ in scaler.changes]
    assert max(sum(at <= other < at + 600 for other in moments) for at in moments) <= 2
    assert len(moments) <= 12
