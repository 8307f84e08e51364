"""A dense block with SwiGLU is the twin of the mixture: the same layer, as wide, and nothing that chooses."""

import pytest
import torch

from lzero.config import ModelConfig
from lzero.nn.attention import rotary_table, windowed_causal_mask
from lzero.nn.block import Block
from lzero.nn.feed_forward import DenseMLP, DenseSwiGLU, FeedForward, feed_forward
from lzero.nn.moe import MoELayer

DIM = 24  # where 8D/3 is a width, whatever it is rounded to
NUM_TASKS = 3
DENSE = {"mlp_kind": "swiglu", "moe": {"enabled": False}}
ONE_WIDE_EXPERT = {"moe": {"num_experts": 0, "hidden_ratio": 8 / 3}}


def make_config(embed_dim: int = DIM, **changes) -> ModelConfig:
    return ModelConfig.model_validate({"embed_dim": embed_dim, "num_heads": 2} | changes)


def make(embed_dim: int = DIM, **changes) -> FeedForward:
    torch.manual_seed(0)
    return feed_forward(make_config(embed_dim, **changes), NUM_TASKS)


def copy_expert(dense: DenseSwiGLU, layer: MoELayer) -> None:
    layer.shared_experts[0].load_state_dict(dense.expert.state_dict())


def test_blocks_have_gelu_unless_they_are_asked_for_another():
    assert ModelConfig().mlp_kind == "gelu"
    assert type(make(moe={"enabled": False})) is DenseMLP
    assert type(make(**DENSE)) is DenseSwiGLU
    assert type(make(mlp_kind="swiglu")) is MoELayer, "without effect in a mixture"


@pytest.mark.parametrize("changes", [{}, DENSE, {"moe": {"top_k": 8}}], ids=str)
@pytest.mark.parametrize("dim", [32, 128, 256])
def test_no_kind_begins_louder_than_the_plain_one(dim, changes):
    """Of normalised tokens; experts that were four times as loud drowned what attention adds, and agents learned late."""
    x, task_id = torch.randn(400, dim), torch.zeros(400, dtype=torch.int64)
    plain = make(dim, moe={"enabled": False})(x, task_id)[0].square().mean()
    assert make(dim, **changes)(x, task_id)[0].square().mean() <= plain


@pytest.mark.parametrize("dim", [4, 8, 16, 20, 24, 52, 64, 96, 128, 256, 512, 768])
def test_a_token_passes_as_many_weights_as_in_the_mixture(dim):
    """In one of 8 routed experts and the shared one, exactly, at every width; with GELU but for the rounding of widths."""
    dense, mixture, gelu = make(dim, **DENSE), make(dim), make(dim, moe={"enabled": False})
    active = sum(parameter.numel() for parameter in dense.parameters())
    assert active == dense.work_of_token() == mixture.work_of_token()
    most = 3 * dim * 8  # a width is rounded by 8 at most, up to 16 by more
    assert abs(active - gelu.work_of_token()) <= most or dense.expert.w_out.shape[0] == 16


@pytest.mark.parametrize("ratio", [0.1, 1.0, 2.0, 4.0, 8.0])
def test_its_width_follows_the_ratio(ratio):
    hidden = make(mlp_ratio=ratio, **DENSE).expert.w_out.shape[0]
    assert hidden % 16 == 0 and hidden >= 16
    assert abs(hidden - ratio * DIM * 2 / 3) <= 8 or hidden == 16


def test_it_is_a_mixture_of_one_wide_shared_expert():
    """Output and gradients, in double precision."""
    dense, layer = make(**DENSE).double(), make(**ONE_WIDE_EXPERT).double()
    copy_expert(dense, layer)
    x, task_id = torch.randn(5, 7, DIM).double(), torch.randint(NUM_TASKS, (5, 7))
    direction = torch.randn(5, 7, DIM).double()
    found = []
    for module in (dense, layer):
        leaf = x.clone().requires_grad_()
        y, balance = module(leaf, task_id)
        assert balance is None and y.shape == x.shape
        gradients = torch.autograd.grad((y * direction).sum(), [leaf, *module.parameters()])
        found.append([y, *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_gradients_are_those_of_differences():
    dense = make(8, mlp_ratio=3.0, **DENSE).double()
    task_id = torch.zeros(3, dtype=torch.int64)

    def run(x, w_in, w_out):
        weights = {"expert.w_in": w_in, "expert.w_out": w_out}
        return torch.func.functional_call(dense, weights, (x, task_id))[0]

    leaves = [torch.randn(3, 8).double(), dense.expert.w_in, dense.expert.w_out]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(run, leaves)


@torch.no_grad()
def test_it_is_the_sum_of_a_shared_and_a_chosen_expert_side_by_side():
    """With the choice made by hand and its gate 1, the mixture computes what its twin computes."""
    layer = make(moe={"routing": "hardcoded", "num_experts": NUM_TASKS}).double()
    dense, shared = make(**DENSE).double(), layer.shared_experts[0]
    x = torch.randn(9, DIM).double()
    for task in range(NUM_TASKS):
        pairs = list(
            zip(shared.w_in.chunk(2, dim=1), layer.experts.w_in[task].chunk(2, dim=1), strict=True)
        )
        halves = [torch.cat(pair, dim=1) for pair in pairs]  # all that is gated, then all gates
        dense.expert.w_in.copy_(torch.cat(halves, dim=1))
        dense.expert.w_out.copy_(torch.cat([shared.w_out, layer.experts.w_out[task]]))
        task_id = torch.full((9,), task)
        expected = layer(x, task_id)[0]
        torch.testing.assert_close(dense(x, task_id)[0], expected, atol=1e-12, rtol=1e-12)


def test_whole_blocks_agree():
    """What surrounds the feed-forward is the same: a block with one wide shared expert computes what its twin does."""
    blocks = []
    for changes in (DENSE, ONE_WIDE_EXPERT):
        torch.manual_seed(0)
        blocks.append(Block(make_config(**changes), NUM_TASKS))
    dense, mixture = blocks
    copy_expert(dense.feed_forward, mixture.feed_forward)
    mixture.attention.load_state_dict(dense.attention.state_dict())
    x, task_id = torch.randn(2, 6, DIM), torch.randint(NUM_TASKS, (2, 6))
    rotation, mask = rotary_table(6, DIM // 2), windowed_causal_mask(6, 4)
    outputs = [block(x, rotation, mask, task_id)[0] for block in blocks]
    torch.testing.assert_close(*outputs)
    assert (outputs[0] - x).abs().max() > 0.1


def test_its_activations_are_its_hidden_units():
    dense = make(**DENSE)
    x = torch.randn(3, 5, DIM)
    hidden = dense.activations(x)
    assert hidden.shape == (3, 5, dense.expert.w_out.shape[0])
    torch.testing.assert_close(hidden @ dense.expert.w_out, dense(x, None)[0])
