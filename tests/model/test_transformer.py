"""Attention sees what it should see, and nothing else."""

import torch

from lzero.config import ModelConfig
from lzero.model.unizero_world_models.transformer import Transformer
from lzero.nn.attention import rotary_table, rotate, windowed_causal_mask

DIM, LENGTH = 16, 12


def make_transformer(**config) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        ModelConfig.model_validate(
            {"embed_dim": DIM, "num_heads": 2, "num_layers": 1, "context_steps": 3} | config
        ),
        2,
        64,
    ).eval()


def test_mask_is_a_causal_window_with_registers():
    mask = windowed_causal_mask(7, 3, num_registers=2)
    for row in range(7):
        for column in range(7):
            assert mask[row, column] == (column <= row and (row - column < 3 or column < 2))


@torch.no_grad()
def test_a_token_depends_on_its_window_alone():
    transformer, x = make_transformer(), torch.randn(1, LENGTH, DIM)
    task_id = torch.zeros(1, LENGTH, dtype=torch.int64)
    base, _ = transformer(x, task_id)
    for changed in range(LENGTH):
        moved = x.clone()
        moved[0, changed] = torch.randn(DIM)
        differs = (transformer(moved, task_id)[0] - base).abs().amax(dim=-1)[0] > 1e-6
        assert differs.tolist() == [changed <= token < changed + 6 for token in range(LENGTH)]


@torch.no_grad()
def test_positions_are_relative():
    transformer, x = make_transformer(), torch.randn(1, LENGTH, DIM)
    task_id = torch.zeros(1, LENGTH, dtype=torch.int64)
    base, _ = transformer(x, task_id)
    shifted, _ = transformer(x, task_id, position=torch.arange(LENGTH)[None] + 37)
    torch.testing.assert_close(base, shifted, atol=1e-5, rtol=1e-5)
    stretched, _ = transformer(x, task_id, position=2 * torch.arange(LENGTH)[None])
    assert (base - stretched).abs().max() > 1e-3


def test_rotation_keeps_lengths_and_dtype():
    x = torch.randn(5, 3, 8)
    turned = rotate(x, rotary_table(5, 8)[:, None])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[0], x[0])
    assert rotate(x.bfloat16(), rotary_table(5, 8)[:, None]).dtype == torch.bfloat16
