"""Collecting: the replay holds the environments' own stream, every environment its own past."""

import copy
from collections.abc import Sequence

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from lzero.config import ExperimentConfig
from lzero.envs import EnvStep, MultiTaskVectorEnv, TaskEnv
from lzero.logging import PhaseTimer
from lzero.policy import UniZeroMTPolicy
from lzero.replay.buffer import ReplayBuffer
from lzero.worker.actor import Actor, Decision
from lzero.worker.collector import Collector, Episodes

CONTEXT, WINDOW = 3, 8
CONFIG = ExperimentConfig.model_validate(
    {
        "env": {
            "domain": "zoo.classic_control.domain:CLASSIC_CONTROL",
            "games": ("CartPole-v1", "Acrobot-v1"),
        },
        "model": {
            "embed_dim": 32,
            "num_heads": 4,
            "num_layers": 1,
            "context_steps": CONTEXT,
            "support_bins": 21,
            "support_limit": 5.0,
            "encoder": {"kind": "mlp", "hidden": (24,)},
            "moe": {"num_experts": 4},
        },
        "policy": {
            "unroll_steps": 4,
            "td_steps": 3,
            "replay": {"capacity": 1000},
            "search": {"num_simulations": 4, "num_eval_simulations": 6},
        },
        "device": "cpu",
        "precision": "fp32",
    }
)


class LivesVectorEnv(VectorEnv):
    """n games that observe (game, episode, time), lose a life at time 3, die or are cut at their
    own length.
    """

    def __init__(self, lengths: Sequence[int], cut_from: int = 10) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs, self.lengths, self.cut_from = len(lengths), np.array(lengths), cut_from
        self.single_observation_space = Box(-np.inf, np.inf, (3,), np.float32)
        self.single_action_space = Discrete(3)
        self.episode, self.time = np.zeros((2, self.num_envs), int)

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        self.time[:] = 0
        return self._answer()

    def step(self, actions):
        ended = self.time >= self.lengths
        self.episode += ended
        self.time = np.where(ended, 0, self.time + 1)
        reward = np.where(ended, 0.0, 2.5 * (actions - 0.5))
        over = self.time >= self.lengths
        is_cut = self.lengths >= self.cut_from
        observation, info = self._answer()
        return observation, reward, over & ~is_cut, over & is_cut, info

    def _answer(self):
        observation = np.stack([np.arange(self.num_envs), self.episode, self.time], axis=1).astype(
            np.float32
        )
        return observation, {"lives": 3 - (self.time >= 3)}


def make_env() -> MultiTaskVectorEnv:
    """CartPole with two actions and short episodes; games with lives, clipped rewards and three
    actions.
    """
    poles = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=7)] * 2
    cartpole = SyncVectorEnv(poles, autoreset_mode=AutoresetMode.NEXT_STEP)
    return MultiTaskVectorEnv(
        [
            TaskEnv(cartpole, 0, "cartpole", "vector"),
            TaskEnv(
                LivesVectorEnv([2, 5, 12]),
                1,
                "lives",
                "vector",
                clip_reward=True,
                end_on_life_loss=True,
            ),
        ]
    )


def make_policy(env: MultiTaskVectorEnv) -> UniZeroMTPolicy:
    """A policy with opinions: its heads are not zero."""
    torch.manual_seed(0)
    policy = UniZeroMTPolicy(CONFIG, env.observation_shape, env.legal_actions[[0, -1]])
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


class Recorded:
    """A collector beside which every answer of the environments and every decision of the actor is
    written down.
    """

    def __init__(self, ring_length: int = 200, seed: int = 5, **actor_options) -> None:
        self.env, self.timer = make_env(), PhaseTimer()
        self.policy = make_policy(self.env)
        self.actor: Actor = Actor(
            self.policy, self.env.task_id, self.env.legal_actions, np.random.default_rng(seed)
        )
        self.replay = ReplayBuffer(
            self.env.task_id, ring_length, self.env.observation_shape, np.float32, 3, WINDOW
        )
        self.answers: list[EnvStep] = []
        self.actions: list[np.ndarray] = []
        self.decisions: list[Decision] = []
        self._spy(self.env, "reset", self.answers.append)
        self._spy(self.env, "step", self.answers.append, self.actions.append)
        self._spy(self.actor, "act", self.decisions.append)
        self._spy(self.actor, "act_randomly", self.decisions.append)
        self.collector = Collector(self.env, self.actor, self.replay, self.timer)
        self.collector.begin(seed)

    @staticmethod
    def _spy(target: object, name: str, note_answer, note_argument=None) -> None:
        method = getattr(target, name)

        def spying(*arguments):
            answer = method(*arguments)
            note_answer(copy.deepcopy(answer))
            if note_argument is not None:
                note_argument(arguments[0].copy())
            return answer

        setattr(target, name, spying)

    def own_steps(self, ring: int) -> int:
        """Steps of the episode or life that environment ``ring`` is in, walked through the
        recording.
        """
        steps = 0
        for answer in self.answers[1:]:
            over = answer.terminated[ring] or answer.episode_over[ring] or answer.reset[ring]
            steps = 0 if over else steps + 1
        return steps


@pytest.mark.parametrize("random_first", [0, 9])
def test_replay_rows_are_the_recorded_stream_across_collect_calls(random_first):
    """Also where a window spans two calls, a change from random play to search, and the ring's end."""
    run = Recorded(ring_length=60)
    run.collector.collect(random_first, random=True)
    for steps in (13, 1, 20, 6, 40):
        run.collector.collect(steps)
    total = random_first + 80
    assert run.replay.head == total == len(run.actions) == len(run.decisions)
    windows = run.replay.sample({0: 80, 1: 120}, np.random.default_rng(0))
    seams = random_first + np.cumsum([0, 13, 1, 20, 6])
    spanning = 0
    for i, (ring, start) in enumerate(windows.index.tolist()):
        assert windows.task_id[i] == run.env.task_id[ring]
        spanning += ((start < seams) & (seams < start + WINDOW)).any()
        for k in range(WINDOW):
            before, after = run.answers[start + k], run.answers[start + k + 1]
            decision = run.decisions[start + k]
            np.testing.assert_array_equal(windows.observation[i, k], before.observation[ring])
            assert windows.action[i, k] == run.actions[start + k][ring] == decision.action[ring]
            assert windows.reward[i, k] == after.reward[ring]
            assert windows.terminated[i, k] == after.terminated[ring]
            assert windows.truncated[i, k] == after.truncated[ring]
            assert windows.reset[i, k] == after.reset[ring]
            np.testing.assert_allclose(windows.visits[i, k], decision.policy[ring])
            assert windows.root_value[i, k] == pytest.approx(decision.value[ring])
    assert spanning > 40
    assert windows.terminated.any() and windows.truncated.any() and windows.reset.any()
    run.env.close()


def test_an_environment_forgets_at_its_own_ends_and_no_others():
    """Length and content of every context, after every step, against the recording."""
    run = Recorded()
    lengths = set()
    for _ in range(40):
        run.collector.collect(1)
        context, task = run.actor.context, torch.from_numpy(run.env.task_id)
        for ring in range(run.env.num_envs):
            valid = min(run.own_steps(ring), CONFIG.history_steps - 1)
            assert context.num_valid[ring] == valid
            lengths.add((ring, valid))
            for back in range(1, valid + 1):
                seen = torch.from_numpy(run.answers[-1 - back].observation[ring : ring + 1])
                with torch.no_grad():
                    latent = run.policy.model.encoder(seen, task[ring : ring + 1])[0]
                torch.testing.assert_close(
                    context.latent[ring, -back], latent, atol=1e-5, rtol=1e-5
                )
                assert context.action[ring, -back] == run.actions[-back][ring]
    assert {(4, valid) for valid in range(CONFIG.history_steps)} <= lengths
    assert len({tuple(answer.episode_over) for answer in run.answers}) > 3, (
        "episodes end at different times"
    )
    run.env.close()


def test_the_past_changes_decisions():
    """Else the test above would guard nothing."""
    run = Recorded()
    run.collector.collect(6)
    actor = Actor(run.policy, run.env.task_id, run.env.legal_actions, None)
    observation = run.collector.observation
    alone = actor.act(observation)
    remembering = actor.act(observation)
    assert (np.abs(alone.value - remembering.value) > 1e-4).all()
    actor.forget(np.array([True, False, True, False, False]))
    partly = actor.act(observation)
    np.testing.assert_allclose(partly.value[[0, 2]], alone.value[[0, 2]], atol=1e-5)
    assert (np.abs(partly.value - alone.value)[[1, 3, 4]] > 1e-4).all()
    run.env.close()


def test_an_actor_that_does_not_explore_cannot_act_at_random():
    run = Recorded()
    actor = Actor(run.policy, run.env.task_id, run.env.legal_actions, None)
    with pytest.raises(RuntimeError, match="make it with rng"):
        actor.act_randomly()
    run.env.close()


def test_decisions_of_many_environments_equal_those_of_each_alone():
    """One batch over the environments of two tasks against five actors with one environment each."""
    run = Recorded()
    run.collector.collect(4)
    task_id, legal = run.env.task_id, run.env.legal_actions
    together = Actor(run.policy, task_id, legal, None)
    alone = [
        Actor(run.policy, task_id[i : i + 1], legal[i : i + 1], None) for i in range(len(task_id))
    ]
    for step in range(8):
        run.collector.collect(1)
        observation, ended = run.collector.observation, run.answers[-1].episode_over
        decision = together.act(observation)
        together.forget(ended)
        assert legal[np.arange(len(task_id)), decision.action].all()
        for i, actor in enumerate(alone):
            single = actor.act(observation[i : i + 1])
            actor.forget(ended[i : i + 1])
            assert single.action[0] == decision.action[i], step
            np.testing.assert_allclose(single.policy[0], decision.policy[i], atol=1e-6)
            np.testing.assert_allclose(single.value[0], decision.value[i], atol=1e-5)
    run.env.close()


def test_visits_are_distributions_over_legal_actions():
    run = Recorded()
    run.collector.collect(5, random=True)
    run.collector.collect(20)
    for number, decision in enumerate(run.decisions):
        np.testing.assert_allclose(decision.policy.sum(axis=1), 1.0, rtol=1e-5)
        assert not decision.policy[~run.env.legal_actions].any()
        if number < 5:
            legal = run.env.legal_actions
            np.testing.assert_allclose(
                decision.policy, legal / legal.sum(axis=1, keepdims=True), rtol=1e-6
            )
            assert not decision.value.any()
    run.env.close()


def test_random_play_uses_all_legal_actions_and_leaves_no_past():
    run = Recorded()
    run.collector.collect(60, random=True)
    actions = np.stack(run.actions)
    for ring in range(run.env.num_envs):
        counts = np.bincount(actions[:, ring], minlength=3)
        expected = 60 / run.env.legal_actions[ring].sum()
        assert (counts[run.env.legal_actions[ring]] > expected / 2).all()
        assert not counts[~run.env.legal_actions[ring]].any()
    assert not run.actor.context.num_valid.any()
    run.env.close()


def test_exploration_follows_its_generator():
    """The same generator gives the same play; another one does not; evaluating draws nothing."""
    runs = [Recorded(seed=seed) for seed in (5, 5, 6)]
    for run in runs:
        run.collector.collect(12)
    first, same, other = (np.stack(run.actions) for run in runs)
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    for run in runs:
        run.env.close()


def naive_episodes(run: Recorded) -> list[tuple[int, int, float, int]]:
    """(environment, task, true score, env steps) of every whole episode; a lost life is no end."""
    found = []
    score, length = [0.0] * run.env.num_envs, [0] * run.env.num_envs
    for answer in run.answers[1:]:
        for ring in range(run.env.num_envs):
            if answer.reset[ring]:
                continue
            score[ring] += answer.raw_reward[ring].item()
            length[ring] += 1
            if answer.episode_over[ring]:
                found.append((ring, int(run.env.task_id[ring]), score[ring], length[ring]))
                score[ring], length[ring] = 0.0, 0
    return found


def test_episodes_are_counted_with_true_rewards_over_lives_and_calls():
    run = Recorded()
    rounds: list[Episodes] = [
        *run.collector.collect(11, random=True).episodes,
        *run.collector.collect(30).episodes,
    ]
    assert len(rounds) == 41
    counted = [
        (int(env), int(task), float(score), int(length))
        for ended in rounds
        for env, task, score, length in zip(
            ended.env, ended.task_id, ended.score, ended.length, strict=True
        )
    ]
    expected = naive_episodes(run)
    assert counted == [pytest.approx(episode) for episode in expected]
    lengths = {ring: {length for r, _, _, length in expected if r == ring} for ring in (2, 3, 4)}
    assert lengths == {2: {2}, 3: {5}, 4: {12}}
    run.env.close()


def test_a_rounds_sums_are_those_of_its_steps():
    run = Recorded()
    collected = run.collector.collect(41)
    sums = collected.sums(run.env.task_id, 4)
    expected = np.zeros((5, 4))
    for answer in run.answers[1:]:
        for env, task in enumerate(run.env.task_id):
            expected[0, task] += answer.raw_reward[env]
            expected[1, task] += not answer.reset[env]
    for _, task, score, length in naive_episodes(run):
        expected[2:, task] += score, length, 1
    np.testing.assert_allclose(sums, expected)
    assert (sums[1, np.unique(run.env.task_id)] > 0).all() and sums[0].any() and sums[4].any()
    run.env.close()


def test_phases_are_timed():
    run = Recorded()
    run.collector.collect(3)
    times = run.timer.pop()
    assert set(times) == {"time/search", "time/env"} and min(times.values()) > 0
    run.env.close()
