"""LightZero's names; values of its configs are in ``tests/lightzero/test_translation.py``."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

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
    train_unizero_multitask_segment_ddp,
    translate_config,
    wasserstein_distance_batch_gpu,
)
from tests.bad_calls.bad import Bad
from tests.lightzero.their_configs import configs, tiny_catch

ONES = torch.ones(2, 3)


def mixture(k: Any = 1, experts: Any = 2, dim: Any = 3, gate: Any = None) -> MoELayer:
    config = SimpleNamespace(embed_dim=dim, n_shared_experts=1)
    made = [nn.Linear(3, 3) for _ in range(experts)] if isinstance(experts, int) else experts
    return MoELayer(config, made, nn.Linear(3, 2) if gate is None else gate, k)


def window(width: int) -> dict[str, Any]:
    return {"immediate": {"frequencies": torch.ones(width) / width, "total_selections": 1}}


CASES = {
    "lz gradients of no tensors": Bad(
        lambda: compute_gradient_conflicts("no"), r"gradients\[0\]='n': allowed", TypeError
    ),
    "lz gradients of two shapes": Bad(
        lambda: compute_gradient_conflicts([torch.ones(2), torch.ones(3)]),
        r"shapes \[\(2,\), \(3,\)\]",
    ),
    "lz rows as a list": Bad(
        lambda: compute_gradient_conflict_distributed([1.0]), r"=\[1.0\]: allowed", TypeError
    ),
    "lz rows with one axis": Bad(
        lambda: compute_gradient_conflict_distributed(torch.ones(3)), r"has shape \(3,\): allowed"
    ),
    "lz groups as a list": Bad(
        lambda: compute_gradient_conflicts_batch([ONES]), "gradient_groups=.*mapping", TypeError
    ),
    "lz group of no tensor": Bad(
        lambda: compute_gradient_conflicts_batch({"a": 1}), r"\['a'\]=1: allowed", TypeError
    ),
    "lz heatmap logger": Bad(
        lambda: log_gradient_conflict_heatmaps_distributed_fast(3, [("a", ONES)], 0),
        "tb_logger=3: allowed",
        TypeError,
    ),
    "lz heatmap of a vector": Bad(
        lambda: log_gradient_conflict_heatmaps_distributed_fast(
            SimpleNamespace(add_image=print), [("a", torch.ones(3))], 0
        ),
        r"matrix_list\['a'\] has shape \(3,\)",
    ),
    "lz js of an array": Bad(
        lambda: jensen_shannon_divergence_batch_gpu(ONES.numpy()),
        "distributions_tensor=.*allowed is a tensor",
        TypeError,
    ),
    "lz js of negative numbers": Bad(
        lambda: jensen_shannon_divergence_batch_gpu(-ONES), "distributions_tensor holds -1.0"
    ),
    "lz wasserstein of one row": Bad(
        lambda: wasserstein_distance_batch_gpu(torch.ones(3)), r"has shape \(3,\): allowed"
    ),
    "lz wasserstein of nan": Bad(
        lambda: wasserstein_distance_batch_gpu(ONES * torch.nan), r"\[0, 0\]=nan: allowed"
    ),
    "lz divergences of a list": Bad(
        lambda: compute_distribution_divergences_optimized([]), "merged_stats=", TypeError
    ),
    "lz divergences of other experts": Bad(
        lambda: compute_distribution_divergences_optimized({0: window(2), 1: window(3)}),
        r"merged_stats\[1\] frequencies has shape \(3,\)",
    ),
    "lz merging a number": Bad(
        lambda: merge_expert_stats_across_ranks(3), "all_expert_stats=3: allowed", TypeError
    ),
    "lz merging a list of numbers": Bad(
        lambda: merge_expert_stats_across_ranks([3]), r"all_expert_stats\[0\]=3", TypeError
    ),
    "lz gathering of more ranks": Bad(
        lambda: gather_distributed_moe_stats({}, 4), "world_size=4: this run has 1"
    ),
    "lz statistics of a network": Bad(
        lambda: get_expert_selection_stats(nn.Linear(2, 2)), "policy=.*allowed", TypeError
    ),
    "lz logging of a network": Bad(
        lambda: collect_and_log_moe_statistics(nn.Linear(2, 2), None, 0, 1, 0),
        "policy=.*allowed",
        TypeError,
    ),
    "lz mixture of more than there are": Bad(
        lambda: mixture(3), "num_experts_per_tok=3: allowed are whole numbers from 1 to 2"
    ),
    "lz mixture of no modules": Bad(lambda: mixture(1, [1]), r"experts\[0\]=1", TypeError),
    "lz mixture behind no gate": Bad(lambda: mixture(gate=5), "gate=5: allowed", TypeError),
    "lz mixture without a width": Bad(lambda: mixture(dim=None), "embed_dim=None", TypeError),
    "lz tokens of another width": Bad(lambda: mixture()(torch.ones(2, 4)), r"allowed is \(…, 3\)"),
    "lz tokens of no tensor": Bad(lambda: mixture()(3), "x=3: allowed", TypeError),
    "lz task below 0": Bad(lambda: mixture()(ONES, task_id=-1), "task_id=-1: allowed"),
    "lz configs of no list": Bad(lambda: translate_config(3), "configs=3: allowed", TypeError),
    "lz no configs": Bad(lambda: translate_config([]), r"configs=\[\]: allowed"),
    "lz config without its create_config": Bad(
        lambda: translate_config([[0, [configs()[0][1][0]]]]),
        r"configs\[0\]=.*create_config",
        TypeError,
    ),
    "lz configs of one task id": Bad(
        lambda: translate_config([configs()[0], configs()[0]]), r"task_id: \[0, 0\] names a task"
    ),
    "lz config of another domain": Bad(
        lambda: translate_config(tiny_catch("a")), "unknown game 'Catch'"
    ),
    "lz config of a domain that is not there": Bad(
        lambda: translate_config(configs(), domain="zoo.no:NO"), "env.domain='zoo.no:NO'"
    ),
    "lz training without env steps": Bad(
        lambda: translate_config(configs(), max_env_step=0), "train.max_env_steps.*greater than 0"
    ),
    "lz training of a given model": Bad(
        lambda: train_unizero_multitask_segment_ddp(configs(), model=nn.Linear(1, 1)),
        "model=.*: allowed is None",
    ),
    "lz training from weights": Bad(
        lambda: train_unizero_multitask_segment_ddp(configs(), model_path="a.pth"),
        "model_path='a.pth': allowed is None; resume=",
    ),
    "lz training for updates": Bad(
        lambda: train_unizero_multitask_segment_ddp(configs(), max_train_iter=5),
        "max_train_iter=5: .*max_env_step",
    ),
    "lz training of another benchmark": Bad(
        lambda: train_unizero_multitask_segment_ddp(configs(), benchmark_name="dmc"),
        "benchmark_name='dmc': allowed is atari",
    ),
}
