"""PPO's experiment: proximal policy optimisation of an actor-critic on several games, together or one after another.

The defaults are those of PureJaxRL's MinAtar recipe (Lu et al. 2022), where it has one. The study of mixtures of experts that
this is made for (arXiv 2406.18420) prints no table of settings that we know: what it may do otherwise is not known here.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from lzero.config_mixture import ActorCriticConfig
from lzero.config_sections import (
    Experiment,
    OptimiserConfig,
    ProfileConfig,
    Section,
    nearest_divisor,
)


class AdamConfig(OptimiserConfig):
    """Adam; its step size falls to nothing in the course of training, see ``policy.anneal``."""

    learning_rate: PositiveFloat = 5e-3
    """Step size at the beginning."""
    weight_decay: float = Field(0.0, ge=0.0)
    """Decoupled weight decay, on matrices only."""
    beta2: float = Field(0.999, ge=0.0, lt=1.0)
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-5
    """Added to the root of the second moment."""
    max_grad_norm: PositiveFloat = 0.5
    """The gradient is clipped to this norm after it was summed over ranks."""


class ScheduleConfig(Section):
    """Which games are played when."""

    setting: Literal["mtrl", "crl"] = "mtrl"
    """``mtrl``: multi-task, all games at once; ``crl``: continual, one game after another, over and over."""
    order: tuple[str, ...] = ()
    """crl: games in the order in which they come; empty takes ``env.games``."""
    cycles: PositiveInt = 2
    """crl: how often every game comes."""


class PPOConfig(Section):
    """Proximal policy optimisation (Schulman et al., arXiv 1707.06347)."""

    optimiser: AdamConfig = AdamConfig()
    """Optimiser."""
    anneal: bool = True
    """The learning rate falls linearly to 0 at ``train.max_env_steps``."""
    epochs: PositiveInt = 4
    """Passes over the steps of a round."""
    minibatches: PositiveInt = 8
    """Updates of a pass, each with its share of every game's steps."""
    discount: float = Field(0.99, gt=0.0, le=1.0)
    """Discount per env step."""
    gae_lambda: float = Field(0.95, ge=0.0, le=1.0)
    """λ of generalised advantage estimation (arXiv 1506.02438)."""
    clip: PositiveFloat = 0.2
    """The ratio of new to old probability counts up to 1 ± clip."""
    clip_value: bool = True
    """Values are held within ± clip of the old ones as well."""
    entropy: float = Field(0.01, ge=0.0)
    """Weight of the policy's entropy, a bonus."""
    value: float = Field(0.5, ge=0.0)
    """Weight of the value loss."""
    advantages: Literal["game", "all", "raw"] = "game"
    """Advantages of an update are standardised game by game, over all games together, or not at all."""
    greedy_evaluation: bool = False
    """Evaluate with the likeliest action instead of a drawn one."""
    gradient_conflict_interval: int = Field(320, ge=0)
    """Updates between two measurements of the gradient conflict between games; 0 measures never."""
    conflict_color_limit: Literal["auto"] | Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """``|cosine|`` from which on heatmaps of the conflict have their strongest colours; ``auto`` takes the largest between two
    games, in each picture anew: for small cosines."""
    probe_observations: PositiveInt = 64
    """Observations of random play, shared out over the games, on which effective ranks are measured."""
    profile: ProfileConfig = ProfileConfig()
    """Profilers."""


class PPOExperiment(Experiment):
    """A PPO experiment, whole."""

    fixed_fields: ClassVar[tuple[str, ...]] = (
        *Experiment.fixed_fields,
        "algorithm",
        "model",
        "schedule",
        # the learning rate, the temperature of adaptive routers and the games' turns depend on it
        "train.max_env_steps",
    )

    algorithm: Literal["ppo"] = "ppo"
    """What tells these experiments from others; there is nothing to choose."""
    exp_name: str = Field("minatar_ppo_moe", min_length=1)
    """Name of the run; its files go to ``{output_dir}/{exp_name}``."""
    model: ActorCriticConfig = ActorCriticConfig()
    """Actor and critic."""
    policy: PPOConfig = PPOConfig()
    """Learning."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Which games are played when."""

    @property
    def is_continual(self) -> bool:
        """Whether games are played one after another."""
        return self.schedule.setting == "crl"

    @property
    def order(self) -> tuple[str, ...]:
        """Games in the order in which they come; all at once where they are played together."""
        return self.schedule.order or self.env.games

    @property
    def clock_steps(self) -> int:
        """Env steps on the run's clock: together every game takes them, one after another they add up."""
        rounds = self.num_tasks if self.is_continual else 1
        return self.train.max_env_steps * rounds

    @property
    def turn_steps(self) -> int:
        """crl: env steps that a game has at a time."""
        return self.train.max_env_steps // self.schedule.cycles

    def game_at(self, env_steps: int) -> int | None:
        """Task that is played from ``env_steps`` of the clock on; None where all are."""
        if not self.is_continual:
            return None
        turn = min(env_steps, self.clock_steps - 1) // self.turn_steps
        return self.env.games.index(self.order[turn % self.num_tasks])

    @model_validator(mode="after")
    def _check(self) -> Self:
        games, train = self.env.games, self.train
        if sorted(self.order) != sorted(games):
            raise ValueError(
                f"schedule.order={self.order}: allowed are the games of env.games={games}, each once"
            )
        if len({self.env.envs_of(game) for game in games}) > 1:
            raise ValueError(
                "env.overrides: num_envs differ between games; with PPO every game brings as many steps as the others"
            )
        if train.random_steps:
            raise ValueError(
                f"train.random_steps={train.random_steps}: PPO learns from its own actions alone; use 0"
            )
        for game in games:
            if self.env.override(game).batch_size is not None:
                raise ValueError(
                    f"env.overrides: batch_size of {game}: PPO learns from all steps of a round; use policy.minibatches"
                )
        steps = train.collect_steps * self.env.num_envs
        if steps % self.policy.minibatches:
            raise ValueError(
                f"policy.minibatches={self.policy.minibatches} does not divide the {steps} steps of a round "
                "(train.collect_steps x env.num_envs): some would never be learned from; try "
                f"{nearest_divisor(steps, self.policy.minibatches)}"
            )
        if self.is_continual and self.turn_steps < steps:
            raise ValueError(
                f"schedule.cycles={self.schedule.cycles} leaves a game {self.turn_steps} env steps at a time, less than a "
                f"round of {steps}; use fewer cycles, or more train.max_env_steps"
            )
        return self
