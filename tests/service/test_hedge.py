"""Whoever is first answers, nothing is paid twice, and a store that is slow or dead delays nothing."""

import asyncio
from collections import Counter

import pytest
from tests.doubles import now, virtually

from labeling_ground.errors import BackendFailed
from labeling_ground.service.once import HedgeOutcome, StartGate, hedged_look_up


class Run:
    """One hedged look-up in virtual time."""

    def __init__(
        self, found: str | None, after: float, *, predict_s: float = 0.0, error: Exception | None = None
    ) -> None:
        self.found, self.after, self.predict_s, self.error = found, after, predict_s, error
        self.outcomes: Counter[HedgeOutcome] = Counter()
        self.begun = 0
        self.looked_up = 0
        self.called_off = 0
        self.called_off_at_once = 0
        self.seconds = 0.0

    async def look_up(self) -> str | None:
        await asyncio.sleep(self.after)
        self.looked_up += 1
        return self.found

    async def predict(self, gate: StartGate) -> str:
        await gate.wait()
        gate.begun = True
        self.begun += 1
        try:
            await asyncio.sleep(self.predict_s)
        except asyncio.CancelledError:
            self.called_off += 1
            raise
        if self.error is not None:
            raise self.error
        return "predicted"

    def count(self, outcome: HedgeOutcome) -> None:
        self.outcomes[outcome] += 1

    async def go(self, window_s: float | None) -> str:
        started = now()
        try:
            return await hedged_look_up(self.look_up(), self.predict, window_s=window_s, count=self.count)
        finally:
            self.seconds = now() - started
            await asyncio.sleep(0.0001)
            self.called_off_at_once = self.called_off


def go(run: Run, window_s: float | None = 0.005) -> str:
    return virtually(lambda: run.go(window_s))


def test_a_hit_within_the_window_keeps_the_prediction_from_the_model() -> None:
    run = Run("found", 0.003)
    assert go(run) == "found"
    assert (run.begun, run.outcomes) == (0, {HedgeOutcome.WITHDRAWN: 1})
    assert run.seconds == pytest.approx(0.003)


def test_a_miss_within_the_window_opens_the_gate_at_once() -> None:
    run = Run(None, 0.001)
    assert go(run) == "predicted"
    assert run.seconds == pytest.approx(0.001)
    assert run.outcomes == {HedgeOutcome.USED: 1}


@pytest.mark.parametrize("after", [2.0, 3600.0])
def test_a_slow_or_dead_store_delays_nothing_beyond_the_window(after: float) -> None:
    run = Run("found", after, predict_s=0.3)
    assert go(run) == "predicted"
    assert run.seconds == pytest.approx(0.305)


def test_a_hit_after_the_window_still_answers_first_and_the_prediction_is_called_off_as_wasted() -> None:
    run = Run("found", 0.1, predict_s=0.3)
    assert go(run) == "found"
    assert run.seconds == pytest.approx(0.1)
    assert (run.called_off_at_once, run.outcomes) == (1, {HedgeOutcome.WASTED: 1})


def test_a_look_up_that_lost_is_left_to_finish() -> None:
    run = Run("found", 2.0)

    async def main() -> None:
        assert await run.go(0.005) == "predicted"
        assert run.looked_up == 0
        await asyncio.sleep(3)

    virtually(main)
    assert run.looked_up == 1


@pytest.mark.parametrize(("found", "after", "answer"), [("found", 2.0, "found"), (None, 2.0, "predicted")])
def test_in_mode_first_the_gate_stays_shut_until_the_look_up_has_answered(
    found: str | None, after: float, answer: str
) -> None:
    run = Run(found, after, predict_s=0.3)
    assert go(run, None) == answer
    assert run.begun == (answer == "predicted")
    assert run.seconds == pytest.approx(after if answer == "found" else after + 0.3)


def test_a_prediction_that_fails_is_forgiven_by_a_hit_that_comes_later() -> None:
    run = Run("found", 0.05, error=BackendFailed("no"))
    assert go(run) == "found"
    assert run.seconds == pytest.approx(0.05)


def test_a_prediction_that_fails_is_an_error_once_the_look_up_has_missed() -> None:
    run = Run(None, 0.05, error=BackendFailed("no"))
    with pytest.raises(BackendFailed):
        go(run)
    assert run.outcomes == {}


def test_a_bug_is_said_at_once_whatever_the_look_up_would_find() -> None:
    run = Run("found", 0.05, error=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        go(run)
    assert run.seconds == pytest.approx(0.005)


@pytest.mark.parametrize("error", [None, BackendFailed("no")])
def test_who_leaves_calls_the_prediction_off_and_leaves_the_look_up_alone(error: Exception | None) -> None:
    run = Run("found", 1.0, predict_s=0.0 if error else 9.0, error=error)

    async def main() -> None:
        task = asyncio.create_task(run.go(0.005))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        await asyncio.sleep(2)

    virtually(main)
    assert (run.called_off_at_once, run.looked_up, run.outcomes) == (0 if error else 1, 1, {})


def test_a_prediction_that_fails_while_it_is_called_off_is_not_complained_about() -> None:
    complaints: list[object] = []

    async def stubborn(gate: StartGate) -> str:
        try:
            await gate.wait()
            return "never"
        finally:
            raise BackendFailed("while it was called off")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        run = Run("found", 0.001)
        assert await hedged_look_up(run.look_up(), stubborn, window_s=1.0, count=run.count) == "found"
        await asyncio.sleep(1)

    virtually(main)
    assert complaints == []


def test_a_gate_opens_by_hand_or_when_its_window_is_over() -> None:
    async def waited(window_s: float | None, open_after: float | None) -> float:
        gate = StartGate(window_s)
        if open_after is not None:
            asyncio.get_running_loop().call_later(open_after, gate.open)
        started = now()
        await gate.wait()
        await gate.wait()
        return now() - started

    def times(*waits: tuple[float | None, float | None]) -> list[float]:
        async def main() -> list[float]:
            return [await waited(*wait) for wait in waits]

        return virtually(main)

    assert times((0.0, None), (0.5, None), (0.5, 0.2), (None, 7.0)) == pytest.approx([0.0, 0.5, 0.2, 7.0], abs=1e-6)
