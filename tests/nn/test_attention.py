"""Attention as products against torch's fused call."""

import pytest
import torch
import torch.nn.functional as F

from lzero.nn.attention import attend


@pytest.mark.parametrize("kind", ["none", "bool", "added"])
def test_it_is_torchs_attention(kind):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 2, 5, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(2, 3, 2, 7, 8, generator=generator, dtype=torch.float64)
    k.requires_grad_()
    v.requires_grad_()
    open_ = torch.rand(3, 1, 5, 7, generator=generator) < 0.6
    open_[..., 0] = True  # a row that attends to nothing has no attention
    mask = {
        "none": None,
        "bool": open_,
        "added": torch.zeros(open_.shape, dtype=torch.float64).masked_fill(~open_, -torch.inf),
    }[kind]
    ours = attend(q, k, v, mask)
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((theirs * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_dropped_weights_keep_the_mean():
    torch.manual_seed(0)
    q, k = torch.zeros(2, 1, 4000, 4)
    v = torch.ones(1, 4000, 4)
    y = attend(q[:, :100], k, v, None, dropout=0.5)
    assert y.mean() == pytest.approx(1.0, abs=0.01)
    assert y.std() > 0
