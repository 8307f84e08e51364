"""PPO's runs: they learn, go on bit for bit, stop when asked, and play games in turn."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from lzero.checkpoint import list_checkpoints, load_state, load_tensors
from lzero.config_ppo import PPOExperiment
from lzero.distributed import Distributed
from lzero.entry import train_ppo_moe
from lzero.entry.checkpointing import RunError
from lzero.entry.eval_unizero_multitask import eval_unizero_multitask
from lzero.entry.ppo_run import PPORun
from lzero.entry.stopping import AskedToStopError, StoppedError
from lzero.logging import read_metrics
from lzero.policy.ppo_moe import PPOPolicy
from lzero.worker.rollouts import PolicyPlayer
from tests.entry.run_cases import curves
from tests.ranks import run_ranks
from zoo.catch.config.ppo_presets import ppo_presets

EVALUATED = "eval_return/Catch"
SETTINGS = {
    "together": {},
    "big softmoe": {
        "model": {"architecture": "big", "mixture": {"routing": "softmoe"}},
    },
    "in turn, middle topk": {
        "model": {
            "architecture": "middle",
            "mixture": {"routing": "topk", "router_gradient": True},
        },
        "schedule": {"setting": "crl", "cycles": 2},
    },
}


@pytest.fixture(autouse=True)
def _one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distributed, "threads", 1)
        yield


def tiny(directory: Path, name: str = "together", **train) -> dict:
    """A run of a second: 8 rounds of 40 env steps of each game, 8 updates in each."""
    return {
        "exp_name": "tiny",
        "output_dir": str(directory),
        "env": {
            "domain": "zoo.catch.domain:CATCH",
            "games": ("Catch", "MirroredCatch"),
            "num_envs": 4,
            "num_eval_envs": 2,
            "max_episode_steps": 8,
        },
        "policy": {
            "epochs": 2,
            "minibatches": 4,
            "gradient_conflict_interval": 32,
            "probe_observations": 8,
        },
        "train": {
            "max_env_steps": 320,
            "collect_steps": 10,
            "eval_interval": 160,
            "eval_at_start": True,
            "eval_episodes": 3,
            "checkpoint_interval": 80,
            "log_interval": 8,
            "moe_log_interval": 64,
            "video": False,
        }
        | train,
        "device": "cpu",
    } | SETTINGS[name]


def ended(directory: Path) -> dict:
    """Everything of the last checkpoint but times and places."""
    newest = list_checkpoints(directory / "tiny" / "checkpoints")[-1]
    found = {group: load_tensors(newest, group) for group in PPOPolicy.state_groups}
    state = load_state(newest)
    del state["config"]
    found["state"], found["rank"] = state, load_state(newest, 0)
    found["playing"] = load_tensors(newest, "rank_0/playing")
    return found


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for group, values in one.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other[group][name]), f"{group} {name}"
            else:
                assert value == other[group][name], f"{group} {name}"


def test_it_learns_catch_and_its_mirror_image(tmp_path):
    _, preset = ppo_presets()["both"]
    data = preset.model_dump() | {"output_dir": str(tmp_path), "device": "cpu"}
    data["train"]["video"] = False
    result = train_ppo_moe(data, seed=1)
    # the optimum is 1, random play has -0.6
    assert min(result.scores.values()) > 0.7
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    logged = {tag for row in rows for tag in (*row["metrics"], *row.get("arrays", {}))}
    assert {
        *("learn/kl", "learn_value/Catch", "collect_return/MirroredCatch"),
        *("plasticity/dormant_ratio/all", "plasticity/effective_rank/actor"),
        *("plasticity/ntk_effective_rank/critic", "plasticity/sequential_gradient_similarity"),
        *("gradient_conflict/max_actor", "gradient_conflict_matrix/critic"),
    } <= logged


@pytest.mark.parametrize("name", ["together", "in turn, middle topk"])
def test_a_run_that_died_goes_on_bit_for_bit(tmp_path, name, monkeypatch):
    train_ppo_moe(tiny(tmp_path / "undisturbed", name), seed=3)
    learn = PPOPolicy.learn
    for end in (24, 40):

        def dying(policy, rollout, rows, end=end):
            if policy.train_iter == end:
                raise KeyboardInterrupt
            return learn(policy, rollout, rows)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(PPOPolicy, "learn", dying)
            train_ppo_moe(tiny(tmp_path / "disturbed", name), seed=3)
        torch.manual_seed(end)  # what the process drew before does not matter
    train_ppo_moe(tiny(tmp_path / "disturbed", name), seed=3)
    assert_same(ended(tmp_path / "disturbed"), ended(tmp_path / "undisturbed"))
    assert curves(tmp_path / "disturbed/tiny") == curves(tmp_path / "undisturbed/tiny")


@pytest.mark.parametrize("where", ["in the first evaluation", "right after it"])
def test_what_is_scored_before_training_is_scored_once(tmp_path, where, monkeypatch):
    """As in a run that nobody has stopped."""
    train_ppo_moe(tiny(tmp_path / "undisturbed"), seed=3, max_env_step=40)
    place = {
        "in the first evaluation": (PolicyPlayer, "act"),
        "right after it": (PPORun, "collect"),
    }[where]

    def stopping(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AskedToStopError

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(*place, stopping)
        train_ppo_moe(tiny(tmp_path / "disturbed"), seed=3)
    train_ppo_moe(tiny(tmp_path / "disturbed"), seed=3, max_env_step=40)
    scored = []
    for name in ("undisturbed", "disturbed"):
        rows = read_metrics(tmp_path / name / "tiny" / "metrics.jsonl")
        scored.append(
            [
                (row["env_step"], row["metrics"][EVALUATED])
                for row in rows
                if EVALUATED in row["metrics"]
            ]
        )
    assert scored[0] == scored[1]
    assert [env_step for env_step, _ in scored[0]] == [0, 40]


def test_a_signal_is_obeyed_between_rounds(tmp_path, monkeypatch):
    train_ppo_moe(tiny(tmp_path / "undisturbed"), seed=3)
    learn = PPOPolicy.learn

    def asked(policy, rollout, rows):
        if policy.train_iter == 24:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(policy, rollout, rows)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(PPOPolicy, "learn", asked)
        train_ppo_moe(tiny(tmp_path / "disturbed"), seed=3)
    assert (
        load_state(list_checkpoints(tmp_path / "disturbed/tiny/checkpoints")[-1])["train_iter"]
        == 32
    )
    train_ppo_moe(tiny(tmp_path / "disturbed"), seed=3)
    assert_same(ended(tmp_path / "disturbed"), ended(tmp_path / "undisturbed"))


def test_games_are_played_in_turn_and_all_of_them_evaluated(tmp_path, monkeypatch):
    collect, played = PPORun.collect, []

    def watched(run):
        rollout, sums = collect(run)
        played.append(sorted(set(rollout.task_id.tolist())))
        assert sums[1][run.task] > 0 and sums[1].sum() == sums[1][run.task]
        return rollout, sums

    monkeypatch.setattr(PPORun, "collect", watched)
    result = train_ppo_moe(tiny(tmp_path, "in turn, middle topk"), seed=0)
    assert played == [[0]] * 4 + [[1]] * 4 + [[0]] * 4 + [[1]] * 4
    assert result.env_steps == 640
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    evaluated = [row["env_step"] for row in rows if "eval_return/MirroredCatch" in row["metrics"]]
    assert evaluated == [0, 160, 320, 480, 640]
    for row in rows:
        for tag, value in row["metrics"].items():  # experts of a game without its turn have none
            assert value is not None or tag.startswith("moe_"), tag


def finishing(directory: Path) -> float:
    return train_ppo_moe(tiny(directory, "big softmoe"), seed=0).scores["Catch"]


def test_on_two_ranks_and_then_on_one(tmp_path, caplog):
    scores = run_ranks(partial(finishing, tmp_path), 2, tmp_path)
    assert scores[0] == scores[1]
    train_ppo_moe(tiny(tmp_path, "big softmoe"), seed=0)  # nothing is left
    assert not (tmp_path / "tiny" / "config_until_env_step_320.json").exists()


def stopping_halfway(directory: Path) -> None:
    train_ppo_moe(tiny(directory), seed=0, max_env_step=160)


def finishing_together(directory: Path) -> None:
    train_ppo_moe(tiny(directory), seed=0)


def test_ranks_shuffle_alike_also_after_another_number_of_them(tmp_path):
    stopping_halfway(tmp_path)
    run_ranks(partial(finishing_together, tmp_path), 2, tmp_path)
    newest = list_checkpoints(tmp_path / "tiny" / "checkpoints")[-1]
    ours, theirs = (load_state(newest, rank)["rng"]["numpy"] for rank in (0, 1))
    assert ours["shuffle"] == theirs["shuffle"] and ours["act"] != theirs["act"]


def test_another_length_is_another_experiment(tmp_path):
    train_ppo_moe(tiny(tmp_path), seed=0, max_env_step=160)
    with pytest.raises(RunError, match=r"another train.max_env_steps.* was 320, is 640"):
        train_ppo_moe(tiny(tmp_path, max_env_steps=640), seed=0)
    result = train_ppo_moe(tiny(tmp_path), seed=0)
    assert result.env_steps == 320


def test_a_limit_behind_the_schedules_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_env_step=321"):
        train_ppo_moe(tiny(tmp_path), max_env_step=321)


def test_its_checkpoints_are_evaluated(tmp_path):
    train_ppo_moe(tiny(tmp_path, "in turn, middle topk", max_env_steps=80), seed=0)
    first = eval_unizero_multitask(tmp_path / "tiny", episodes=4, seed=1, video=False)
    again = eval_unizero_multitask(tmp_path / "tiny", episodes=4, seed=1, video=False)
    assert first.scores.keys() == {"Catch", "MirroredCatch"}
    for game, scores in first.scores.items():
        assert (scores == again.scores[game]).all() and len(scores) == 4
    with pytest.raises(ValueError, match="PPO, which does not search"):
        eval_unizero_multitask(tmp_path / "tiny", simulations=3)


def test_the_experiment_is_kept_as_it_is(tmp_path):
    train_ppo_moe(tiny(tmp_path, max_env_steps=40), seed=0)
    written = (tmp_path / "tiny" / "config.json").read_text()
    assert PPOExperiment.model_validate_json(written).algorithm == "ppo"
