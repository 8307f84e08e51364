"""Learning curves and ablations: trains every variant of a suite with several seeds and prints one line for each.

python benchmarks/learning.py catch                      # ablations on Catch and MirroredCatch
python benchmarks/learning.py blind                      # Catch told apart by nothing, and by what happened before
python benchmarks/learning.py breakout --seeds 0 1       # ablations on MinAtar Breakout
python benchmarks/learning.py minatar --seeds 0 1        # MinAtar Breakout alone, and three games together
python benchmarks/learning.py afternoon --seeds 0 1      # Atari games of 100,000 env steps, one at a time and two together
python benchmarks/learning.py four --seeds 0 1           # four Atari games in one agent, MoE and dense
python benchmarks/learning.py sharpen --seeds 0 1        # what made preset afternoon of the one before, on Krull
python benchmarks/learning.py ablate --seeds 0 1         # preset afternoon on Krull: each choice undone, each other added
python benchmarks/learning.py sharpen_minatar            # such changes on MinAtar Breakout
python benchmarks/learning.py former --seeds 0           # two of these games with the settings that Atari's presets had before
python benchmarks/learning.py pong --seeds 0             # Atari Pong
python benchmarks/learning.py study_catch                # conflict study: dense (SwiGLU and GELU), MoE, MoE without shared part
python benchmarks/learning.py study_minatar              # the same on three MinAtar games, without that last one
python benchmarks/learning.py study_atari --seeds 0 1    # dense (SwiGLU) and MoE on the eight games of Atari-8
python benchmarks/learning.py controls                   # conflict where its answer is known: three presets of Catch

Runs go to ``runs/{suite}/{variant}_s{seed}``, ``--jobs`` at a time with one thread each. The same command again continues
runs that were interrupted and leaves finished ones alone. What RESULTS.md says of Atari is kept in ``benchmarks/curves``;
``--output-dir benchmarks/curves`` prints its tables without training, ``benchmarks/trend.py`` what was collected, and
``python -m lzero.report benchmarks/curves/afternoon/*`` draws it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from grid import FINISHED, Grid, Variant
from rich.console import Console
from rich.table import Table

from lzero.envs.domain import load_domain
from lzero.report.run_data import read_run
from lzero.report.statistics import hierarchical_bootstrap_mean

RETURNS = ("collect_", "eval_")  # what is kept of a run: its returns and scores
# of a study's also what its tables and figures are made of
MEASURED = (*RETURNS, "gradient_conflict", "moe_")
CATCH = "zoo/catch/config/catch_unizero_multitask_segment_ddp_config"
ATARI = "zoo/atari/config/atari_unizero_multitask_segment_ddp_config"
MINATAR = "zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config"
# Larger batches, smaller steps and the other search than the preset: what the ablations were measured with.
CATCH_SLOW = "--policy.batch-size 32 --policy.optimiser.learning-rate 1e-3 --policy.search.kind puct --train.max-env-steps 4800"
# One game, an encoder of a quarter of the preset's work, more updates; 6 of 18 actions have an effect.
PONG = (
    "--env.games Pong --env.minimal-actions --env.num-eval-envs 16 --policy.search.kind puct --train.random-steps 0 "
    "--model.encoder.widths 16 32 --policy.batch-size 32 --policy.unroll-steps 5 "
    "--policy.replay-ratio 0.25 --policy.replay.capacity 60000 --policy.search.num-eval-simulations 16 "
    "--train.max-env-steps 80000 --train.eval-interval 20000 --train.eval-episodes 16 --train.checkpoint-interval 5000 "
    "--train.log-interval 50"
)

# What preset ``cpu`` was until 2026-11: 18 actions, pUCT, 16 trained steps per env step.
FORMER = (
    "--model.encoder.kind resnet --model.support-limit 50 --model.support-bins 101 --policy.loss.latent 10 "
    "--policy.optimiser.learning-rate 3e-4 --policy.shift-pixels 0 "
    "--env.no-minimal-actions --env.num-envs 8 --model.encoder.widths 32 64 --policy.search.kind puct "
    "--policy.search.num-eval-simulations 8 --policy.batch-size 16 --policy.replay-ratio 0.1 --policy.replay.capacity 40000 "
    "--train.random-steps 0"
)


def ablations(script: str, preset: str, common: str = "", *, more: bool) -> tuple[Variant, ...]:
    """Changes that are compared with the preset, one at a time; the Catch preset has replay ratio 0.25 and context 4."""

    def changed(name: str, arguments: str = "", blocks: str = "_moe") -> Variant:
        return Variant(name, f"{script}{blocks}.py", preset, f"{common} {arguments}")

    def searching(count: int, kind: str = "puct") -> str:
        simulations = (
            f"--policy.search.num-simulations {count} --policy.search.num-eval-simulations {count}"
        )
        return f"--policy.search.kind {kind} {simulations}"

    variants = [changed("preset"), changed("dense blocks", blocks="")]
    variants += [changed(f"{count} simulations", searching(count)) for count in (5, 25, 50)]
    if not more:
        return tuple(variants)
    variants.append(changed("no spread loss", "--policy.loss.spread 0"))
    variants += [
        changed(f"gumbel, {count} simulations", searching(count, "gumbel")) for count in (8, 16)
    ]
    variants += [
        changed(f"replay ratio {ratio}", f"--policy.replay-ratio {ratio}") for ratio in (0.1, 1)
    ]
    variants.append(changed("context 1", "--model.context-steps 1"))
    for kind in ("none", "add", "concat", "register"):
        embedding = f"--model.task-embedding {kind} --model.share-head"
        variants.append(changed(f"task embedding {kind}, shared heads", embedding))
    return tuple(variants)


def study(script: str, *, more: bool) -> tuple[Variant, ...]:
    """The conflict study: dense against MoE; ``more`` adds MoE blocks without their shared part.

    Without their routed part they are the dense twin. Names say which dense blocks: folders of runs from when those with
    GELU were simply called dense are not taken for their twin's.
    """
    variants = [
        Variant("dense swiglu", f"{script}.py", "conflict_study"),
        Variant("moe", f"{script}_moe.py", "conflict_study"),
        Variant("dense gelu", f"{script}.py", "conflict_study_gelu"),
    ]
    if more:
        variants.append(Variant("no_shared", f"{script}_moe.py", "conflict_study_no_shared"))
    return tuple(variants)


def afternoon(games: str, blocks: str = "dense", more: str = "") -> Variant:
    """Preset ``afternoon`` on some games."""
    script = f"{ATARI}.py" if blocks == "dense" else f"{ATARI}_moe.py"
    return Variant(f"{games.lower()} {blocks}", script, "afternoon", f"--env.games {games} {more}")


def four(name: str, blocks: str, more: str = "") -> Variant:
    """Four games in one agent, preset ``afternoon``."""
    games = "KungFuMaster Krull RoadRunner UpNDown"
    return replace(afternoon(games, blocks, f"--train.max-env-steps 50000 {more}"), name=name)


SHARP = (
    "--policy.loss.latent 2 --model.support-limit 20 --model.support-bins 201 "
    "--policy.optimiser.learning-rate 1e-3"
)
NATURE = "--model.encoder.kind nature --model.encoder.widths 16 32 32"
MORE = "--policy.replay-ratio 0.5"
SHIFTS = "--policy.shift-pixels 4"
# What preset ``afternoon`` was in November 2026, before it was sharpened: what its changes are compared with.
BEFORE = (
    "--model.encoder.kind resnet --model.encoder.widths 16 32 --model.support-limit 50 --model.support-bins 101 "
    "--policy.loss.latent 10 --policy.optimiser.learning-rate 3e-4 --policy.shift-pixels 0 --policy.replay-ratio 0.25"
)
CHANGES = {
    "preset": "",
    "sharp": SHARP,
    "changes of latents": "--model.residual-latent",
    "latent weight 2": "--policy.loss.latent 2",
    "support 10": "--model.support-limit 10",
    "latent weight 2, support 10": "--policy.loss.latent 2 --model.support-limit 10",
    "latent weight 2, support 10, learning rate 1e-3": (
        "--policy.loss.latent 2 --model.support-limit 10 --policy.optimiser.learning-rate 1e-3"
    ),
    "burn-in 3": "--policy.burn-in-steps 3",
    "open loop": "--policy.loss.open-loop 0.5",
    "twice the updates": "--policy.replay-ratio 0.5",
    "online labels": "--policy.loss.online-labels",
    "clip 50": "--policy.optimiser.max-grad-norm 50",
    "entropy 0.005": "--policy.loss.entropy 5e-3",
    "prioritised": "--policy.replay.prioritised",
    "reanalysis 0.2": "--policy.reanalyse-fraction 0.2",
}
"""What may make an agent learn more from an env step."""
# What preset ``afternoon`` has taken up, each undone, and what it has not, each added.
UNDONE = {
    "preset": "",
    "latent weight 10": "--policy.loss.latent 10",
    "support 50": "--model.support-limit 50 --model.support-bins 101",
    "learning rate 3e-4": "--policy.optimiser.learning-rate 3e-4",
    "residual encoder": "--model.encoder.kind resnet --model.encoder.widths 16 32",
    "no shifts": "--policy.shift-pixels 0",
    "half the updates": "--policy.replay-ratio 0.25",
}
NOT_TAKEN = (
    "changes of latents",
    "burn-in 3",
    "open loop",
    "online labels",
    "clip 50",
    "entropy 0.005",
    "prioritised",
    "reanalysis 0.2",
)


def changed(script: str, preset: str, common: str, changes: dict[str, str]) -> tuple[Variant, ...]:
    """Each change of a preset."""
    return tuple(
        Variant(name, script, preset, f"{common} {arguments}")
        for name, arguments in changes.items()
    )


SUITES = {
    "four": (
        four("moe", "moe"),
        four("dense", "dense"),
        four("moe balanced", "moe", "--model.moe.balance bias"),
    ),
    "afternoon": (
        *(afternoon(game) for game in ("KungFuMaster", "Krull", "RoadRunner", "UpNDown")),
        *(afternoon(game) for game in ("DemonAttack", "BankHeist")),
        *(afternoon(game, "moe") for game in ("KungFuMaster", "Krull")),
        *(
            afternoon("Krull KungFuMaster", blocks, "--train.max-env-steps 50000")
            for blocks in ("moe", "dense")
        ),
    ),
    "former": tuple(afternoon(game, "moe", FORMER) for game in ("KungFuMaster", "Krull")),
    "sharpen": changed(
        f"{ATARI}.py",
        "afternoon",
        f"--env.games Krull --train.max-env-steps 50000 {BEFORE}",
        CHANGES
        | {
            "shifts of 4 pixels": "--policy.shift-pixels 4",
            "gray": "--env.grayscale",
            "sharp, shifts": f"{SHARP} {SHIFTS}",
            "sharp, nature, shifts": f"{SHARP} {NATURE} {SHIFTS}",
            "sharp, nature, shifts, twice the updates": f"{SHARP} {NATURE} {SHIFTS} {MORE}",
            "sharp, nature, twice the updates": f"{SHARP} {NATURE} {MORE}",
            "sharp, nature, shifts, four times the updates": (
                f"{SHARP} {NATURE} {SHIFTS} --policy.replay-ratio 1"
            ),
            "nature 16 32 32": "--model.encoder.kind nature --model.encoder.widths 16 32 32",
            "nature 32 64 64": "--model.encoder.kind nature --model.encoder.widths 32 64 64",
        },
    ),
    "ablate": changed(
        f"{ATARI}.py",
        "afternoon",
        "--env.games Krull --train.max-env-steps 20000 --train.eval-interval 20000",
        UNDONE | {name: CHANGES[name] for name in NOT_TAKEN},
    ),
    "sharpen_minatar": changed(
        f"{MINATAR}.py",
        "breakout",
        "--train.max-env-steps 20000 --train.eval-interval 10000",
        CHANGES,
    ),
    "catch": ablations(CATCH, "both", CATCH_SLOW, more=True),
    "blind": (
        Variant(
            "context 1, shared heads, no embedding",
            f"{CATCH}_moe.py",
            "blind",
            f"{CATCH_SLOW} --policy.replay-ratio 1",
        ),
        Variant("context 4, shared heads, no embedding", f"{CATCH}_moe.py", "context"),
    ),
    "breakout": ablations(
        MINATAR, "breakout", "--train.max-env-steps 20000 --train.eval-interval 10000", more=False
    ),
    "minatar": (
        Variant("breakout", f"{MINATAR}_moe.py", "breakout"),
        Variant("three", f"{MINATAR}_moe.py", "three"),
    ),
    "pong": (
        Variant("pong", f"{ATARI}_moe.py", "cpu", PONG),
        # as many env steps as three hours of one core have room for
        replace(afternoon("Pong", "dense", "--train.max-env-steps 400000"), name="pong afternoon"),
    ),
    "study_catch": study(CATCH, more=True),
    "study_minatar": study(MINATAR, more=False),
    "study_atari": (
        Variant("dense swiglu", f"{ATARI}.py", "conflict_study_small"),
        Variant("moe", f"{ATARI}_moe.py", "conflict_study_small"),
    ),
    "controls": (
        Variant("conflict", f"{CATCH}_moe.py", "control_conflict"),
        Variant("same", f"{CATCH}_moe.py", "control_same"),
        Variant("routing", f"{CATCH}_moe.py", "control_routing"),
    ),
}


@dataclass(frozen=True)
class Arguments:
    """Train every variant of a suite with several seeds."""

    suite: tyro.conf.Positional[
        Literal[
            "catch",
            "blind",
            "breakout",
            "minatar",
            "afternoon",
            "four",
            "former",
            "sharpen",
            "ablate",
            "sharpen_minatar",
            "pong",
            "study_catch",
            "study_minatar",
            "study_atari",
            "controls",
        ]
    ]
    """What to train."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each variant per seed."""
    jobs: int = 2
    """Runs side by side, each on one thread."""
    only: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """Only variants whose name contains this."""
    output_dir: Path = Path("runs")
    """Folder of all runs."""
    keep: Path | None = None
    """Write config, returns and scores of every run that has finished to this folder too, compressed; of studies also
    conflict and expert selection."""


def main() -> None:
    """Train, then print the table."""
    arguments = tyro.cli(Arguments)
    variants = [variant for variant in SUITES[arguments.suite] if arguments.only in variant.name]
    kept = None if arguments.keep is None else arguments.keep / arguments.suite
    folder = arguments.output_dir / arguments.suite
    measured = arguments.suite.startswith("study") or arguments.suite in ("controls", "four")
    grid = Grid(variants, arguments.seeds, folder, kept, MEASURED if measured else RETURNS)
    grid.train(arguments.jobs)
    table = Table(
        title=f"{arguments.suite}: final evaluation, seeds {', '.join(map(str, arguments.seeds))}"
    )
    for header in (
        "variant",
        "game",
        "mean",
        "95 % interval",
        "per seed",
        "x random",
        "while collecting",
        "minutes",
    ):
        table.add_column(header)
    for variant in variants:
        for row in rows(variant, [grid.folder_of(variant, seed) for seed in arguments.seeds]):
            table.add_row(*row)
    table.caption = (
        "interval: bootstrap over seeds and their episodes; while collecting: mean return over the whole run, which tells "
        "fast learning from slow; minutes: wall time of a run, including its evaluations"
    )
    Console(width=150).print(table)


def rows(variant: Variant, folders: list[Path]) -> list[tuple[str, ...]]:
    """The table's lines of one variant, one for each game."""
    runs = [read_run(folder) for folder in folders]
    minutes = np.mean(
        [float((folder / FINISHED).read_text().split()[0]) / 60 for folder in folders]
    )
    found = []
    for game in runs[0].games:
        last = [run.series(f"eval_return/{game}").env_step[-1] for run in runs]
        scores = [run.episode_scores(game, step) for run, step in zip(runs, last, strict=True)]
        low, high = hierarchical_bootstrap_mean(scores)
        mean = np.mean([s.mean() for s in scores])
        random = load_domain(runs[0].domain).reference_scores(game).get("random")
        ratio = f"{mean / random:.1f}" if random is not None and random > 0 else "–"
        per_seed = " ".join(f"{s.mean():.2f}" for s in scores)
        collecting = np.mean([run.series(f"collect_return/{game}").value.mean() for run in runs])
        cells = (
            f"{mean:.2f}",
            f"{low:.2f} … {high:.2f}",
            per_seed,
            ratio,
            f"{collecting:.2f}",
            f"{minutes:.1f}",
        )
        found.append((variant.name, game, *cells))
    return found


if __name__ == "__main__":
    main()
