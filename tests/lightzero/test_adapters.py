"""LightZero's functions here give what they define, computed naively."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance
from torch import distributed, nn

from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.config import MoEConfig
from lzero.lightzero import (
    MoELayer,
    collect_and_log_moe_statistics,
    compute_distribution_divergences_optimized,
    compute_gradient_conflict_distributed,
    compute_gradient_conflicts,
    compute_gradient_conflicts_batch,
    gather_distributed_moe_stats,
    get_expert_selection_stats,
    jensen_shannon_divergence_batch_gpu,
    log_gradient_conflict_heatmaps_distributed_fast,
    merge_expert_stats_across_ranks,
    wasserstein_distance_batch_gpu,
)
from lzero.nn.moe import MoELayer as OurMoELayer
from tests.ranks import run_ranks

KEYS = (
    *("avg_conflict_score", "max_conflict_score", "min_conflict_score"),
    *("num_conflicting_pairs", "avg_conflict_intensity"),
)


def rows(seed: int = 0, tasks: int = 4) -> torch.Tensor:
    return torch.randn(tasks, 3, 5, generator=torch.Generator().manual_seed(seed))


def naive(gradients) -> dict:
    """The scores as they are defined, pair by pair; a zero gradient has cosine 0."""
    flat = [np.asarray(one, np.float64).reshape(-1) for one in gradients]
    scores, against = [], []
    for a, b in itertools.permutations(flat, 2):
        length = np.linalg.norm(a) * np.linalg.norm(b)
        scores.append(-(a @ b) / length if length else 0.0)
    for a, b in itertools.combinations(flat, 2):
        if a @ b < 0:
            against.append(-(a @ b))
    values = (
        *(np.mean(scores), max(scores), min(scores)),
        *(len(against), np.mean(against) if against else 0.0),
    )
    return dict(zip(KEYS, values, strict=True))


def check(found, gradients) -> None:
    for key, value in naive(gradients).items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
    norms = [float(one.double().norm()) for one in gradients]
    assert found["gradient_norms"] == pytest.approx(norms, rel=1e-6)
    flat = torch.stack([one.reshape(-1) for one in gradients])
    cosine = nn.functional.normalize(flat, dim=1)
    torch.testing.assert_close(found["cosine_similarity_matrix"], cosine @ cosine.T)
    torch.testing.assert_close(found.dot_product_matrix, flat @ flat.T)


@pytest.mark.parametrize("seed", range(3))
def test_conflicts_of_a_list(seed):
    gradients = list(rows(seed))
    check(compute_gradient_conflicts(gradients), gradients)
    with_zeros = [*gradients[:2], torch.zeros(3, 5)]
    check(compute_gradient_conflicts(with_zeros), with_zeros)
    agreeing = [gradients[0], 2 * gradients[0]]
    assert compute_gradient_conflicts(agreeing)["avg_conflict_intensity"] == 0.0


@pytest.mark.parametrize("gradients", [[], [torch.ones(3)]])
def test_fewer_than_two_gradients_have_scores_of_zero(gradients):
    found = compute_gradient_conflicts(gradients)
    assert [found[key] for key in KEYS] == [0.0] * 5
    assert found["cosine_similarity_matrix"].tolist() == [[0.0]]


def test_rows_without_gradient_are_dropped():
    gradients = rows().flatten(1)
    gradients[1] = 0.0
    found = compute_gradient_conflict_distributed(gradients, multi_gpu=False)
    check(found, gradients[[0, 2, 3]])
    batch = compute_gradient_conflicts_batch(
        {"encoder": gradients, "none": torch.zeros(0, 7), "head": rows(1, 2).flatten(1)}
    )
    check(batch["encoder"], gradients[[0, 2, 3]])
    check(batch["head"], rows(1, 2).flatten(1))
    assert batch["none"]["avg_conflict_score"] == 0.0


OF_RANKS = ({"a": rows(0, 2).flatten(1), "b": rows(1, 1).flatten(1)},) + (
    {"a": rows(2, 1).flatten(1), "b": torch.zeros(0, 15)},
)


def exchange() -> list:
    """On every rank: conflicts of both, the gathered statistics, what a mistake of rank 1 raises."""
    distributed.init_process_group("gloo")
    mine = OF_RANKS[distributed.get_rank()]
    found = compute_gradient_conflicts_batch(mine)
    one = compute_gradient_conflict_distributed(mine["a"])
    everybody = gather_distributed_moe_stats({distributed.get_rank(): {}}, 2)
    try:
        compute_gradient_conflict_distributed(
            mine["a"] if distributed.get_rank() == 0 else torch.ones(3)
        )
        error = ""
    except ValueError as raised:
        error = str(raised)
    distributed.destroy_process_group()
    return [dict(found["a"]), dict(found["b"]), dict(one), everybody, error]


def test_ranks_see_the_rows_of_all_of_them_in_order(tmp_path):
    together = torch.cat([OF_RANKS[0]["a"], OF_RANKS[1]["a"]])
    for of_a, of_b, one, everybody, error in run_ranks(exchange, 2, tmp_path):
        for key, value in naive(together).items():
            assert of_a[key] == pytest.approx(value, abs=1e-6)
        assert of_b["avg_conflict_score"] == 0.0
        torch.testing.assert_close(one["dot_product_matrix"], together @ together.T)
        assert everybody == [{0: {}}, {1: {}}]
        assert "(3,)" in error or "rank 1" in error


class Pictures:
    """A ``SummaryWriter`` that keeps what it is given."""

    def __init__(self):
        self.images, self.scalars = {}, {}

    def add_image(self, tag, image, step):
        self.images[tag] = image

    def add_scalar(self, tag, value, step):
        self.scalars[tag] = value


def test_heatmaps_have_their_tags_and_no_diagonal():
    log, other = Pictures(), Pictures()
    matrix = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    given = [("encoder", matrix), ("none", None), ("empty", torch.zeros(0, 0))]
    log_gradient_conflict_heatmaps_distributed_fast(log, given, 7)
    assert list(log.images) == ["gradient_conflict_matrix/encoder"]
    changed = matrix.clone()
    changed[0, 0] = -1.0  # the diagonal is not drawn
    log_gradient_conflict_heatmaps_distributed_fast(other, [("encoder", changed)], 7)
    [picture] = log.images.values()
    assert picture.dtype == np.uint8 and picture.shape[0] == 3
    assert np.array_equal(picture, next(iter(other.images.values())))
    assert matrix.tolist() == torch.tensor([[1.0, 0.1], [0.1, 1.0]]).tolist()


def counts_of_tasks(seed: int = 0) -> torch.Tensor:
    """Selections of 4 tasks and 5 experts, not normalised."""
    return torch.randint(1, 50, (4, 5), generator=torch.Generator().manual_seed(seed)).float()


def test_divergences_are_scipys():
    counts = counts_of_tasks()
    js, distance = (
        jensen_shannon_divergence_batch_gpu(counts),
        wasserstein_distance_batch_gpu(counts),
    )
    places = np.arange(5)
    for i, j in itertools.product(range(4), repeat=2):
        p, q = counts[i].numpy(), counts[j].numpy()
        assert js[i, j] == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-6)
        assert distance[i, j] == pytest.approx(wasserstein_distance(places, places, p, q), abs=1e-5)
    assert js.dtype == torch.float32


def test_rows_without_selections_have_the_values_they_have_there():
    counts = counts_of_tasks()
    counts[2] = 0.0
    p = counts / (counts.sum(dim=1, keepdim=True) + 1e-8)  # the definition there, with its epsilon
    mixture = (p[:, None] + p[None]) / 2
    terms = [one * ((one + 1e-8) / (mixture + 1e-8)).log() for one in (p[:, None], p[None])]
    js = sum(terms).sum(dim=2) / 2
    distance = (p.cumsum(1)[:, None] - p.cumsum(1)[None]).abs().sum(dim=2)
    torch.testing.assert_close(
        jensen_shannon_divergence_batch_gpu(counts), js, atol=1e-5, rtol=1e-4
    )
    assert js[0, 2] == pytest.approx(math.log(2) / 2, abs=1e-5)
    torch.testing.assert_close(
        wasserstein_distance_batch_gpu(counts), distance, atol=1e-5, rtol=1e-4
    )


def window(counts, data_points=3) -> dict:
    counts = np.asarray(counts, float)
    return {
        "frequencies": counts / counts.sum() if counts.sum() else counts,
        "total_selections": counts.sum(),
        "data_points": data_points,
    }


def test_merging_adds_what_ranks_have_and_drops_what_is_empty():
    first = {0: {"immediate": window([4, 0])}, 1: {"immediate": window([0, 0])}}
    merged = merge_expert_stats_across_ranks([first, None, {0: {"immediate": window([1, 5], 7)}}])
    assert merged[1] == {}
    assert merged[0]["immediate"]["frequencies"] == pytest.approx([0.5, 0.5])
    assert merged[0]["immediate"]["total_selections"] == 10
    assert merged[0]["immediate"]["data_points"] == 7
    assert gather_distributed_moe_stats(first, 1) == [first]


def test_divergences_of_statistics_have_their_keys():
    counts = counts_of_tasks(3).numpy()
    stats = {task: {"immediate": window(row)} for task, row in enumerate(counts)}
    found = compute_distribution_divergences_optimized(stats)
    js = jensen_shannon_divergence_batch_gpu(torch.from_numpy(counts)).double().numpy()
    assert found["task_ids"] == (0, 1, 2, 3) and found["n_experts"] == 5
    assert found["js_matrix"] == pytest.approx(js, abs=1e-6)
    pairs = js[np.triu_indices(4, 1)]
    expected = {"avg": pairs.mean(), "max": pairs.max(), "min": pairs.min()}
    assert found["js_stats"] == pytest.approx(expected | {"std": pairs.std(ddof=1)}, abs=1e-6)
    assert compute_distribution_divergences_optimized({0: stats[0]}) == {}
    assert compute_distribution_divergences_optimized(stats, "long") == {}


class Expert(nn.Module):
    """SwiGLU with LightZero's names of weights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = (nn.Linear(dim, dim, bias=False) for _ in range(3))

    def forward(self, x):
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


def mixture(k: int = 2, shared: int = 1, experts: int = 4) -> MoELayer:
    torch.manual_seed(0)
    config = SimpleNamespace(embed_dim=6, n_shared_experts=shared)
    gate = nn.Linear(6, max(1, experts), bias=False)
    return MoELayer(config, [Expert(6) for _ in range(experts)], gate, num_experts_per_tok=k)


@pytest.mark.parametrize("k, shared", [(1, 1), (2, 0), (4, 2)])
def test_the_mixture_is_the_sum_over_the_chosen(k, shared):
    layer, x = mixture(k, shared), torch.randn(2, 7, 6)
    expected = torch.zeros(14, 6)
    for row, token in enumerate(x.view(14, 6)):
        logits, chosen = layer.gate(token).topk(k)
        for gate, expert in zip(logits.softmax(0), chosen, strict=True):
            expected[row] += gate * layer.experts[expert](token)
        if shared:
            expected[row] += layer.shared_expert(token)
    torch.testing.assert_close(layer(x).view(14, 6), expected)
    layer(x).sum().backward()
    has_gradient = layer.gate.weight.grad.abs().max() > 1e-6
    assert has_gradient == (k > 1), "with one chosen expert its gate is the constant 1"
    assert {name.split(".")[0] for name in layer.state_dict()} <= {
        *("gate", "experts", "shared_expert"),
    }


def test_without_routed_experts_tokens_are_added():
    layer, x = mixture(1, 1, 0), torch.randn(3, 6)
    torch.testing.assert_close(layer(x), x + layer.shared_expert(x))


def test_renormalised_gates_are_ours():
    """With two of four chosen and no shared expert it is our layer, weight by weight."""
    theirs, x = mixture(2, 0), torch.randn(9, 6)
    config = MoEConfig(
        num_experts=4, num_shared_experts=0, top_k=2, renormalise=True, hidden_ratio=8 / 6
    )
    ours = OurMoELayer(config, 6, 1)
    with torch.no_grad():
        ours.router.weight.copy_(theirs.gate.weight)
        ours.experts.w_in.zero_()
        ours.experts.w_out.zero_()
        for index, expert in enumerate(theirs.experts):
            ours.experts.w_in[index, :, :6] = expert.w1.weight.T
            ours.experts.w_in[index, :, 8:14] = expert.w3.weight.T
            ours.experts.w_out[index, :6] = expert.w2.weight.T
    torch.testing.assert_close(ours(x, torch.zeros(9, dtype=torch.int64))[0], theirs(x))


def test_the_mixture_counts_selections_by_task():
    layer, x = mixture(2), torch.randn(5, 6)
    layer(x)  # no task
    layer(x, task_id=3)
    layer(2 * x, task_id=3)
    layer.eval()(x, task_id=1)
    expected = torch.zeros(4)
    for tokens in (x, 2 * x):
        for expert in layer.gate(tokens).topk(2, dim=1).indices.flatten():
            expected[expert] += 1
    assert set(layer.get_expert_selection_stats()) == {3}
    for name in ("immediate", "short", "medium", "long"):
        one = layer.get_expert_selection_stats(3)[name]
        assert one["total_counts"].tolist() == expected.tolist()
        torch.testing.assert_close(one["frequencies"], expected / 20)
        assert (one["total_selections"], one["data_points"]) == (20.0, 2)
    assert layer.get_expert_selection_stats(task_id=1) == {}
    layer.reset_expert_selection_stats()
    assert layer.get_expert_selection_stats() == {}


def our_policy():
    """What keeps expert statistics of two layers, tasks and updates."""
    layers = {index: OurMoELayer(MoEConfig(), 16, 3) for index in (0, 1)}
    recorder = ExpertSelectionRecorder(layers)
    for seed in range(2):
        for index, layer in layers.items():
            torch.manual_seed(10 * seed + index)
            layer(torch.randn(40, 16), torch.arange(40) % 2)
        recorder.record()
    return SimpleNamespace(expert_statistics=recorder)


def test_statistics_of_our_policies_have_their_shape():
    policy = our_policy()
    found = get_expert_selection_stats(policy)
    by_layer = policy.expert_statistics.stats()
    counts = sum(by_layer[index][0]["immediate"]["total_counts"] for index in (0, 1))
    assert found[0]["immediate"]["total_counts"].tolist() == counts.tolist()
    assert found[0]["immediate"]["data_points"] == 2
    assert found[2]["short"]["frequencies"].tolist() == [0.0] * 8
    assert get_expert_selection_stats(policy, 1).keys() == {"immediate", "short", "medium", "long"}


def test_logging_statistics_of_either_kind_of_policy():
    theirs = mixture(2)
    for task, scale in ((0, 1.0), (2, -1.0)):
        theirs(scale * torch.ones(4, 6) + 0.1 * torch.randn(4, 6), task_id=task)
    transformer = SimpleNamespace(get_expert_selection_stats=theirs.get_expert_selection_stats)
    model = SimpleNamespace(world_model=SimpleNamespace(transformer=transformer))
    for policy, tasks in ((our_policy(), (0, 1)), (SimpleNamespace(_model=model), (0, 2))):
        log, silent = Pictures(), Pictures()
        collect_and_log_moe_statistics(policy, log, 9, 1, 0)
        collect_and_log_moe_statistics(policy, silent, 9, 1, 1)
        assert not silent.scalars and not silent.images
        assert "MOE_Heatmap/immediate_TaskExpert_Heatmap" in log.images
        stats = merge_expert_stats_across_ranks([get_expert_selection_stats(policy)])
        divergences = compute_distribution_divergences_optimized(stats)
        a, b = tasks
        assert log.scalars["MOE_Divergence/Immediate_AvgJS_Divergence"] == pytest.approx(
            divergences["js_stats"]["avg"]
        )
        tag = f"TaskPairwise/Immediate_Task{a}_Task{b}_Wasserstein_Distance"
        place = divergences["task_ids"].index(a), divergences["task_ids"].index(b)
        assert log.scalars[tag] == pytest.approx(divergences["wasserstein_matrix"][place])
        frequencies = stats[b]["immediate"]["frequencies"]
        total = f"MOE_Details/Task{b}_immediate/TotalSelections"
        assert log.scalars[total] == stats[b]["immediate"]["total_selections"]
        assert not [tag for tag in (*log.scalars, *log.images) if tag.startswith("moe_")]
        if hasattr(policy, "_model"):
            entropy = -sum(p * math.log(p) for p in frequencies if p)
            tag = f"MOE_Details/Task{b}_immediate/ExpertSelectionEntropy"
            assert log.scalars[tag] == pytest.approx(entropy, abs=1e-6)
        else:  # ours are logged by layer too
            assert f"MOE_Details/Task{b}_immediate/ExpertSelectionEntropy/layer1" in log.scalars
