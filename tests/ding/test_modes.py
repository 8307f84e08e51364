"""The policy's three modes are ours: updates bit for bit, actions, state; what is registered builds by name."""

import numpy as np
import pytest
import torch
from ding.model import create_model
from ding.policy import create_policy
from ding.torch_utils.checkpoint_helper import CheckpointHelper, CountVar
from ding.utils import ENV_REGISTRY, MODEL_REGISTRY, POLICY_REGISTRY
from ding.worker import BaseLearner

import lzero.ding as plugin
from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.worker.actor import Actor
from tests.ding import cases

TASK_ID = np.repeat([0, 1], cases.ENVS)
LEGAL = np.ones((len(TASK_ID), 3), bool)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def observations(number: int, rows: int = len(TASK_ID)) -> np.ndarray:
    """Random pictures ``(rows, 2, 8, 5)`` of zeros and 255."""
    bits = np.random.default_rng(number).integers(0, 2, (rows, 2, 8, 5))
    return (255 * bits).astype(np.uint8)


def learner(policy, **hook) -> BaseLearner:
    cfg = BaseLearner.default_config()
    cfg.hook.update(hook)
    return BaseLearner(cfg, policy.learn_mode, exp_name="run")


def test_what_is_registered_builds_by_name():
    cfg = cases.compiled(cases.experiment())
    assert POLICY_REGISTRY.get("unizero_multitask") is plugin.UniZeroMultitaskPolicy
    model = MODEL_REGISTRY.build("unizero_multitask", lzero=cfg.policy.lzero)
    assert isinstance(model, UniZeroMTModel)
    name, import_names = plugin.UniZeroMultitaskPolicy.default_model(None)
    made = create_model(type(cfg)(type=name, import_names=import_names, lzero=cfg.policy.lzero))
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in model.parameters())
    [one, *_] = plugin.env_cfgs(cfg.env.lzero, training=True)
    for registered in ("lzero", "lzero_catch"):
        env = ENV_REGISTRY.build(registered, cfg=one)
        assert env.reset().shape == env.observation_space.shape == (2, 8, 5)
        env.close()

    given = create_policy(cfg.policy, model=model)
    assert given.core.model is model and given.learn_mode.get_attribute("model") is model


def test_compiling_keeps_our_fields_and_adds_those_of_di_engine():
    config = cases.experiment(eval_episodes=5)
    cfg = cases.compiled(config, "subprocess")
    assert plugin.experiment_of(cfg.policy, cfg.env) == config
    assert cfg.env.manager.type == "subprocess" and "hook" in cfg.policy.learn.learner
    assert cfg.env.n_evaluator_episode == 5
    assert plugin.UniZeroMultitaskPolicy.default_config().lzero.policy.unroll_steps == 10


def test_learning_through_the_learner_is_our_update_bit_for_bit():
    """Three updates, of which the first and the last measure conflict."""
    config = cases.experiment()
    ours, parts = cases.made(config), cases.made(config)
    policy = create_policy(cases.compiled(config).policy, parts=parts)
    through = learner(policy)
    windows = cases.collected_windows(ours, 3)
    for one in windows:
        result = ours.policy.learn(one)
        [numbers] = through.train(one, envstep=0)
        seen = policy.learn_mode.get_attribute("learn_result")
        assert numbers["total_loss"] == pytest.approx(result.task_losses.mean().item())
        assert seen.conflicts().keys() == result.conflicts().keys()
    assert through.train_iter == policy.core.train_iter == 3
    assert len(result.conflicts()) > 0
    cases.assert_same_state(policy.core, ours.policy)


def test_collecting_is_our_actor():
    """All environments are ready; two episodes end after the second step."""
    config = cases.experiment()
    ours, parts = cases.made(config), cases.made(config)
    policy = create_policy(cases.compiled(config).policy, parts=parts)
    actor = Actor(ours.policy, TASK_ID, LEGAL, ours.rngs["act"])
    for step in range(4):
        seen = observations(step)
        decision = actor.act(seen)
        output = policy.collect_mode.forward(dict(enumerate(seen)))
        assert [int(one["action"]) for one in output.values()] == decision.action.tolist()
        values = [one["value"] for one in output.values()]
        assert np.ptp(values) > 1e-3, "values tell environments apart"
        np.testing.assert_allclose(values, decision.value, rtol=0, atol=1e-5)
        policies = np.stack([one["policy"] for one in output.values()])
        np.testing.assert_allclose(policies, decision.policy, rtol=0, atol=1e-6)
        if step == 1:
            ended = np.isin(np.arange(len(TASK_ID)), [1, 4])
            actor.forget(ended)
            policy.collect_mode.reset([1, 4])


def test_ready_ones_act_as_if_all_did_and_the_others_stay_where_they_are():
    config = cases.experiment()
    ours, parts = cases.made(config), cases.made(config)
    policy = create_policy(cases.compiled(config).policy, parts=parts)
    rows = np.repeat([0, 1], config.env.num_eval_envs)
    actor = Actor(ours.policy, rows, LEGAL[: len(rows)], None)
    for step, ready in enumerate([[0, 1, 2, 3], [1, 2], [2], [0, 1, 2, 3]]):
        before = {name: held.copy() for name, held in actor.context.state().items()}
        seen = observations(step, len(rows))
        decision = actor.act(seen)
        merged = actor.context.state()
        others = np.setdiff1d(np.arange(len(rows)), ready)
        for name, held in merged.items():
            merged[name] = held.copy()
            merged[name][others] = before[name][others]
        actor.context.load(merged)
        # as DI-engine's evaluator hands pictures over
        given = {row: torch.tensor(seen[row], dtype=torch.float32) for row in reversed(ready)}
        output = policy.eval_mode.forward(given)
        assert list(output) == ready
        assert [int(one["action"]) for one in output.values()] == decision.action[ready].tolist()
        values = [one["value"] for one in output.values()]
        np.testing.assert_allclose(values, decision.value[ready], rtol=0, atol=1e-5)
    assert np.ptp(decision.value) > 1e-3, "values tell environments apart"


def test_one_games_evaluator_plays_that_game():
    config = cases.experiment()
    policy = create_policy(cases.compiled(config).policy, parts=cases.made(config))
    seen = observations(0, 4)
    both = policy.eval_mode.forward(dict(enumerate(seen)))
    mirrored = policy.eval_mode_of(1).forward({0: seen[2], 1: seen[3]})
    for here, there in ((0, 2), (1, 3)):
        assert mirrored[here]["value"] == pytest.approx(both[there]["value"], abs=1e-5)


def test_a_checkpoint_of_the_learner_brings_everything_back():
    config = cases.experiment()
    parts, fresh = cases.made(config), cases.made(config)
    windows = cases.collected_windows(parts, 2)
    cfg = cases.compiled(config).policy
    policy = create_policy(cfg, parts=parts)
    through = learner(policy)
    for one in windows:
        through.train(one, envstep=40)
    through.save_checkpoint("here.pth.tar")
    again = create_policy(cfg, parts=fresh)
    with pytest.raises(AssertionError):
        cases.assert_same_state(policy.core, again.core)
    loading = learner(again, load_ckpt_before_run="run/ckpt/here.pth.tar")
    loading.call_hook("before_run")
    assert loading.train_iter == 2 and loading.collector_envstep == 40
    cases.assert_same_state(policy.core, again.core)

    helper, count = CheckpointHelper(), CountVar(0)
    helper.save("model.pth.tar", policy.core.model, policy.core.optimizer, CountVar(2))
    empty = create_policy(cfg)
    helper.load("model.pth.tar", empty.core.model, empty.core.optimizer, last_iter=count)
    assert count.val == 2
    for one, other in zip(
        policy.core.model.parameters(), empty.core.model.parameters(), strict=True
    ):
        assert torch.equal(one, other)
