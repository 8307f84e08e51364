"""Targets against a brute-force computation per episode, on random streams through the replay ring."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from lzero.policy.targets import value_targets
from lzero.replay.buffer import ReplayBuffer
from lzero.replay.windows import ReplayWindows

H, TD, DISCOUNT = 4, 3, 0.9
K = H + TD + 1


def value_of(frame_id: np.ndarray | torch.Tensor) -> np.ndarray:
    """V of an observation: a fixed random function of its id."""
    return np.sin(np.asarray(frame_id, np.float64) * 12.9898) * 5


@dataclass
class Episode:
    """What a learner may know of one life: observations s_0 … s_n, or s_0 … s_{n−1} if it ended by death."""

    frames: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def value_target(self, t: int) -> float:
        m = min(TD, len(self.rewards) - t)
        target = sum(DISCOUNT**k * self.rewards[t + k] for k in range(m))
        if t + m < len(self.frames):
            target += DISCOUNT**m * float(value_of(self.frames[t + m]))
        return target


class Game:
    """An environment under NEXT_STEP autoreset that remembers to which episode and step each row belongs."""

    def __init__(self, ring: int) -> None:
        self.rng = np.random.default_rng(ring)
        self.ring, self.episode, self.over = ring, Episode(), False
        self.at_row: dict[int, tuple[Episode, int]] = {}

    def row(self, step: int) -> dict[str, object]:
        frame_id = step * 10 + self.ring
        reward = float(np.float32(self.rng.normal()))
        row = dict.fromkeys(("terminated", "truncated", "reset"), False)
        row |= {"observation": [frame_id], "reward": reward}
        if (
            self.over
        ):  # the final observation of an episode that ended one row ago, or one more reset row
            if self.episode.rewards:
                self.episode.frames.append(frame_id)
            self.episode = Episode()
            self.over = self.rng.random() < 0.2
            return row | {"reset": True}
        self.at_row[step] = (self.episode, len(self.episode.rewards))
        self.episode.frames.append(frame_id)
        self.episode.rewards.append(reward)
        ending = self.rng.random()
        if ending < 0.08:  # death: a final observation follows, but the return must not reach it
            self.episode, self.over = Episode(), True
            return row | {"terminated": True, "truncated": ending < 0.02}
        if ending < 0.16:  # a lost life: the game goes on
            self.episode = Episode()
            return row | {"terminated": True}
        if ending < 0.24:
            self.over = True
            return row | {"truncated": True}
        return row

    def restart(self, last: int) -> None:
        """Start a new game behind row ``last``. An action there is given up unless it killed."""
        if last in self.at_row and self.at_row[last][0] is self.episode:
            self.episode.rewards.pop()
            del self.at_row[last]
        self.episode, self.over = Episode(), False


def play(buffer: ReplayBuffer, games: list[Game], steps: int) -> None:
    rings = len(games)
    for step in range(buffer.head, buffer.head + steps):
        rows = [game.row(step) for game in games]
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        columns["observation"] = columns["observation"].astype(np.int64)
        zeros = np.zeros(rings, int)
        buffer.append(action=zeros, visits=np.ones((rings, 2)) / 2, root_value=zeros, **columns)


def make_buffer(num_rings: int) -> ReplayBuffer:
    return ReplayBuffer(np.zeros(num_rings, int), 37, (1,), np.int64, 2, K)


def targets_of(windows: ReplayWindows) -> torch.Tensor:
    values = torch.from_numpy(value_of(windows.observation[..., 0]))
    return value_targets(
        windows.reward,
        ~windows.reset,
        windows.episode,
        values,
        discount=DISCOUNT,
        td_steps=TD,
        num_steps=H + 1,
    )


def test_targets_equal_brute_force_over_episodes():
    """Of every acting row of a window, whichever of its episodes the row is of."""
    games = [Game(ring) for ring in range(5)]
    buffer = make_buffer(5)
    rng, checked, ends, later = np.random.default_rng(0), 0, 0, 0
    for steps in (20, 9, 50, 113, 40):  # the ring of 37 rows wraps several times
        play(buffer, games, steps)
        windows = buffer.sample({0: 150}, rng)
        target = targets_of(windows)
        for i, (ring, start) in enumerate(windows.index.tolist()):
            at_row = games[ring].at_row
            for t in range(H + 1):
                assert windows.reset[i, t] == (start + t not in at_row)
                if start + t not in at_row:
                    continue
                episode, index = at_row[start + t]
                assert target[i, t].item() == pytest.approx(episode.value_target(index), abs=1e-5)
                assert windows.observation[i, t, 0] == episode.frames[index]
                has_next = index + 1 < len(episode.frames)
                assert (windows.episode[i, t] == windows.episode[i, t + 1]) == has_next
                if has_next:
                    assert windows.observation[i, t + 1, 0] == episode.frames[index + 1]
                checked += 1
                ends += len(episode.rewards) - index < TD
                later += windows.episode[i, t].item() > 0
    assert checked > 2500 and ends > 1000 and later > 500


def test_first_steps_of_an_episode_are_learned_from_as_often_as_others():
    games = [Game(ring) for ring in range(20)]
    buffer = make_buffer(20)
    play(buffer, games, 37)
    seen = np.zeros((20, 37))
    windows = buffer.sample({0: 40_000}, np.random.default_rng(0))
    for (ring, start), reset in zip(windows.index.tolist(), windows.reset, strict=True):
        seen[ring, start : start + H + 1] += ~reset[: H + 1].numpy()
    by_index: list[list[float]] = [[] for _ in range(H + 1)]
    for ring, game in enumerate(games):
        for step, (_, index) in game.at_row.items():
            # rows that every place of a window may show
            if H <= step <= buffer.head - K and index <= H:
                by_index[index].append(seen[ring, step])
    means = np.array([np.mean(counts) for counts in by_index])
    assert means.min() > 0.95 * means.max()


def test_a_cut_bootstraps_like_a_truncation():
    """Before the seam of a restart, returns bootstrap at the last frame; nothing of the new games shows."""
    games = [Game(ring) for ring in range(12)]
    buffer = make_buffer(12)
    play(buffer, games, 45)
    buffer.cut()
    for game in games:
        game.restart(last=44)
    play(buffer, games, 12)
    windows = buffer.sample({0: 600}, np.random.default_rng(1))
    target = targets_of(windows)
    near_seam = 0
    for i, (ring, start) in enumerate(windows.index.tolist()):
        if start not in games[ring].at_row:  # a final observation
            continue
        episode, first = games[ring].at_row[start]
        assert target[i, 0].item() == pytest.approx(episode.value_target(first), abs=1e-5)
        near_seam += 44 - TD <= start <= 44
    assert near_seam > 30


def test_without_an_end_the_target_is_the_plain_n_step_return():
    reward, value = torch.randn(2, K), torch.randn(2, K)
    acting, episode = torch.ones(2, K, dtype=torch.bool), torch.zeros(2, K, dtype=torch.int64)
    target = value_targets(
        reward, acting, episode, value, discount=0.5, td_steps=3, num_steps=H + 1
    )
    for t in range(H + 1):
        rewards = reward[:, t] + 0.5 * reward[:, t + 1] + 0.25 * reward[:, t + 2]
        torch.testing.assert_close(target[:, t], rewards + 0.125 * value[:, t + 3])
    assert target.dtype == torch.float32


def test_values_and_rewards_of_others_do_not_leak():
    """Not even infinite ones: the frames of a death's reset row and of other episodes may hold anything."""
    episode = torch.tensor([[0, 0, 1] + [2] * (K - 3)])  # a death, its reset row, the next episode
    acting = torch.arange(K)[None] != 2
    value = torch.full((1, K), float("inf"))
    reward = torch.arange(1.0, K + 1)[None]
    reward[0, 2] = float("nan")

    def target() -> torch.Tensor:
        return value_targets(
            reward, acting, episode, value, discount=0.5, td_steps=TD, num_steps=H + 1
        )

    assert target()[0, :2].tolist() == [1 + 0.5 * 2, 2]
    value[0, 3:] = 8.0
    assert target()[0, 3].item() == 4 + 0.5 * 5 + 0.25 * 6 + 0.125 * 8


def test_short_windows_are_refused():
    few = torch.ones(1, K - 1)
    with pytest.raises(ValueError, match=f"{K - 1} rows"):
        value_targets(few, few > 0, few.long(), few, discount=1.0, td_steps=TD, num_steps=H + 1)
