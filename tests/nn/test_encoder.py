"""Encoders: shapes, norms, independence of rows, dropout only in training."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lzero.config import EncoderConfig
from lzero.nn.encoder import CHUNK, Encoder, EncoderKindError, LatentNorm, joined_windows

CASES = {
    "resnet": ({"kind": "resnet", "widths": (8, 16)}, (3, 64, 64)),
    "resnet, stem 2": ({"kind": "resnet", "widths": (8, 16), "stem_stride": 2}, (3, 64, 64)),
    "resnet on a grid": ({"kind": "resnet", "widths": (16,), "stem_stride": 1}, (7, 10, 10)),
    "nature": ({"kind": "nature", "widths": (8, 12, 16)}, (1, 64, 64)),
    "nature, 84": ({"kind": "nature", "widths": (8, 16, 8)}, (3, 84, 84)),
    "conv on a grid": ({"kind": "conv", "widths": (8, 12)}, (7, 10, 10)),
    "vit": ({"kind": "vit", "vit_width": 32, "vit_layers": 2, "vit_heads": 2}, (3, 64, 64)),
    "lightzero": ({"kind": "lightzero"}, (3, 64, 64)),
    "mlp on vectors": ({"kind": "mlp", "hidden": (16, 16)}, (5,)),
    "mlp on a grid": ({"kind": "mlp", "hidden": (16,)}, (4, 10, 10)),
}


def make_encoder(config, shape, norm="layer_norm") -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig.model_validate(config), shape, 24, num_tasks=2, latent_norm=norm)


@pytest.mark.parametrize(("config", "shape"), CASES.values(), ids=CASES)
@torch.no_grad()
def test_latents_are_normalised_and_independent_of_the_batch(config, shape):
    encoder = make_encoder(config, shape).eval()
    x = (
        torch.randint(0, 256, (6, *shape), dtype=torch.uint8)
        if len(shape) == 3
        else torch.randn(6, *shape)
    )
    task_id = torch.tensor([0, 1, 0, 1, 0, 1])
    latent = encoder(x, task_id)
    assert latent.shape == (6, 24) and latent.dtype == torch.float32
    torch.testing.assert_close(latent.mean(dim=1), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(latent.std(dim=1, correction=0), torch.ones(6), atol=1e-2, rtol=0)
    torch.testing.assert_close(encoder(x[2:4], task_id[2:4]), latent[2:4], atol=1e-4, rtol=1e-4)
    assert (latent[0] - latent[1]).abs().max() > 1e-3


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize(("config", "shape"), CASES.values(), ids=CASES)
def test_chunks_equal_the_whole(config, shape, gradients, monkeypatch):
    encoder = make_encoder({**config, "task_conditioned": True}, shape).eval()
    x = torch.randint(0, 256, (2 * CHUNK + 3, *shape), dtype=torch.uint8)
    task_id, weight = torch.randint(0, 2, (len(x),)), torch.randn(len(x), 24)

    def run(chunked: bool) -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
        monkeypatch.setattr("lzero.nn.encoder.LARGE_MAPS", 0 if chunked else 1e12)
        passes: list[int] = []
        hook = encoder.project.register_forward_hook(lambda *call: passes.append(len(call[2])))
        with torch.set_grad_enabled(gradients or not chunked):
            latent = encoder(x, task_id)
        hook.remove()
        if not gradients:
            return latent.detach(), [], passes
        return (
            latent,
            list(torch.autograd.grad((latent * weight).sum(), encoder.parameters())),
            passes,
        )

    whole, gradients_of_whole, passes = run(chunked=False)
    assert passes == [len(x)]
    chunks, gradients_of_chunks, passes = run(chunked=True)
    assert passes == [CHUNK, CHUNK, 3]
    torch.testing.assert_close(chunks, whole, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients_of_chunks, gradients_of_whole, strict=True):
        scale = theirs.abs().max()
        torch.testing.assert_close(ours / scale, theirs / scale, atol=1e-5, rtol=1e-4)


def test_only_large_maps_are_cut_with_gradients(monkeypatch):
    encoder, passes = make_encoder({"kind": "lightzero"}, (3, 64, 64)), []
    assert encoder.largest_map == 32 * 32 * 32
    encoder.project.register_forward_hook(lambda *call: passes.append(len(call[2])))
    frames, task_id = torch.zeros(CHUNK + 1, 3, 64, 64), torch.zeros(CHUNK + 1, dtype=torch.int64)
    encoder(frames, task_id)
    monkeypatch.setattr("lzero.nn.encoder.LARGE_MAPS", 4 * 32 * 32 * 32 * CHUNK)
    encoder(frames, task_id)
    assert passes == [CHUNK + 1, CHUNK, 1]


def test_looking_for_the_largest_map_draws_nothing():
    states = []
    for dropout in (0.0, 0.5):
        config = {"kind": "vit", "vit_width": 32, "vit_heads": 2, "dropout": dropout}
        encoder = make_encoder(config, (3, 64, 64))
        assert all(module.training for module in encoder.modules())
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@torch.no_grad()
def test_channels_last_view_gives_the_same_latent():
    encoder = make_encoder({"kind": "resnet", "widths": (8, 16)}, (3, 64, 64)).eval()
    stored = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    view, task_id = stored.permute(0, 3, 1, 2), torch.zeros(4, dtype=torch.int64)
    torch.testing.assert_close(
        encoder(view, task_id), encoder(view.contiguous(), task_id), atol=1e-5, rtol=1e-5
    )


def test_windows_are_joined_in_the_order_of_memory():
    stored = torch.randint(0, 256, (3, 6, 8, 8, 2), dtype=torch.uint8)
    windows = stored.movedim(-1, 2)[:, :4]
    joined = joined_windows(windows)
    torch.testing.assert_close(joined, windows.flatten(0, 1))
    assert joined.is_contiguous(memory_format=torch.channels_last)
    assert (
        joined_windows(stored.movedim(-1, 2)).data_ptr() == stored.data_ptr()
    )  # whole windows: a view
    vectors = torch.randn(3, 6, 5)
    torch.testing.assert_close(joined_windows(vectors), vectors.reshape(18, 5))


def test_sizes_that_do_not_fit_nature_are_refused():
    with pytest.raises(ValueError, match="at least 36x36"):
        make_encoder({"kind": "nature", "widths": (8, 8, 8)}, (3, 35, 64))
    with pytest.raises(ValueError, match="three layers"):
        make_encoder({"kind": "nature", "widths": (8, 8)}, (3, 64, 64))
    assert make_encoder({"kind": "nature", "widths": (8, 8, 8)}, (3, 36, 36)) is not None


def test_lightzero_encoder_does_the_work_of_lightzeros():
    """145 MFLOP a frame, with 256 outputs of the last map."""
    encoder, frame = make_encoder({"kind": "lightzero"}, (3, 64, 64)), torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.trunk(frame)
    assert encoder.trunk.out_features == 4096
    assert counter.get_total_flops() / 1e6 == pytest.approx(145 - 2 * 4096 * 256 / 1e6, abs=1)
    with pytest.raises(ValueError, match="use encoder.kind='resnet'"):
        make_encoder({"kind": "lightzero"}, (3, 60, 60))


def test_task_conditioning_uses_the_task():
    encoder = make_encoder({"kind": "mlp", "hidden": (16,), "task_conditioned": True}, (5,)).eval()
    x = torch.randn(1, 5).expand(2, -1)
    latent = encoder(x, torch.tensor([0, 1]))
    assert (latent[0] - latent[1]).abs().max() > 1e-3


def test_dropout_in_training_only():
    encoder = make_encoder(
        {"kind": "vit", "vit_width": 32, "vit_layers": 2, "vit_heads": 2, "dropout": 0.5},
        (3, 16, 16),
    )
    x, task_id = torch.rand(2, 3, 16, 16), torch.zeros(2, dtype=torch.int64)
    assert not torch.equal(encoder.train()(x, task_id), encoder(x, task_id))
    assert torch.equal(encoder.eval()(x, task_id), encoder(x, task_id))


def test_sim_norm_makes_groups_of_probabilities():
    y = LatentNorm("sim_norm")(torch.randn(3, 24))
    torch.testing.assert_close(y.unflatten(-1, (3, 8)).sum(dim=-1), torch.ones(3, 3))


def test_image_encoder_refuses_vectors():
    with pytest.raises(ValueError, match="use encoder.kind='mlp'"):
        make_encoder({"kind": "resnet"}, (5,))
    with pytest.raises(ValueError, match="patch_size=8 does not divide"):
        make_encoder({"kind": "vit"}, (3, 30, 30))


def test_auto_takes_the_trunk_that_fits():
    kinds = []
    for shape in ((5,), (7, 10, 10), (3, 32, 32)):
        trunk = make_encoder({"kind": "auto", "widths": (8, 16)}, shape).trunk
        kinds.append(type(trunk).__name__)
    assert kinds == ["MLPTrunk", "ConvTrunk", "ResNetTrunk"]
    with pytest.raises(EncoderKindError, match="use encoder.kind='mlp' or 'auto'"):
        make_encoder({"kind": "resnet", "widths": (8, 16)}, (5,))
