import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lzero.nn.scalars import ScalarSupport, inverse_scalar_transform, scalar_transform


def reference_transform(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.001 * x


@pytest.fixture
def scalars() -> torch.Tensor:
    magnitudes = torch.logspace(-6, math.log10(3e5), 400)
    return torch.cat((-magnitudes.flip(0), torch.zeros(1), magnitudes))


def test_transform_matches_float64(scalars):
    reference = reference_transform(scalars.double().numpy())
    np.testing.assert_allclose(scalar_transform(scalars).numpy(), reference, rtol=1e-6, atol=0)


def test_inverse_undoes_the_transform_in_fp32(scalars):
    np.testing.assert_allclose(
        inverse_scalar_transform(scalar_transform(scalars)), scalars, rtol=1e-5, atol=0
    )


def test_inverse_matches_float64(scalars):
    transformed = torch.from_numpy(reference_transform(scalars.double().numpy())).float()
    np.testing.assert_allclose(inverse_scalar_transform(transformed), scalars, rtol=1e-5, atol=0)


def test_transform_is_odd_and_increasing(scalars):
    y = scalar_transform(scalars)
    assert (y.diff() > 0).all()
    assert torch.equal(y, -scalar_transform(-scalars))


@pytest.mark.parametrize(
    "support", [ScalarSupport(), ScalarSupport(33, -8.0, 20.0), ScalarSupport(2, 0.0, 1.0)]
)
def test_two_hot_is_a_distribution_whose_expectation_is_the_scalar(support):
    low, high = inverse_scalar_transform(torch.tensor([support.low, support.high])).tolist()
    x = torch.linspace(low, high, 501)
    hot = support.two_hot(x)
    assert hot.shape == (501, support.num_bins)
    assert (hot >= 0).all()
    torch.testing.assert_close(hot.sum(-1), torch.ones(501))
    assert ((hot > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(support.expectation(hot.log()), x, rtol=1e-4, atol=1e-4)


def test_scalars_beyond_the_support_fall_on_the_outermost_bins():
    support = ScalarSupport(11, -5.0, 5.0)
    hot = support.two_hot(torch.tensor([-1e6, 1e6, 3e38]))
    assert torch.equal(hot, F.one_hot(torch.tensor([0, 10, 10]), 11).float())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_equals_the_one_with_explicit_targets(label_smoothing, dtype):
    support = ScalarSupport(21, -10.0, 10.0, label_smoothing)
    generator = torch.Generator().manual_seed(0)
    x = 40 * torch.randn(6, 7, generator=generator)
    logits = (3 * torch.randn(6, 7, 21, generator=generator)).to(dtype)

    ours, reference = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = support.cross_entropy(ours, x)
    expected = -(support.two_hot(x) * reference.float().log_softmax(-1)).sum(-1)
    assert loss.dtype == torch.float32 and loss.shape == (6, 7)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)

    loss.mean().backward()
    expected.mean().backward()
    torch.testing.assert_close(
        ours.grad, reference.grad, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-7
    )


def test_label_smoothing_keeps_a_distribution_and_lifts_every_bin():
    hot = ScalarSupport(10, -5.0, 5.0, label_smoothing=0.2).two_hot(torch.tensor([0.3, 4.0]))
    torch.testing.assert_close(hot.sum(-1), torch.ones(2))
    torch.testing.assert_close(hot.min(), torch.tensor(0.02))


def test_results_stay_fp32_under_autocast():
    support = ScalarSupport()
    x = torch.tensor([-123.4, 0.7, 345.6])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = support.expectation(support.two_hot(x).log())
        loss = support.cross_entropy(torch.zeros(3, 101, dtype=torch.bfloat16), x)
    torch.testing.assert_close(value, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, torch.full((3,), math.log(101)))


def test_scalars_at_the_limit_and_beyond_saturate():
    support = ScalarSupport()
    assert support.largest == pytest.approx(2364, abs=1)
    x = torch.tensor([2200.0, 2330.0, 1e9, -2200.0, -2400.0, 0.0])
    assert support.saturates(x).tolist() == [False, True, True, False, True, False]
    # what bootstraps from the largest value, five steps ahead
    assert support.saturates(torch.tensor([0.997**5 * support.largest])).all()


def test_nan_target_shows_as_nan_loss():
    loss = ScalarSupport().cross_entropy(torch.zeros(2, 101), torch.tensor([float("nan"), 1.0]))
    assert loss.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"num_bins": 1}, "num_bins"),
        ({"low": 3.0, "high": 3.0}, "low"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_impossible_supports_are_refused(arguments, field):
    with pytest.raises(ValueError, match=field):
        ScalarSupport(**arguments)
