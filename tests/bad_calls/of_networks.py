"""Mixture of experts, attention, encoder, scalars, heads, groups of tasks, optimizers' groups."""

from typing import Any

import numpy as np
import torch
from torch import nn

from lzero.config import EncoderConfig, MoEConfig, OptimiserConfig
from lzero.nn.attention import SelfAttention, rotary_table, rotate, windowed_causal_mask
from lzero.nn.encoder import Encoder, LatentNorm
from lzero.nn.feed_forward import DenseSwiGLU
from lzero.nn.heads import Head
from lzero.nn.moe import MoELayer, SwiGLU, hardcoded_experts
from lzero.nn.parameters import adamw, ema_update_, parameter_groups
from lzero.nn.scalars import ScalarSupport, inverse_scalar_transform, scalar_transform
from lzero.nn.tasks import TaskGroups
from tests.bad_calls.bad import Bad

X = torch.ones(3, 8)
TASK = torch.zeros(3, dtype=torch.int64)


def moe(x: Any = X, task_id: Any = TASK, embed_dim: Any = 8, num_tasks: Any = 2, **config: Any):
    return MoELayer(MoEConfig(**config), embed_dim, num_tasks)(x, task_id)


def encoder(
    kind: str = "mlp", shape: Any = (4,), width: Any = 8, tasks: Any = 2, norm: Any = "layer_norm"
) -> Encoder:
    config = EncoderConfig(kind=kind, hidden=(8,), widths=(8, 8, 8), task_conditioned=True)
    return Encoder(config, shape, width, tasks, norm)


def attend(x: Any, mask: Any = None, rotation: Any = None) -> torch.Tensor:
    return SelfAttention(8, 2)(x, rotation, mask)


SUPPORT = ScalarSupport(num_bins=11)

CASES = {
    "experts of no width": Bad(lambda: moe(embed_dim=0), "embed_dim=0"),
    "experts of half a width": Bad(lambda: moe(embed_dim=8.5), "embed_dim=8.5", TypeError),
    "experts of no task": Bad(lambda: moe(num_tasks=0), "num_tasks=0"),
    "experts see another width": Bad(lambda: moe(x=torch.ones(3, 6)), r"x.*\(3, 6\)"),
    "experts see other tasks": Bad(lambda: moe(task_id=TASK[:2]), r"task_id.*\(2,\)"),
    "experts see too many tasks": Bad(
        lambda: moe(task_id=torch.zeros(4, dtype=torch.int64)), r"task_id.*\(4,\)"
    ),
    "experts see tasks as fractions": Bad(
        lambda: moe(task_id=torch.zeros(3), routing="hardcoded"), "task_id.*float32", TypeError
    ),
    "experts of nobody": Bad(lambda: hardcoded_experts(0, MoEConfig()), "num_tasks=0"),
    "bias against another load": Bad(
        lambda: MoELayer(MoEConfig(balance="bias"), 8, 2).update_selection_bias(torch.ones(3)),
        r"load_E.*\(3,\)",
    ),
    "bias without a router": Bad(
        lambda: MoELayer(MoEConfig(routing="hardcoded"), 8, 2).update_selection_bias(torch.ones(8)),
        "selection bias.*routing",
    ),
    "expert of no width": Bad(lambda: SwiGLU(0, 8), "embed_dim=0"),
    "expert without units": Bad(lambda: SwiGLU(8, 0), "hidden=0"),
    "dense feed-forward of no width": Bad(lambda: DenseSwiGLU(0, 16), "embed_dim=0"),
    "dense feed-forward without units": Bad(lambda: DenseSwiGLU(8, 0), "hidden=0"),
    "no experts in a stack": Bad(lambda: SwiGLU(8, 8, 0), "num_experts=0"),
    "positions below zero": Bad(lambda: rotary_table(-1, 4), "num_positions=-1"),
    "rotation of an odd width": Bad(lambda: rotary_table(4, 3), "head_width=3"),
    "rotation of no base": Bad(lambda: rotary_table(4, 4, base=-1.0), "base=-1.0"),
    "rotation of an odd number of channels": Bad(
        lambda: rotate(torch.ones(2, 3), rotary_table(2, 4)), r"x.*\(2, 3\)"
    ),
    "rotation of another width": Bad(
        lambda: rotate(torch.ones(2, 4), rotary_table(2, 8)), r"rotation.*\(2, 4\)"
    ),
    "mask of fewer than no tokens": Bad(lambda: windowed_causal_mask(-2, 2), "num_tokens=-2"),
    "mask of an empty window": Bad(lambda: windowed_causal_mask(4, 0), "window=0"),
    "mask of fewer than no registers": Bad(
        lambda: windowed_causal_mask(4, 2, -1), "num_registers=-1"
    ),
    "attention: heads do not divide": Bad(lambda: SelfAttention(8, 3), "num_heads=3"),
    "attention: no heads": Bad(lambda: SelfAttention(8, 0), "num_heads=0"),
    "attention: no width": Bad(lambda: SelfAttention(0, 1), "embed_dim=0"),
    "attention: drops more than all": Bad(lambda: SelfAttention(8, 2, 1.5), "dropout=1.5"),
    "attention to another width": Bad(lambda: attend(torch.ones(2, 3, 6)), r"x_BLD.*\(2, 3, 6\)"),
    "attention to one sequence": Bad(lambda: attend(torch.ones(3, 8)), r"x_BLD.*\(3, 8\)"),
    "attention with another mask": Bad(
        lambda: attend(torch.ones(2, 3, 8), torch.ones(4, 4, dtype=torch.bool)), r"mask.*\(4, 4\)"
    ),
    "attention with other positions": Bad(
        lambda: attend(torch.ones(2, 3, 8), rotation=rotary_table(5, 4)), r"rotation.*\(5, 2\)"
    ),
    "encoder of vectors as pictures": Bad(lambda: encoder("conv"), r"encoder.kind='conv'.*\(4,\)"),
    "encoder of small pictures": Bad(
        lambda: encoder("nature", (3, 8, 8)), "encoder.kind=.nature.*8x8"
    ),
    "encoder of nothing": Bad(lambda: encoder(shape=()), r"observation_shape=\(\)"),
    "encoder of no features": Bad(lambda: encoder(shape=(0,)), r"observation_shape=\(0,\)"),
    "encoder to no width": Bad(lambda: encoder(width=0), "embed_dim=0"),
    "encoder of no task": Bad(lambda: encoder(tasks=0), "num_tasks=0"),
    "encoder with an unknown norm": Bad(
        lambda: encoder(norm="batch_norm"), "latent_norm='batch_norm'|kind='batch_norm'"
    ),
    "norm of an unknown kind": Bad(lambda: LatentNorm("rms"), "kind='rms'"),
    "norm of an odd width": Bad(lambda: LatentNorm("sim_norm")(torch.ones(2, 12)), r"x.*\(2, 12\)"),
    "encoder sees another shape": Bad(
        lambda: encoder()(torch.ones(3, 5), TASK), r"observation.*\(3, 5\)"
    ),
    "encoder sees other tasks": Bad(lambda: encoder()(torch.ones(2, 4), TASK), r"task_id.*\(3,\)"),
    "encoder sees an array": Bad(
        lambda: encoder()(np.ones((3, 4)), TASK), "observation.*ndarray", TypeError
    ),
    "encoder sees whole numbers": Bad(
        lambda: encoder()(torch.ones(3, 4, dtype=torch.int64), TASK),
        "observation.*int64",
        TypeError,
    ),
    "support of one bin": Bad(lambda: ScalarSupport(num_bins=1), "num_bins=1"),
    "support of half a bin": Bad(
        lambda: ScalarSupport(num_bins=10.5), "num_bins=10.5", (TypeError, ValueError)
    ),
    "support that falls": Bad(lambda: ScalarSupport(low=1.0, high=1.0), "low=1.0, high=1.0"),
    "support without end": Bad(lambda: ScalarSupport(high=float("inf")), "high=inf"),
    "support smoothed away": Bad(lambda: ScalarSupport(label_smoothing=1.0), "label_smoothing=1.0"),
    "two-hot of a list": Bad(lambda: SUPPORT.two_hot([1.0]), r"x=\[1.0\]", TypeError),
    "expectation of other bins": Bad(
        lambda: SUPPORT.expectation(torch.ones(2, 7)), r"logits.*\(2, 7\)"
    ),
    "expectation of one bin": Bad(
        lambda: SUPPORT.expectation(torch.ones(2, 1)), r"logits.*\(2, 1\)"
    ),
    "cross entropy of fewer scalars": Bad(
        lambda: SUPPORT.cross_entropy(torch.ones(5, 11), torch.ones(3)), r"x.*\(3,\)"
    ),
    "cross entropy of other bins": Bad(
        lambda: SUPPORT.cross_entropy(torch.ones(5, 12), torch.ones(5)), r"logits.*\(5, 12\)"
    ),
    "transform of text": Bad(lambda: scalar_transform("1"), "x='1'", TypeError),
    "transform of complex numbers": Bad(
        lambda: scalar_transform(torch.ones(2, dtype=torch.complex64)), "x.*complex64", TypeError
    ),
    "inverse transform of a list": Bad(
        lambda: inverse_scalar_transform([1.0]), r"y=\[1.0\]", TypeError
    ),
    "groups of no rows": Bad(lambda: TaskGroups.of(np.array([], np.int64), "cpu"), "task_id"),
    "groups in two axes": Bad(
        lambda: TaskGroups.of(np.zeros((2, 2), np.int64), "cpu"), r"task_id.*\(2, 2\)"
    ),
    "groups of a negative task": Bad(lambda: TaskGroups.of([-1, 0], "cpu"), "task_id.*-1"),
    "groups of fractions": Bad(
        lambda: TaskGroups.of([0.5, 1.0], "cpu"), "task_id.*float64", TypeError
    ),
    "groups of text": Bad(lambda: TaskGroups.of("ab", "cpu"), "task_id='ab'", TypeError),
    "head of no width": Bad(lambda: Head(0, 3, 2), "embed_dim=0"),
    "head without outputs": Bad(lambda: Head(8, 0, 2), "out_features=0"),
    "head of no task": Bad(lambda: Head(8, 3, 0), "num_tasks=0"),
    "head sees another width": Bad(
        lambda: Head(8, 3, 2)(torch.ones(3, 1, 6), TaskGroups.of(TASK, "cpu")), r"x.*\(3, 1, 6\)"
    ),
    "head sees other rows": Bad(
        lambda: Head(8, 3, 2)(torch.ones(4, 1, 8), TaskGroups.of(TASK, "cpu")), r"x.*\(4, 1, 8\)"
    ),
    "decay below zero": Bad(lambda: parameter_groups(nn.Linear(2, 2), -0.1), "weight_decay=-0.1"),
    "optimizer of nothing": Bad(lambda: adamw(nn.ReLU(), OptimiserConfig()), "model=ReLU"),
    "target follows beyond": Bad(
        lambda: ema_update_(nn.Linear(2, 2), nn.Linear(2, 2), 1.5), "momentum=1.5"
    ),
    "target follows no number": Bad(
        lambda: ema_update_(nn.Linear(2, 2), nn.Linear(2, 2), float("nan")), "momentum=nan"
    ),
    "target of another shape": Bad(
        lambda: ema_update_(nn.Linear(2, 2), nn.Linear(2, 3), 0.5), r"online.*\(3, 2\)"
    ),
}
