"""Rounds of steps: what was seen, done and earned belongs together, also where episodes begin."""

import numpy as np
import torch

from lzero.config_ppo import PPOExperiment
from lzero.envs.domain import load_domain, read_experiment
from lzero.logging import PhaseTimer
from lzero.policy.ppo_moe import PPOPolicy
from lzero.worker.rollouts import PolicyPlayer, RolloutCollector, random_observations

GAMES = ("Catch", "MirroredCatch")
STEPS = 40


def make_env(config: PPOExperiment, limit: int = 5):
    env = load_domain(config.env.domain).make(
        config.env, GAMES, (0, 1), (3, 3), env_offsets=(0, 0), training=True, num_threads=1
    )
    env.limit_episodes({0: limit, 1: limit})
    return env


def setting() -> tuple[PPOExperiment, PPOPolicy]:
    config = read_experiment(
        PPOExperiment,
        {
            "env": {"domain": "zoo.catch.domain:CATCH", "games": GAMES, "num_envs": 3},
            "policy": {"minibatches": 6},  # divides 3 x 20 steps
            "device": "cpu",
        },
    )
    torch.manual_seed(0)
    env = make_env(config)
    legal = np.zeros((2, env.num_actions), bool)
    legal[env.task_id] = env.legal_actions
    return config, PPOPolicy(config, env.observation_shape, legal)


def test_a_round_is_what_the_environments_answer_to_its_actions():
    config, policy = setting()
    collector = RolloutCollector(make_env(config), policy, np.random.default_rng(0), PhaseTimer())
    collector.begin(3)
    rollout, collected = collector.collect(STEPS)
    env = make_env(config)
    observation, scores = env.reset(3).observation, []
    score = np.zeros(6)
    for t in range(STEPS):
        np.testing.assert_array_equal(rollout.observation[t], observation)
        step = env.step(rollout.action[t].numpy())
        np.testing.assert_array_equal(rollout.reward[t], step.reward)
        np.testing.assert_array_equal(rollout.terminated[t], step.terminated)
        np.testing.assert_array_equal(rollout.truncated[t], step.truncated)
        np.testing.assert_array_equal(rollout.acted[t], ~step.reset)
        score += step.raw_reward
        scores += score[step.episode_over].tolist()
        score[step.episode_over] = 0
        observation = step.observation
    assert rollout.truncated.any() and not rollout.acted.all()
    np.testing.assert_array_equal(collector.observation, observation)
    assert [one for ended in collected.episodes for one in ended.score] == scores
    assert collected.steps.sum() == rollout.acted.sum()
    # the values and probabilities of one forward over all of it
    with torch.no_grad():
        task_id = rollout.task_id.repeat(STEPS)
        logits, value, _ = policy.model(rollout.observation.flatten(0, 1), task_id)
        log_probs = logits.log_softmax(dim=-1).gather(1, rollout.action.flatten()[:, None])
        last = policy.model(torch.from_numpy(observation), rollout.task_id)[1]
    torch.testing.assert_close(rollout.value[:-1].flatten(), value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rollout.value[-1], last, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rollout.log_prob.flatten(), log_probs[:, 0], atol=1e-5, rtol=1e-5)


def test_players_draw_only_where_they_are_given_something_to_draw_with():
    config, policy = setting()
    observation = random_observations(make_env(config), 3, 0)
    np.testing.assert_array_equal(observation, random_observations(make_env(config), 3, 0))
    task_id = np.array([0, 0, 0, 1, 1, 1])
    greedy = PolicyPlayer(policy, task_id, None)
    assert (greedy.act(observation).action == greedy.act(observation).action).all()
    drawing = PolicyPlayer(policy, task_id, np.random.default_rng(0))
    drawn = np.stack([drawing.act(observation).action for _ in range(50)])
    assert (np.ptp(drawn, axis=0) > 0).all()
