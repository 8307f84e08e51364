"""The compiled search step gives what torch gives: every kind of model, any threads, after any change of weights."""

import ctypes
import importlib.util
import logging
import shutil

import numpy as np
import pytest
import torch

import lzero.native
from lzero.config import ModelConfig
from lzero.mcts.gumbel import GumbelTree
from lzero.mcts.kernels import Edges
from lzero.mcts.search import TorchSearchModel, search
from lzero.mcts.tree import BatchTree
from lzero.model import UniZeroMTModel
from lzero.model.native_search import NativeSearch
from lzero.native import BUILDS, search_step
from lzero.nn.scalars import ScalarSupport
from lzero.nn.tasks import TaskGroups
from lzero.policy.search_model import (
    SWITCH,
    CpuSearchModel,
    NativeSearchModel,
    round_threads,
    search_model,
)

NUM_TASKS, NUM_ACTIONS, DIM = 3, 7, 32
TASK_ID = np.array([2, 0, 1, 1, 0, 0])  # unsorted and uneven
SUPPORT = ScalarSupport()
SWIGLU = {"mlp_kind": "swiglu", "moe": {"enabled": False}}
FEED_FORWARDS = [
    {"moe": {"enabled": False}},
    SWIGLU,
    SWIGLU | {"mlp_ratio": 1.0},  # 16 wide, less than a panel of some builds
    {"moe": {"enabled": True}},
    {"moe": {"top_k": 2, "renormalise": True}},
    {"moe": {"routing": "hardcoded"}},
    {"moe": {"routing": "soft"}},
    {"moe": {"num_experts": 0}},
    {"moe": {"num_shared_experts": 2, "num_experts": 5}},
]

compiled = pytest.mark.skipif(search_step() is None, reason="there is no C++ compiler here")


def make_model(
    num_tasks: int = NUM_TASKS, num_actions: int = NUM_ACTIONS, **overrides
) -> UniZeroMTModel:
    config = ModelConfig.model_validate(
        {"embed_dim": DIM, "num_heads": 4, "encoder": {"kind": "mlp", "hidden": (16,)}} | overrides
    )
    model = UniZeroMTModel(config, (5,), num_actions, num_tasks).eval()
    for parameter in model.world_model.parameters():
        if not parameter.any():  # heads' outputs, biases
            torch.nn.init.normal_(parameter, std=0.2)
    for layer in model.world_model.transformer.routed_layers().values():
        if layer.router is not None:
            layer.router.selection_bias.normal_(std=0.1)
    return model


def begin(
    model: UniZeroMTModel, task_id: np.ndarray = TASK_ID, num_simulations: int = 12, seed: int = 0
):
    """A root inference from a random past."""
    random, context = torch.Generator().manual_seed(seed), model.config.history_steps
    num_actions = model.world_model.action_embedding.num_embeddings
    latent = torch.randn(len(task_id), context, model.config.embed_dim, generator=random)
    action = torch.randint(0, num_actions, (len(task_id), context - 1), generator=random)
    valid = torch.randint(0, context, (len(task_id),), generator=random)
    groups = TaskGroups.of(task_id, "cpu")
    return model.initial_inference(
        model.encoder.norm(latent), action, valid, groups, num_simulations
    )


def random_rounds(rng: np.random.Generator, num_roots: int, num_simulations: int) -> list[Edges]:
    """Rounds in which roots have no, one or several rows."""
    done, rounds = np.zeros(num_roots, np.int64), []
    while done.min() < num_simulations:
        width = np.minimum(rng.integers(0, 5, num_roots), num_simulations - done)
        root = np.arange(num_roots).repeat(width)
        node = np.concatenate(
            [start + 1 + np.arange(n) for start, n in zip(done, width, strict=True)]
        )
        parent = rng.integers(0, done[root] + 1)
        if len(root):
            rounds.append(Edges(root, parent, rng.integers(0, NUM_ACTIONS, len(root)), node))
        done += width
    return rounds


def assert_same_answers(got, expected) -> None:
    for name, ours, theirs in zip(expected._fields, got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4, err_msg=name)


def test_it_is_built_where_there_is_a_compiler():
    assert (search_step() is not None) == (shutil.which("g++") is not None)


@compiled
@pytest.mark.parametrize("share_head", [True, False])
@pytest.mark.parametrize(
    ("latent_norm", "residual"), [("layer_norm", False), ("sim_norm", False), ("layer_norm", True)]
)
@pytest.mark.parametrize("task_embedding", ["none", "add", "concat", "register"])
@pytest.mark.parametrize("feed_forward", FEED_FORWARDS, ids=str)
@torch.no_grad()
def test_rounds_equal_torch(feed_forward, task_embedding, latent_norm, residual, share_head):
    torch.manual_seed(0)
    model = make_model(
        **feed_forward,
        task_embedding=task_embedding,
        latent_norm=latent_norm,
        residual_latent=residual,
        share_head=share_head,
    )
    rng = np.random.default_rng(0)
    legal = rng.random((len(TASK_ID), NUM_ACTIONS)) < 0.6
    legal[:, 0] = True
    torch_model, native = TorchSearchModel(model, SUPPORT), NativeSearchModel(model, SUPPORT)
    root, same_root = begin(model), begin(model)
    native.begin(same_root, legal)
    for edges in random_rounds(rng, len(TASK_ID), 12):
        got = native.expand(same_root.cache, edges, legal)
        assert_same_answers(got, torch_model.expand(root.cache, edges, legal))
        assert not got.prior[~legal[edges.root]].any()
    assert torch.equal(root.cache.window, same_root.cache.window)
    assert torch.equal(root.cache.position, same_root.cache.position)


@compiled
@pytest.mark.parametrize("seed", range(20))
@torch.no_grad()
def test_searches_of_random_models_visit_the_same(seed):
    """Ten models a case: sizes, feed-forward, games, legal actions, context and kind of search are drawn."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    for _ in range(10):
        num_tasks = int(rng.integers(1, 9))
        model = make_model(
            num_tasks,
            **FEED_FORWARDS[rng.integers(len(FEED_FORWARDS))],
            share_head=bool(rng.integers(2)),
            residual_latent=bool(rng.integers(2)),
            context_steps=int(rng.integers(1, 5)),
            num_layers=int(rng.integers(1, 3)),
        )
        task_id = rng.integers(0, num_tasks, rng.integers(1, 13))
        legal = rng.random((len(task_id), NUM_ACTIONS)) < 0.7
        legal[:, rng.integers(NUM_ACTIONS)] = True
        kind, num_simulations = (BatchTree, GumbelTree)[rng.integers(2)], int(rng.integers(2, 26))

        def run(answers, model=model, legal=legal, kind=kind, tasks=task_id, count=num_simulations):
            tree = kind(len(tasks), count, NUM_ACTIONS, discount=0.997)
            return search(answers, begin(model, tasks, count), legal, tree)

        expected = run(TorchSearchModel(model, SUPPORT))
        got = run(NativeSearchModel(model, SUPPORT))
        np.testing.assert_array_equal(got.visits, expected.visits)
        np.testing.assert_allclose(got.value, expected.value, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(got.improved, expected.improved, atol=1e-4)


def answers_of_all_rounds(model: UniZeroMTModel, threads: int = 1) -> list[np.ndarray]:
    """What the compiled step says, round after round."""
    legal, before = np.ones((len(TASK_ID), NUM_ACTIONS), bool), torch.get_num_threads()
    native, root = NativeSearchModel(model, SUPPORT), begin(model)
    native.begin(root, legal)
    rounds = random_rounds(np.random.default_rng(0), len(TASK_ID), 12)
    torch.set_num_threads(threads)  # only now: they change what torch makes of the roots
    try:
        return [array for edges in rounds for array in native.expand(root.cache, edges, legal)]
    finally:
        torch.set_num_threads(before)


@compiled
@pytest.mark.parametrize(
    "feed_forward",
    [{"moe": {"enabled": False}}, SWIGLU, {"moe": {"enabled": True}}, {"moe": {"top_k": 2}}],
)
@torch.no_grad()
def test_threads_change_no_bit(monkeypatch, feed_forward):
    monkeypatch.setattr(
        "lzero.model.native_search.WORK_OF_THREAD", 1
    )  # else these rounds are too small
    torch.manual_seed(0)
    model = make_model(
        **feed_forward, embed_dim=96
    )  # several panels of outputs, not as many as threads
    found = [answers_of_all_rounds(model, threads) for threads in (1, 2, 3, 5)]
    for other in found[1:]:
        for alone, shared in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(alone, shared)


@compiled
@torch.no_grad()
def test_all_builds_of_this_processor_agree(monkeypatch):
    torch.manual_seed(0)
    model = make_model(moe={"top_k": 2})
    capability, found = torch.backends.cpu.get_cpu_capability(), []
    for name, processors in BUILDS.items():
        if processors is not None and capability not in processors:
            continue
        path = importlib.util.find_spec(name).origin
        library = lzero.native.opened(path)
        assert isinstance(library, ctypes.CDLL)
        monkeypatch.setattr(
            "lzero.model.native_search.search_step", lambda library=library: library
        )
        found.append(answers_of_all_rounds(model))
    assert len(found) >= 1
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def change_by_optimizer(model: UniZeroMTModel) -> None:
    optimizer = torch.optim.AdamW(model.world_model.parameters(), lr=0.01, fused=True)
    for parameter in model.world_model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def change_by_loading(model: UniZeroMTModel) -> None:
    state = model.state_dict()
    model.load_state_dict(
        {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in state.items()}
    )


def change_the_selection_bias(model: UniZeroMTModel) -> None:
    layer = model.world_model.transformer.routed_layers()[0]
    layer.config = layer.config.model_copy(update={"bias_rate": 10.0})
    layer.update_selection_bias(torch.arange(layer.config.num_experts))


@compiled
@pytest.mark.parametrize(
    ("change", "feed_forward"),
    [
        (change_by_optimizer, {}),
        (change_by_loading, {}),
        (change_the_selection_bias, {}),
        (change_by_optimizer, SWIGLU),
    ],
)
@torch.no_grad()
def test_packed_weights_follow_the_model(change, feed_forward):
    torch.manual_seed(0)
    model = make_model(**feed_forward)
    legal = np.ones((len(TASK_ID), NUM_ACTIONS), bool)
    native, edges = (
        NativeSearchModel(model, SUPPORT),
        random_rounds(np.random.default_rng(0), 6, 12)[0],
    )
    first = begin(model)
    native.begin(first, legal)
    packed = native.native._packed
    before = native.expand(first.cache, edges, legal)
    native.begin(begin(model), legal)
    assert native.native._packed is packed  # nothing has changed: nothing is packed again
    change(model)
    second, same = begin(model), begin(model)
    native.begin(second, legal)
    after = native.expand(second.cache, edges, legal)
    assert_same_answers(after, TorchSearchModel(model, SUPPORT).expand(same.cache, edges, legal))
    assert np.abs(after.value - before.value).max() > 1e-3


def test_torch_answers_where_compiled_code_cannot(monkeypatch, caplog):
    model = make_model()
    assert type(search_model(model, SUPPORT, torch.bfloat16)) is CpuSearchModel
    assert type(search_model(model.to("meta"), SUPPORT)) is TorchSearchModel
    monkeypatch.setenv(SWITCH, "0")
    assert type(search_model(make_model(), SUPPORT)) is CpuSearchModel
    monkeypatch.delenv(SWITCH)
    monkeypatch.setattr(lzero.native, "BUILDS", {"lzero.native.missing": None})
    search_step.cache_clear()
    try:
        with caplog.at_level(logging.INFO):
            assert search_step() is None
        assert "make setup" in caplog.text
    finally:
        search_step.cache_clear()
    monkeypatch.setattr("lzero.model.native_search.search_step", lambda: None)
    with pytest.raises(RuntimeError, match="make setup"):
        NativeSearch(make_model(), SUPPORT)


def test_a_library_that_cannot_be_opened_is_passed_over(monkeypatch, caplog, tmp_path):
    path = tmp_path / "broken.so"
    path.write_bytes(b"not a library")
    spec = importlib.util.spec_from_file_location("broken", path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    search_step.cache_clear()
    try:
        with caplog.at_level(logging.INFO):
            assert search_step() is None
    finally:
        search_step.cache_clear()
    assert "broken.so cannot be loaded" in caplog.text and "make setup" in caplog.text


def test_threads_follow_the_work_of_a_round():
    """Experts count: what a mixture computes is more than its width says."""

    def threads(moe: dict, num_rows: int) -> int | None:
        config = ModelConfig.model_validate({"embed_dim": 256, "num_layers": 2, "moe": moe})
        return round_threads(UniZeroMTModel(config, (3, 64, 64), 18, 1), num_rows)

    dense, heavy = {"enabled": False}, {"hidden_ratio": 8.0}
    assert threads(dense, 1) == 1
    assert threads(dense, 256) is None
    assert threads(heavy, 8) is None and threads(dense, 8) == 1


def test_work_counts_the_products_of_an_expansion():
    model = make_model(moe={"top_k": 2, "num_experts": 4}, num_layers=1, share_head=True)
    hidden = model.world_model.transformer.routed_layers()[0].experts.w_out.shape[1]
    experts = (1 + 2) * 3 * DIM * hidden
    heads = 4 * DIM**2 + DIM * (NUM_ACTIONS + 101 + 102 + DIM)
    assert model.world_model.work_of_expansion() == 2 * (4 * DIM**2 + experts) + heads
    dense = make_model(**SWIGLU, num_layers=1, share_head=True).world_model
    [block] = dense.transformer.blocks
    hidden = block.feed_forward.expert.w_out.shape[0]
    assert dense.work_of_expansion() == 2 * (4 * DIM**2 + 3 * DIM * hidden) + heads
