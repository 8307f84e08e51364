"""Callbacks: what they are told, how they end a run, and that one which only looks changes nothing."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from lzero.checkpoint import list_checkpoints
from lzero.entry import Callback, Stop, train_unizero_multitask_segment_ddp
from lzero.entry.checkpointing import RunError
from tests.entry.run_cases import STEPS, curves, settings
from tests.ranks import run_ranks

GAME = "CartPole-v1"


class Watching(Callback):
    """Keeps what it is told; ``asked`` at an update by what it returns, or raises it."""

    def __init__(self, update: int = -1, asked: Stop | Exception | str | None = None) -> None:
        self.told: list[tuple[str, int]] = []
        self.update, self.asked = update, asked
        self.events: dict[str, object] = {}

    def _take(self, name: str, event) -> None:
        self.told.append((name, event.env_step))
        self.events[name] = event

    def on_round(self, event):
        self._take("round", event)

    def on_update(self, event):
        self._take("update", event)
        if event.train_iter != self.update:
            return None
        if isinstance(self.asked, Exception):
            raise self.asked
        return self.asked

    def on_evaluation(self, event):
        self._take("evaluation", event)

    def on_checkpoint(self, event):
        self._take("checkpoint", event)

    def on_stop(self, event):
        self._take(event.ending, event)


def steps(callback: Watching, name: str) -> list[int]:
    return [step for what, step in callback.told if what == name]


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> tuple[Watching, Path]:
    """A run under the eyes of a callback, and its folder."""
    callback, folder = Watching(), tmp_path_factory.mktemp("watched")
    config = settings(folder, {"train.video": False, "train.loggers": ["csv"]})
    train_unizero_multitask_segment_ddp(config, callbacks=[callback])
    return callback, folder / "tiny"


def test_a_callback_is_told_of_everything_in_its_order(watched):
    callback, run_dir = watched
    assert steps(callback, "round") == list(range(20, STEPS + 1, 20))
    assert steps(callback, "evaluation") == [60, 120]
    assert steps(callback, "checkpoint") == [40, 60, 80, 120]
    assert callback.told[-1] == ("finished", STEPS)
    updates = steps(callback, "update")
    assert len(updates) == callback.events["finished"].train_iter > 10
    evaluation, last = callback.events["evaluation"], callback.events["round"]
    assert evaluation.scores == {GAME: evaluation.episodes[GAME].mean()}
    assert evaluation.metrics[f"eval_return/{GAME}"] == evaluation.scores[GAME]
    assert f"collect_reward/{GAME}" in last.metrics and "learn/loss" in last.metrics
    assert callback.events["checkpoint"].checkpoint == list_checkpoints(run_dir / "checkpoints")[-1]
    assert (last.games, last.max_env_step, last.run_dir) == ((GAME,), STEPS, run_dir)
    assert isinstance(callback.events["update"].result.task_means, torch.Tensor)
    with pytest.raises(TypeError):
        evaluation.scores[GAME] = 0.0
    assert not (run_dir / "tb").exists(), "the only logger asked for is csv"


def test_a_run_is_finished_when_a_callback_says_so(watched, tmp_path):
    """In the middle of a round, with a checkpoint; what came before is that of the undisturbed run, and it can go on."""
    _, undisturbed = watched
    config = settings(tmp_path, {"train.video": False, "train.loggers": []})
    callback = Watching(13, Stop("enough"))
    result = train_unizero_multitask_segment_ddp(config, callbacks=[callback])
    assert (result.stopped_early, result.train_iter) == ("enough", 13) and result.env_steps < STEPS
    assert callback.told[-1] == ("stopped early", result.env_steps)
    assert result.scores == callback.events["evaluation"].scores
    file = tmp_path / "tiny" / "result.json"
    assert json.loads(file.read_text())["stopped_early"] == "enough"
    again = Watching()
    assert train_unizero_multitask_segment_ddp(config, callbacks=[again]) == result
    assert again.told == [], "it is finished"
    whole = train_unizero_multitask_segment_ddp(config)
    assert (whole.stopped_early, whole.env_steps) == (None, STEPS)

    def losses(run_dir: Path) -> list[float]:
        rows = [row["metrics"] for row in curves(run_dir)]
        return [row["learn/loss"] for row in rows if "learn/loss" in row]

    # CartPole begins its episodes anew where a run goes on
    assert losses(tmp_path / "tiny")[:13] == losses(undisturbed)[:13]
    assert len(losses(tmp_path / "tiny")) == len(losses(undisturbed))


class OnRankOne(Callback):
    """Asks on rank 1 alone, after ten updates."""

    def on_update(self, event):
        is_time = not event.is_main and event.train_iter == 10
        return Stop("rank 1 has seen enough") if is_time else None


def stopping(directory: Path) -> tuple[int, str | None, bool]:
    changes = {"env.num_envs": 4, "train.video": False, "train.loggers": []}
    changes |= {"train.eval_interval": 1000, "train.checkpoint_interval": 1000}
    config = settings(directory, changes)
    result = train_unizero_multitask_segment_ddp(config, callbacks=[OnRankOne()])
    return result.train_iter, result.stopped_early, result.env_steps < STEPS


def test_all_ranks_finish_where_one_callback_says_so(tmp_path):
    first, second = run_ranks(partial(stopping, tmp_path), 2, tmp_path)
    assert first[::2] == second[::2] == (10, True)
    assert (
        second[1] == "rank 1 has seen enough"
        and first[1] == "a callback of another rank asked for it"
    )


@pytest.mark.parametrize("asked", [OSError("my own"), "yes"], ids=["raises", "returns a text"])
def test_what_a_callback_does_wrong_ends_the_run_with_a_checkpoint(tmp_path, asked):
    config = settings(tmp_path, {"train.video": False, "train.loggers": []})
    callback, other = Watching(7, asked), Watching()
    is_text = isinstance(asked, str)
    says = r"Watching.on_update returned 'yes': allowed are None and Stop" if is_text else "my own"
    with pytest.raises(TypeError if is_text else Exception, match=says):
        train_unizero_multitask_segment_ddp(config, callbacks=[callback, other])
    assert [path.name for path in list_checkpoints(tmp_path / "tiny" / "checkpoints")][-1] == (
        "step_000007"
    )
    assert callback.told[-1][0] == other.told[-1][0] == "error"
    assert len(steps(callback, "update")) == 7 and len(steps(other, "update")) == 6
    assert not (tmp_path / "tiny" / "result.json").exists()


def test_a_missing_package_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("lzero.sinks.choice.find_spec", lambda name: None)
    monkeypatch.setattr("lzero.entry.build.make_env", lambda *_: pytest.fail("environments"))
    config = settings(tmp_path, {"train.loggers": ["csv", "wandb"]})
    with pytest.raises(RunError, match=r"wandb is not installed; type pip install wandb"):
        train_unizero_multitask_segment_ddp(config)
    assert not (tmp_path / "tiny").exists()
