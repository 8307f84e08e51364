"""Actor-critics of every architecture and routing: shapes, gradients, where mixtures are, sizes, what analysis sees."""

import math

import pytest
import torch

from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.analysis.plasticity import measure_plasticity
from lzero.analysis.points import expert_points
from lzero.config_mixture import ActorCriticConfig
from lzero.distributed import Distributed
from lzero.model.actor_critic import ActorCritic, parameter_count
from lzero.nn.parameters import parameter_groups

IMAGE, VECTOR = (4, 7, 7), (9,)
ACTIONS, TASKS, ROWS = 5, 3, 9
TASK_ID = torch.arange(ROWS) % TASKS
ARCHITECTURES = ("baseline", "middle", "final", "all", "big")
ROUTINGS = ("topk", "softmoe", "hardcoded", "expert_choice", "adaptive")
SMALL = {"mlp_hidden": (12, 8), "conv_channels": (3,), "conv_hidden": (8,)}


def make(shape=VECTOR, mixture=None, **settings) -> ActorCritic:
    torch.manual_seed(0)
    config = ActorCriticConfig(**(SMALL | settings), mixture=mixture or {})
    return ActorCritic(config, shape, ACTIONS, TASKS)


def observations(shape=VECTOR) -> torch.Tensor:
    torch.manual_seed(3)
    if shape == IMAGE:
        return 255 * torch.randint(0, 2, (ROWS, *shape), dtype=torch.uint8)
    return torch.randn(ROWS, *shape)


@pytest.mark.parametrize("stem", ["image mlp", "image conv", "vector mlp"])
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_learns(architecture, routing, stem):
    shape = IMAGE if "image" in stem else VECTOR
    is_cut = stem == "image conv" and architecture in ("middle", "all")
    mixture = {"routing": routing, "tokens": "PerConv" if is_cut else "PerSamp"}
    if routing != "hardcoded":
        mixture |= {"entropy_weight": 0.1, "router_task_id": True}
    model = make(shape, mixture, stem=stem.split()[1], architecture=architecture)
    logits, value, sums = model(observations(shape), TASK_ID)
    assert logits.shape == (ROWS, ACTIONS) and value.shape == (ROWS,)
    assert set(sums) == set(model.mixtures())
    loss = logits.log_softmax(1)[:, 0].sum() + value.square().sum() + model.mixture_loss(sums)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for name, one in model.mixtures().items():
        if one.router is not None:
            first = next(one.router.parameters())
            assert first.grad.any(), name


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("baseline", set()),
        ("middle", {"dense_1"}),
        ("final", {"final"}),
        ("all", {"dense_0", "dense_1", "final"}),
        ("big", {"big"}),
    ],
)
def test_mixtures_are_where_the_config_says(architecture, layers):
    for where, networks in (
        ("actor", ["actor"]),
        ("critic", ["critic"]),
        ("both", ["actor", "critic"]),
    ):
        model = make(architecture=architecture, where=where)
        assert set(model.mixtures()) == {f"{one}/{layer}" for one in networks for layer in layers}
    model = make(architecture=architecture, share_trunk=True)
    assert set(model.mixtures()) == {f"shared/{layer}" for layer in layers}
    assert model.networks.keys() == {"shared"}


def test_a_convolution_is_a_mixture_where_every_layer_is():
    model = make(IMAGE, stem="conv", architecture="all", where="actor")
    assert set(model.mixtures()) == {"actor/conv_0", "actor/dense_0", "actor/final"}


def test_a_network_begins_with_a_nearly_uniform_policy_and_values_of_size_one():
    for architecture in ("baseline", "big"):
        model = make(
            architecture=architecture, share_trunk=True, mixture={"routing": "topk", "top_k": 3}
        )
        layer = model.networks["shared"].layers
        weight = (
            layer["final"].weight.t()
            if architecture == "baseline"
            else layer["big"].experts.readout.weight[0]
        )
        norms = weight.norm(dim=0)
        torch.testing.assert_close(norms[:ACTIONS], torch.full((ACTIONS,), 0.01))
        torch.testing.assert_close(norms[ACTIONS], torch.tensor(1.0))


def test_one_expert_everywhere_is_the_baseline():
    """The same numbers in both: a mixture of one adds nothing."""
    baseline = make(IMAGE, stem="conv")
    for architecture in ("middle", "final", "all", "big"):
        mixed = make(
            IMAGE,
            {"num_experts": 1, "routing": "topk"},
            stem="conv",
            architecture=architecture,
        )
        with torch.no_grad():
            for mine, theirs in zip(mixed.parameters(), baseline.parameters(), strict=True):
                transposed = theirs.t() if theirs.ndim == 2 and mine.ndim == 3 else theirs
                mine.copy_(transposed.reshape(mine.shape))
        for got, expected in zip(
            mixed(observations(IMAGE), TASK_ID)[:2],
            baseline(observations(IMAGE), TASK_ID)[:2],
            strict=True,
        ):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("routing", ["softmoe", "topk"])
@pytest.mark.parametrize(
    ("stem", "architecture", "tokens"),
    [
        ("mlp", "middle", "PerSamp"),
        ("mlp", "all", "PerSamp"),
        ("mlp", "big", "PerSamp"),
        ("conv", "middle", "PerSamp"),
        ("conv", "middle", "PerConv"),
        ("conv", "middle", "PerFeat"),
        ("conv", "all", "PerConv"),
        ("conv", "big", "PerSamp"),
    ],
)
def test_the_wide_control_has_as_many_parameters_as_the_mixture(
    stem, architecture, tokens, routing
):
    counts = []
    for wide in (False, True):
        config = ActorCriticConfig(
            stem=stem,
            architecture=architecture,
            mixture={"tokens": tokens, "wide": wide, "routing": routing},
        )
        model = ActorCritic(config, (4, 10, 10), 6, 3)
        for mixture in model.mixtures().values():
            assert mixture.num_experts == (1 if wide else 3)
        counts.append(parameter_count(model))
        assert not any(parameter.is_meta for parameter in model.parameters())
    assert counts[1] == pytest.approx(counts[0], rel=0.05)


def test_parameters_are_those_of_the_layers():
    config = ActorCriticConfig(stem="conv")
    model = ActorCritic(config, (4, 10, 10), 6, 3)
    trunk = 16 * (4 * 9 + 1) + 128 * (16 * 64 + 1)
    assert parameter_count(model) == 2 * trunk + (128 + 1) * 6 + (128 + 1)
    shared = ActorCritic(config.model_copy(update={"share_trunk": True}), (4, 10, 10), 6, 3)
    assert parameter_count(shared) == trunk + (128 + 1) * 7
    settings = {"architecture": "big", "mixture": {"routing": "hardcoded"}}
    big = ActorCritic(ActorCriticConfig(stem="conv", **settings), (4, 10, 10), 6, 3)
    assert parameter_count(big) == 3 * parameter_count(model)


@pytest.mark.parametrize("stem", ["mlp", "conv"])
def test_the_task_is_seen_only_where_that_is_asked_for(stem):
    x = observations(IMAGE)
    blind = make(IMAGE, stem=stem)
    assert torch.equal(blind(x, TASK_ID)[0], blind(x, 2 - TASK_ID)[0])
    seeing = make(IMAGE, stem=stem, task_input=True)
    assert not torch.allclose(seeing(x, TASK_ID)[0], seeing(x, 2 - TASK_ID)[0])


def test_bytes_and_floats_are_the_same_observation():
    model, x = make(IMAGE, stem="conv"), observations(IMAGE)
    torch.testing.assert_close(model(x, TASK_ID)[0], model(x.float() / 255, TASK_ID)[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("routing", [one for one in ROUTINGS if one != "expert_choice"])
def test_rows_do_not_depend_on_each_other(routing, architecture):
    model = make(architecture=architecture, mixture={"routing": routing}).eval()
    x, some = observations(), torch.tensor([5, 2])
    whole, part = model(x, TASK_ID), model(x[some], TASK_ID[some])
    torch.testing.assert_close(part[0], whole[0][some])
    torch.testing.assert_close(part[1], whole[1][some])


@pytest.mark.parametrize("routing", ["softmoe", "topk"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_are_what_the_output_layer_sees(architecture, routing):
    model = make(architecture=architecture, mixture={"routing": routing}).eval()
    features = model.features(observations(), TASK_ID)
    assert {name: tuple(rows.shape) for name, rows in features.items()} == {
        "actor": (ROWS, 8),
        "critic": (ROWS, 8),
    }
    if architecture in ("baseline", "middle"):
        logits = model.networks["actor"].layers["final"](features["actor"])
        torch.testing.assert_close(logits, model(observations(), TASK_ID)[0])
    if architecture == "big" and routing == "softmoe":  # weights add up to 1: reading commutes
        readout = model.networks["critic"].layers["big"].experts.readout
        readout.weight.data[:] = readout.weight.data[:1]
        value = features["critic"] @ readout.weight[0]
        torch.testing.assert_close(value[:, 0], model(observations(), TASK_ID)[1])


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plasticity_sees_the_units_of_every_expert(architecture, routing):
    model = make(
        IMAGE, stem="conv", architecture=architecture, where="actor", mixture={"routing": routing}
    )
    if architecture == "big":  # an expert of which half the hidden units are dead
        model.mixtures()["actor/big"].experts.layers[1].bias.data[1, :, :4] = -1e6
    metrics = measure_plasticity(
        model, model.unit_groups(), (observations(IMAGE), TASK_ID), Distributed()
    )
    dormant = {name for name in metrics if name.startswith("plasticity/dormant_ratio/")}
    prefix = "plasticity/dormant_ratio/actor"
    expected = {
        "baseline": {f"{prefix}/conv_0", f"{prefix}/dense_0"},
        "middle": {f"{prefix}/conv_0", f"{prefix}/dense_0/routed"},
        "final": {f"{prefix}/conv_0", f"{prefix}/dense_0"},
        "all": {f"{prefix}/conv_0/routed", f"{prefix}/dense_0/routed"},
        "big": {f"{prefix}/big/layer0/routed", f"{prefix}/big/layer1/routed"},
    }[architecture]
    assert expected <= dormant
    if architecture == "big" and f"{prefix}/big/layer1/expert_1" in metrics:
        assert metrics[f"{prefix}/big/layer1/expert_1"] >= 0.5
    has_router = architecture not in ("baseline", "final") and routing != "hardcoded"
    entropies = [name for name in metrics if name.startswith("plasticity/router_entropy/")]
    assert bool(entropies) == has_router
    for name in entropies:
        assert 0 <= metrics[name] <= math.log(3) + 1e-6
    assert not any(mixture.selection_counts.any() for mixture in model.mixtures().values())


def test_experts_are_measuring_points_and_are_counted():
    model = make(architecture="all", mixture={"routing": "topk"})
    layers = dict(enumerate(model.mixtures().values()))
    recorder = ExpertSelectionRecorder(layers)
    model(observations(), TASK_ID)
    recorder.record()
    for layer in recorder.statistics.values():
        assert layer.selection().counts[0].sum(axis=1).tolist() == [3, 3, 3]
    points = expert_points(model.mixtures()["actor/final"])
    assert list(points) == ["expert_0", "expert_1", "expert_2", "router"]


def test_weight_decay_reaches_the_matrices_of_all_experts():
    model = make(IMAGE, stem="conv", architecture="big", share_trunk=True)
    decayed, rest = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {names[id(one)].rpartition(".")[2] for one in decayed["params"]}
    assert decayed_names == {"weight", "slots"}
    assert {names[id(one)].rpartition(".")[2] for one in rest["params"]} == {"bias", "scale"}


def test_progress_reaches_every_router():
    model = make(
        architecture="all", mixture={"routing": "adaptive", "temperature_end": 0.1, "top_k": 1}
    )
    model.set_progress(1.0)
    for mixture in model.mixtures().values():
        assert mixture.is_hard and mixture.temperature == pytest.approx(0.1)


def test_the_vector_about_the_gradient_reaches_the_routers():
    model = make(architecture="middle", mixture={"router_gradient": True, "gradient_features": 4})
    x = observations()
    one, other = (model(x, TASK_ID, extra)[1] for extra in (torch.ones(4), -torch.ones(4)))
    assert not torch.allclose(one, other)
    with pytest.raises(ValueError, match="router_gradient=False"):
        make(architecture="middle")(x, TASK_ID, torch.ones(4))


def test_what_cannot_be_is_refused():
    x = observations()
    with pytest.raises(ValueError, match=r"stem='conv'.*\(9,\).*stem='mlp'"):
        make(stem="conv")
    with pytest.raises(ValueError, match=r"in_shape=\(4, 2, 2\).*3x3"):
        make((4, 2, 2), stem="conv")
    with pytest.raises(ValueError, match="num_actions=0"):
        ActorCritic(ActorCriticConfig(), VECTOR, 0, TASKS)
    with pytest.raises(ValueError, match="num_tasks=0"):
        ActorCritic(ActorCriticConfig(), VECTOR, ACTIONS, 0)
    with pytest.raises(ValueError, match=r"observation.*\(9, 4\)"):
        make()(x[:, :4], TASK_ID)
    with pytest.raises(ValueError, match=r"task_id.*\(2,\)"):
        make()(x, TASK_ID[:2])
    with pytest.raises(TypeError, match="task_id.*float32"):
        make()(x, TASK_ID.float())
    with pytest.raises(TypeError, match="observation.*int64"):
        make()(x.long(), TASK_ID)
    with pytest.raises(TypeError, match="observation.*ndarray"):
        make()(x.numpy(), TASK_ID)
