"""The model card of an exported agent, Markdown: what it is, how well it plays, where it comes from, and its limits."""

from dataclasses import dataclass

import numpy as np

from lzero.checkpoint.export_file import AgentRecord
from lzero.config import ExperimentConfig
from lzero.worker.score_table import REFERENCES, ScoreTable

ENOUGH_EPISODES = (
    32  # below, a mean return may be off by a fifth of the episodes' deviation, or more
)
MINUS_OR_PLUS = "±"


@dataclass(frozen=True)
class CardFacts:
    """What a card says that stands in no config.

    Attributes:
        agent: counters and versions.
        num_parameters: of the online network.
        table: the last evaluation; None where there was none.
        how_scored: what made the scores, one sentence.
        command: that trained it; None where nobody said it.
        license: of the weights; None where nobody said it.
        notes: further limits, sentences.
    """

    agent: AgentRecord
    num_parameters: int
    table: ScoreTable | None
    how_scored: str
    command: str | None
    license: str | None
    notes: tuple[str, ...] = ()


def model_card(config: ExperimentConfig, facts: CardFacts) -> str:
    """The card; the same facts always give the same text."""
    games = ", ".join(config.env.games)
    parts = [
        f"# {config.exp_name}: a UniZero agent that plays {games}",
        _what_it_is(config, facts),
        "## Scores",
        _scores(facts),
        "## Try it",
        _usage(),
        "## Training",
        _training(config, facts),
        "## Licence",
        _license(facts),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(config, facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _what_it_is(config: ExperimentConfig, facts: CardFacts) -> str:
    model, moe = config.model, config.model.moe
    blocks = "dense feed-forwards"
    if moe.enabled:
        blocks = (
            f"mixtures of {moe.num_experts} routed experts, {moe.top_k} per token, and "
            f"{moe.num_shared_experts} shared (routing `{moe.routing}`)"
        )
    search = config.policy.search
    return (
        "A multi-task UniZero world model (arXiv 2406.10667) of the library lzero: a causal transformer over latents and "
        f"actions, in which a tree search ({search.kind}, {search.num_eval_simulations} simulations per move when evaluating) "
        f"plans. {model.num_layers} block(s) of width {model.embed_dim} with {model.num_heads} heads, whose feed-forwards are "
        f"{blocks}; encoder `{model.encoder.kind}`; {facts.num_parameters:,} parameters, stored as they were trained. "
        "One network plays all games of the table; it is told which one by a task id, the game's place in the list."
    )


def _scores(facts: CardFacts) -> str:
    table = facts.table
    if table is None:
        return (
            "No evaluation of this checkpoint is on record. Nothing is claimed about how it plays."
        )
    labels = []
    for label in REFERENCES:
        if any(label in known for known in table.references.values()):
            labels.append(label)
    header = ["game", "return", "standard deviation", "episodes", table.scale, *labels]
    lines = [_row(header), _row(["---"] * len(header))]
    for game, scores in table.scores.items():
        known = table.references.get(game, {})
        error = float(scores.std() / np.sqrt(len(scores)))
        cells = [
            game,
            f"{scores.mean():.3f} {MINUS_OR_PLUS} {error:.3f}",
            f"{scores.std():.3f}",
            str(len(scores)),
            f"{table.normalised[game]:.3f}" if game in table.normalised else "–",
        ]
        for label in labels:
            cells.append(f"{known[label]:.3f}" if label in known else "–")
        lines.append(_row(cells))
    text = "\n".join(lines)
    text += (
        f"\n\n{facts.how_scored} Returns are sums of the game's own rewards per episode; {MINUS_OR_PLUS} is the standard "
        "error of the mean over episodes of this one trained agent, which tells nothing of other seeds of training."
    )
    if table.normalised:
        text += f" The column “{table.scale}” is the mean return on the games' common scale."
    aggregates = [f"{name} {value:.3f}" for name, value in table.aggregates().items()]
    if len(table.normalised) > 1:
        text += f" Over games: {', '.join(aggregates)}."
    return text


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _usage() -> str:
    return (
        "```\n"
        "python -m lzero.entry.eval_unizero_multitask THIS.zip --episodes 32   # scores, and a film of each game\n"
        "python -m lzero.entry.analyse_experts THIS.zip                        # who uses which expert\n"
        "```\n\n"
        'From Python: `lzero.policy.UniZeroMTPolicy.from_export("THIS.zip")`. It is loaded without pickle, and only if '
        "every file's SHA-256 is that of `manifest.json`."
    )


def _training(config: ExperimentConfig, facts: CardFacts) -> str:
    agent, env = facts.agent, config.env
    lines = [
        f"- {agent.env_steps:,} env steps per game, {agent.train_iter:,} updates, seed {agent.seed}, "
        f"{agent.world_size} process(es); checkpoint `{agent.checkpoint}`",
    ]
    if agent.env_steps < config.train.max_env_steps:
        lines.append(
            f"- stopped before its end: {config.train.max_env_steps:,} env steps per game were planned"
        )
    if facts.command is not None:
        lines.append(f"- command: `{facts.command}`")
    lines.append(
        f"- the same from `config.json`: `train_unizero_multitask_segment_ddp(config, seed={agent.seed})` of "
        "`lzero.entry`; on another machine rounding alone makes another agent of it"
    )
    lines.append(
        f"- games of `{env.domain}`, at most {env.max_episode_steps:,} env steps per episode; all their settings are in "
        "section `env` of `config.json`"
    )
    versions = ", ".join(f"{name} {number}" for name, number in sorted(agent.versions.items()))
    lines.append(f"- versions: {versions}")
    return "\n".join(lines)


def _license(facts: CardFacts) -> str:
    text = (
        "Nobody has stated one for these weights: ask whoever trained them before you pass them on."
    )
    if facts.license is not None:
        text = f"Weights, config and card: {facts.license}."
    return f"{text} The games are not in this file and have licences of their own."


def _limits(config: ExperimentConfig, facts: CardFacts) -> list[str]:
    limits = [
        "It plays the games above, with the settings that it was trained with, and nothing else: no other game was tried.",
        "Optimizer, target network, replay and random generators are left out: it can be played and analysed, not "
        "trained on as the run would go on.",
        "One seed of training; another may come out better or worse.",
    ]
    table = facts.table
    if table is not None:
        fewest = min(len(scores) for scores in table.scores.values())
        if fewest < ENOUGH_EPISODES:
            limits.append(f"Only {fewest} episodes per game stand behind the scores.")
    if config.model.moe.enabled and config.num_tasks == 1:
        limits.append(
            "One game gives experts nothing to tell apart: their use says nothing about tasks."
        )
    return [*limits, *facts.notes]
