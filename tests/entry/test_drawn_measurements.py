"""Pictures of real runs: with no time to draw, the first and the last measurement are in TensorBoard all the same."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lzero import tags
from lzero.analysis import conflict_heatmaps, expert_log
from lzero.entry import life, train_ppo_moe, train_unizero_multitask_segment_ddp
from lzero.entry.stopping import StoppedError
from lzero.logging import read_metrics
from lzero.policy.ppo_moe import PPOPolicy
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from tests.entry.test_analysed_run import settings
from tests.entry.test_train_ppo_moe import tiny

RHYTHMS = {"eval_episodes": 2, "moe_log_interval": 2}
SUBJECTS = {  # logged array and picture
    "conflict": ("gradient_conflict_matrix/{part}", "gradient_conflict_matrix/{part}"),
    "experts": ("expert_selection/long/layer0", "expert_selection/long"),
}


@dataclass(frozen=True)
class Story:
    """What a run had measured and drawn when it was stopped, when it was finished, and when it was asked for once more: env
    steps by subject.
    """

    measured: list[dict[str, list[int]]]
    drawn: list[dict[str, list[int]]]
    evaluated: list[int]


def steps_of(run_dir: Path, part: str) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    events = EventAccumulator(str(run_dir / "tb"), size_guidance={"images": 0}).Reload()
    lines = read_metrics(run_dir / "metrics.jsonl")
    measured, drawn = {}, {}
    for subject, (array, picture) in SUBJECTS.items():
        array, picture = array.format(part=part), picture.format(part=part)
        measured[subject] = [row["env_step"] for row in lines if array in row.get("arrays", {})]
        drawn[subject] = [event.step for event in events.Images(tags.numbered(picture))]
    return measured, drawn


def unizero(directory: Path) -> dict:
    data = settings(directory, moe=True).model_dump()
    # rounds of four updates: the stop is in the middle of one, between two measurements
    data["train"] |= RHYTHMS | {"max_env_steps": 160, "eval_interval": 48, "collect_steps": 4}
    data["policy"]["gradient_conflict_interval"] = 2
    return data


def ppo(directory: Path) -> dict:
    data = tiny(directory, "big softmoe", max_env_steps=320, eval_interval=80, **RHYTHMS)
    data["train"]["eval_at_start"] = False  # nothing is measured by then
    data["policy"]["gradient_conflict_interval"] = 8
    return data


RUNS = {
    "unizero": (train_unizero_multitask_segment_ddp, unizero, UniZeroMTPolicy, 9, "encoder"),
    "ppo": (train_ppo_moe, ppo, PPOPolicy, 32, "critic"),
}
"""How to train, settings, policy, updates before the stop, a component."""


@pytest.fixture(scope="module", params=RUNS)
def story(request, tmp_path_factory) -> Story:
    """A run without time to draw that was stopped in the middle, continued, and asked for when it was finished."""
    train, make, policy, updates, part = RUNS[request.param]
    data = make(tmp_path_factory.mktemp("runs"))
    run_dir = Path(data["output_dir"]) / data["exp_name"]
    learn, seen = policy.learn, []

    def asked(self, *arguments):
        if self.train_iter == updates:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(life, "DRAWING_SHARE", 0.0)
        for module in (conflict_heatmaps, expert_log):
            patch.setattr(module, "heatmap_image", lambda *_, **__: np.zeros((3, 2, 2), np.uint8))
        with patch.context() as stopping, pytest.raises(StoppedError):
            stopping.setattr(policy, "learn", asked)
            train(data)
        seen.append(steps_of(run_dir, part))
        for _ in range(2):
            train(data)
            seen.append(steps_of(run_dir, part))
    lines = read_metrics(run_dir / "metrics.jsonl")
    evaluated = []
    for row in lines:
        if any(tag.startswith(tags.EVAL_SCORES) for tag in row.get("arrays", {})):
            evaluated.append(row["env_step"])
    return Story([one for one, _ in seen], [two for _, two in seen], evaluated)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_first_and_last_measurements_are_drawn_without_a_budget(story, subject):
    until_stop, at_end, again = [measured[subject] for measured in story.measured]
    drawn_until_stop, drawn, drawn_again = [drawn[subject] for drawn in story.drawn]
    assert len(set(until_stop)) > 2 and len(set(at_end)) > len(set(until_stop)) + 2
    for measured, pictures in ((until_stop, drawn_until_stop), (at_end, drawn)):
        assert pictures[0] == measured[0] and pictures[-1] == measured[-1]
        assert pictures == sorted(set(pictures)), "no step twice"
        assert set(pictures) <= set(measured)
    assert drawn[: len(drawn_until_stop)] == drawn_until_stop
    assert again == at_end and drawn_again == drawn, "a finished run has nothing left to draw"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_evaluation_draws_the_last_measurement_and_nothing_else_is(story, subject):
    until_stop, at_end, _ = [measured[subject] for measured in story.measured]
    assert len(story.evaluated) == 4
    expected = {at_end[0], until_stop[-1], at_end[-1]}
    expected.add(min(step for step in at_end if step > until_stop[-1]))  # the first after the stop
    for evaluated in story.evaluated:
        expected.add(max(step for step in at_end if step <= evaluated))
    assert story.drawn[1][subject] == sorted(expected)


@pytest.mark.parametrize("changes", [{"pictures": False}, {"loggers": ["csv"]}])
def test_a_run_that_wants_none_draws_none_and_logs_the_numbers(tmp_path, monkeypatch, changes):
    for module in (conflict_heatmaps, expert_log):
        monkeypatch.setattr(module, "heatmap_image", lambda *_, **__: 1 / 0)
    data = unizero(tmp_path)
    data["train"] |= {"max_env_steps": 80} | changes
    result = train_unizero_multitask_segment_ddp(data)
    lines = read_metrics(result.run_dir / "metrics.jsonl")
    for array, _ in SUBJECTS.values():
        name = array.format(part="encoder")
        assert any(name in line.get("arrays", {}) for line in lines)
