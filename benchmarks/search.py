"""Cost of the tree search against the bare matrix products of its token passes, and env steps per second over games.

    python benchmarks/search.py            # all tables
    python benchmarks/search.py --tables compiled --rounds 5
    python benchmarks/search.py --tables games --games 1 2 4 8

Compiled: the compiled step against torch, and Gumbel search in rounds against one simulation of every root at a time. Equal:
experts of 8 D² multiplications, as LightZero's; the default ones have 40 % of that. Inductor: torch.compile in its place.

Floor: for every token pass of the search the linear maps of blocks and heads at their real shapes, called the same way
(``F.linear``, ``baddbmm``), with nothing between them. Tree: seconds inside BatchTree's methods.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from lzero.config import EnvConfig, ExperimentConfig, ModelConfig
from lzero.device import autocast, resolve_device, resolve_precision, torch_threads
from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.kernels import Edges
from lzero.mcts.search import TorchSearchModel, search
from lzero.mcts.tree import BatchTree
from lzero.model import UniZeroMTModel
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy import UniZeroMTPolicy
from lzero.policy.search_model import NativeSearchModel, round_threads, search_model
from lzero.worker.actor import Actor
from zoo.atari.domain import ATARI
from zoo.atari.envs import ATARI8

NUM_ACTIONS = 18
TABLES = ("compiled", "inductor", "floor", "games")


class OneByOneTree(GumbelTree):
    """Gumbel search that expands one simulation of every root at a time, as it was done before rounds."""

    _round_width = BatchTree._round_width


class TimedTree(BatchTree):
    """A tree that knows how long it was busy."""

    busy = 0.0

    def _timed(self, name: str, *args: np.ndarray) -> object:
        start = time.perf_counter()
        result = getattr(super(), name)(*args)
        self.busy += time.perf_counter() - start
        return result

    def reset(self, *args: np.ndarray) -> None:
        self._timed("reset", *args)

    def select_round(self) -> Edges:
        return self._timed("select_round")

    def expand_and_backup(self, *args: np.ndarray) -> None:
        self._timed("expand_and_backup", *args)


def make_model(embed_dim: int, moe: dict, num_tasks: int, device: torch.device) -> UniZeroMTModel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"embed_dim": embed_dim, "num_layers": 2, "moe": moe})
    model = UniZeroMTModel(config, (3, 64, 64), NUM_ACTIONS, num_tasks).to(device).eval()
    # Heads start at zero; random ones give the search a tree of ordinary shape.
    for parameter in model.world_model.parameters():
        if parameter.ndim == 3 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def bare_products(
    model: UniZeroMTModel, num_roots: int, simulations: int, num_tasks: int
) -> Callable[[], None]:
    """The linear maps of one search, at its shapes, and nothing else."""
    world, config = model.world_model, model.config
    dim, context = config.embed_dim, 2 * config.history_steps - 1
    device = world.action_embedding.weight.device

    def block_products(x: torch.Tensor, block: torch.nn.Module) -> None:
        F.linear(x, block.attention.qkv.weight, block.attention.qkv.bias)
        F.linear(x, block.attention.out.weight, block.attention.out.bias)
        layer = block.feed_forward
        if not config.moe.enabled:
            F.linear(
                F.linear(x, layer.w_in.weight, layer.w_in.bias),
                layer.w_out.weight,
                layer.w_out.bias,
            )
            return
        F.linear(x, layer.router.weight)
        shared = layer.shared_experts[0]
        torch.mm(torch.mm(x, shared.w_in)[:, : len(shared.w_out)], shared.w_out)
        # Every expert's share as one batched product: the fastest way found to run these products alone.
        share = x.view(len(layer.experts.w_in), -1, dim)
        torch.bmm(
            torch.bmm(share, layer.experts.w_in)[..., : layer.experts.w_out.shape[1]],
            layer.experts.w_out,
        )

    def head_products(grid: torch.Tensor, heads: tuple[torch.nn.Module, ...]) -> None:
        for head in heads:
            torch.baddbmm(head.bias2, torch.baddbmm(head.bias1, grid, head.weight1), head.weight2)

    x_root = torch.randn(num_roots * context, dim, device=device)
    x = torch.randn(num_roots, dim, device=device)
    grid = x.view(num_tasks, -1, dim)

    def run() -> None:
        for block in world.transformer.blocks:
            block_products(x_root, block)
        head_products(grid, (world.policy_head, world.value_head))
        for _ in range(simulations):
            for heads in (
                (world.latent_head, world.reward_head),
                (world.policy_head, world.value_head),
            ):
                for block in world.transformer.blocks:
                    block_products(x, block)
                head_products(grid, heads)

    return run


def seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


BLOCKS = {"dense": {"enabled": False}, "moe 8+1": {}, "moe, equal": {"hidden_ratio": 8 / 3}}


@torch.no_grad()
def compiled_table(args: argparse.Namespace) -> None:
    """Milliseconds of whole searches, the best of the rounds, which take turns."""
    device, support, dim = torch.device("cpu"), ScalarSupport(), 256
    print(
        f"\nCompiled step, D = {dim}, 2 layers, best of {args.rounds}; {args.simulations} simulations of pUCT"
    )
    header = f"{'blocks':<12}{'roots':>6}{'torch, 1 thread':>17}{'compiled':>10}{'ratio':>7}{'2 threads':>11}{'gain':>6}"
    print(header + f"{'Gumbel 16':>11}{'one by one':>12}{'gain':>6}")
    for name, moe in BLOCKS.items():
        for num_roots in (8, 16):
            model = make_model(dim, moe, 1, device)
            groups = TaskGroups.of(np.zeros(num_roots, np.int64), device)
            context, legal = model.config.history_steps, np.ones((num_roots, NUM_ACTIONS), bool)
            latent = model.encoder.norm(torch.randn(num_roots, context, dim))
            action = torch.randint(0, NUM_ACTIONS, (num_roots, context - 1))
            valid = torch.full((num_roots,), context - 1)
            in_torch, compiled = TorchSearchModel(model, support), NativeSearchModel(model, support)

            def run(
                answers,
                tree,
                threads,
                model=model,
                groups=groups,
                legal=legal,
                root_arguments=(latent, action, valid),
            ) -> float:
                with torch_threads(threads):
                    start = time.perf_counter()
                    root = model.initial_inference(*root_arguments, groups, tree.num_simulations)
                    search(answers, root, legal, tree)
                    return 1e3 * (time.perf_counter() - start)

            sizes = (num_roots, args.simulations, NUM_ACTIONS)
            puct = BatchTree(*sizes, discount=0.997)
            rounds, one_by_one = (
                kind(num_roots, 16, NUM_ACTIONS, discount=0.997)
                for kind in (GumbelTree, OneByOneTree)
            )
            cases = (
                (in_torch, puct, 1),
                (compiled, puct, 1),
                (compiled, puct, 2),
                (compiled, rounds, 1),
                (compiled, one_by_one, 1),
            )
            for case in cases:
                run(*case)
            times = [[run(*case) for case in cases] for _ in range(args.rounds)]
            slow, fast, two, wide, narrow = (min(column) for column in zip(*times, strict=True))
            print(
                f"{name:<12}{num_roots:>6}{slow:>17.0f}{fast:>10.0f}{slow / fast:>7.2f}{two:>11.0f}{fast / two:>6.2f}"
                f"{wide:>11.1f}{narrow:>12.1f}{narrow / wide:>6.2f}",
                flush=True,
            )


@torch.no_grad()
def inductor_table(args: argparse.Namespace) -> None:
    """The other way to a compiled step: torch.compile of the same expansion, one thread."""
    support, num_roots, rounds = ScalarSupport(), 8, 50
    print(
        f"\nOne expansion of {num_roots} roots, D = 256, 2 layers, one thread: milliseconds, mean of {rounds}"
    )
    print(f"{'blocks':<12}{'torch':>8}{'torch.compile':>15}{'compiled in s':>15}{'C++':>8}")
    for name, moe in BLOCKS.items():
        model = make_model(256, moe, 1, torch.device("cpu"))
        groups = TaskGroups.of(np.zeros(num_roots, np.int64), "cpu")
        context = model.config.history_steps
        root = model.initial_inference(
            model.encoder.norm(torch.randn(num_roots, context, 256)),
            torch.zeros(num_roots, context - 1, dtype=torch.int64),
            torch.full((num_roots,), context - 1),
            groups,
            rounds,
        )
        edges = Edges(
            *np.stack(
                [
                    np.arange(num_roots),
                    *np.zeros((2, num_roots), np.int64),
                    np.ones(num_roots, np.int64),
                ]
            )
        )
        rows, legal = (
            torch.from_numpy(root.cache.rows(*edges)),
            np.ones((num_roots, NUM_ACTIONS), bool),
        )
        native, inductor = (
            NativeSearchModel(model, support),
            torch.compile(model.expand, dynamic=False),
        )
        native.begin(root, legal)
        steps = (
            partial(model.expand, root.cache, rows, groups),
            partial(inductor, root.cache, rows, groups),
            partial(native.expand, root.cache, edges, legal),
        )
        with torch_threads(1):
            first, *_ = [seconds(step, torch.device("cpu")) for step in steps[1:]]
            times = []
            for step in steps:
                step()
                start = time.perf_counter()
                for _ in range(rounds):
                    step()
                times.append(1e3 * (time.perf_counter() - start) / rounds)
        plain, with_inductor, in_cpp = times
        print(
            f"{name:<12}{plain:>8.2f}{with_inductor:>15.2f}{first:>15.1f}{in_cpp:>8.2f}", flush=True
        )


@torch.no_grad()
def search_table(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    games, envs = 2, 8
    num_roots = games * envs
    task_id = np.repeat(np.arange(games), envs)
    legal = np.ones((num_roots, NUM_ACTIONS), bool)
    support = ScalarSupport()
    print(
        f"\nSearch: {games} games x {envs} envs, {args.simulations} simulations, 2 layers (medians of {args.rounds})"
    )
    print(
        f"{'model':<12}{'search ms':>12}{'floor ms':>12}{'ratio':>8}{'tree ms':>10}{'tree share':>12}"
    )
    for embed_dim in args.dims:
        for moe in (False, True):
            model = make_model(embed_dim, {"enabled": moe}, games, device)
            groups = TaskGroups.of(task_id, device)
            context = model.config.history_steps
            latent = model.encoder.norm(torch.randn(num_roots, context, embed_dim, device=device))
            action = torch.randint(0, NUM_ACTIONS, (num_roots, context - 1), device=device)
            valid = torch.full((num_roots,), context - 1, device=device)
            answers = search_model(model, support, dtype)
            tree = TimedTree(num_roots, args.simulations, NUM_ACTIONS, discount=0.997)

            def whole(
                model=model,
                latent=latent,
                action=action,
                valid=valid,
                groups=groups,
                tree=tree,
                answers=answers,
            ) -> None:
                root = model.initial_inference(latent, action, valid, groups, args.simulations)
                search(answers, root, legal, tree)

            floor = bare_products(model, num_roots, args.simulations, games)
            threads = torch_threads(round_threads(model, num_roots))
            with threads, autocast(device, dtype):
                whole(), floor()
                tree.busy = 0.0
                pairs = [
                    (seconds(whole, device), seconds(floor, device)) for _ in range(args.rounds)
                ]
            taken, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            busy = tree.busy / args.rounds
            name = f"{embed_dim} {'moe 8+1' if moe else 'dense'}"
            print(
                f"{name:<12}{taken * 1e3:>12.1f}{bare * 1e3:>12.1f}{ratio:>8.2f}{busy * 1e3:>10.2f}{busy / taken:>12.1%}"
            )


def games_table(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    print(
        f"\nEnv steps per second: 8 envs per game, {args.simulations} simulations, D = 256, 2 layers, encoder, env and all"
    )
    print(f"{'games':<8}{'model':<10}{'env steps/s':>14}{'ms per env step':>18}")
    for moe in (False, True):
        for games in args.games:
            names = ATARI8[:games]
            env = ATARI.make(
                EnvConfig(games=names), names, range(games), [8] * games,
                env_offsets=[0] * games, training=True, num_threads=torch.get_num_threads(),
            )  # fmt: skip
            config = ExperimentConfig.model_validate(
                {
                    "env": {"games": names},
                    "model": {"embed_dim": 256, "num_layers": 2, "moe": {"enabled": moe}},
                    "policy": {"search": {"num_simulations": args.simulations}},
                    "precision": args.precision,
                }
            )
            policy = UniZeroMTPolicy(config, (3, 64, 64), env.legal_actions)
            policy.model = make_model(256, {"enabled": moe}, games, device)
            actor = Actor(policy, env.task_id, env.legal_actions, np.random.default_rng(0))
            observation = env.reset(0).observation
            observation = env.step(actor.act(observation).action).observation
            start = time.perf_counter()
            for _ in range(args.steps):
                observation = env.step(actor.act(observation).action).observation
            rate = args.steps * env.num_envs / (time.perf_counter() - start)
            print(f"{games:<8}{'moe 8+1' if moe else 'dense':<10}{rate:>14.1f}{1e3 / rate:>18.2f}")
            env.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tables", nargs="+", choices=TABLES, default=list(TABLES), help="what to measure"
    )
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 768], help="model widths")
    parser.add_argument(
        "--games", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of games"
    )
    parser.add_argument("--simulations", type=int, default=50, help="simulations per move")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each search")
    parser.add_argument(
        "--steps", type=int, default=8, help="moves per measurement of env steps per second"
    )
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="as in the config"
    )
    args = parser.parse_args()
    device = resolve_device("auto")
    dtype = resolve_precision(args.precision, device)
    print(
        f"device {device}, precision {dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if "compiled" in args.tables:
        compiled_table(args)
    if "inductor" in args.tables:
        inductor_table(args)
    if "floor" in args.tables:
        search_table(args, device, dtype)
    if "games" in args.tables:
        games_table(args, device, dtype)


if __name__ == "__main__":
    main()
