"""Every routing of the mixture does what it says, counts what it chose, and lets gradients through where they belong."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch._subclasses.fake_tensor import FakeTensorMode

from lzero.analysis.expert_recorder import ExpertSelectionRecorder
from lzero.config_mixture import ActorCriticConfig, MixtureConfig
from lzero.nn.mixture import Mixture, MixtureSums, parseval_penalty, token_shape
from lzero.nn.moe import hardcoded_experts
from lzero.nn.stacked import StackedNetwork

WIDTH, OUT, TASKS, ROWS = 6, 5, 3, 12
MAPS = (4, 3, 3)
ROUTINGS = ("topk", "softmoe", "hardcoded", "expert_choice", "adaptive")
TOKENS = ("PerConv", "PerFeat", "PerSamp")
TASK_ID = torch.arange(ROWS) % TASKS


def make(in_shape: tuple[int, ...] = (WIDTH,), *, seed: int = 0, **settings) -> Mixture:
    torch.manual_seed(seed)
    config = MixtureConfig(**settings)
    _, token = token_shape(in_shape, config, takes_maps=False)
    num_experts = 1 if config.wide else config.num_experts
    experts = StackedNetwork(token, num_experts, hidden=(OUT,), activation="tanh")
    return Mixture(config, experts, in_shape, TASKS)


def samples(in_shape: tuple[int, ...] = (WIDTH,), rows: int = ROWS) -> torch.Tensor:
    torch.manual_seed(7)
    return torch.randn(rows, *in_shape)


def one_expert(mixture: Mixture, expert: int, x: torch.Tensor) -> torch.Tensor:
    layer = mixture.experts.layers[0]
    return torch.tanh(x @ layer.weight[expert] + layer.bias[expert, 0])


def soft_mixture(mixture: Mixture, x: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    terms = [scores[:, e, None] * one_expert(mixture, e, x) for e in range(mixture.num_experts)]
    return torch.stack(terms).sum(dim=0)


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("penalised", [False, True])  # all experts on all tokens, or padded rows
def test_topk_equals_a_loop_over_tokens_with_gradients(top_k, penalised):
    mixture = make(routing="topk", top_k=top_k, parseval_weight=float(penalised)).double()
    x = samples().double().requires_grad_()
    rows = []
    for token in x:
        scores = (mixture.router.weight @ token).softmax(dim=0)
        gates, chosen = scores.topk(top_k)
        terms = []
        for gate, expert in zip(gates, chosen.tolist(), strict=True):
            terms.append(gate * one_expert(mixture, expert, token))
        rows.append(sum(terms))
    expected, (y, _) = torch.stack(rows), mixture(x, TASK_ID)
    torch.testing.assert_close(y, expected)
    leaves = [x, *mixture.parameters()]
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for got, want in zip(torch.autograd.grad(y.square().sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_one_expert_is_the_dense_layer(routing):
    mixture, x = make(routing=routing, num_experts=1), samples()
    torch.testing.assert_close(mixture(x, TASK_ID)[0], one_expert(mixture, 0, x))


def test_a_softmoe_without_tokens_is_a_soft_mixture():
    mixture, x = make(routing="softmoe"), samples()
    weights = mixture.router(x[:, None])
    expected = soft_mixture(mixture, x, weights.log_experts[:, 0].exp())
    torch.testing.assert_close(mixture(x, TASK_ID)[0], expected)


@pytest.mark.parametrize("in_shape", [(WIDTH,), MAPS])
def test_hardcoded_experts_of_other_tasks_get_no_gradient_at_all(in_shape):
    for num_experts in (TASKS, 2 * TASKS):
        mixture = make(in_shape, routing="hardcoded", num_experts=num_experts, tokens="PerConv")
        owners = hardcoded_experts(TASKS, mixture.config)
        for task in range(TASKS):
            mixture.zero_grad()
            y, _ = mixture(samples(in_shape), TASK_ID)
            y[TASK_ID == task].square().sum().backward()
            for parameter in mixture.experts.parameters():
                touched = parameter.grad.flatten(1).any(dim=1).nonzero().flatten()
                assert touched.tolist() == owners[task].tolist()


@pytest.mark.parametrize("top_k", [1, 2])
def test_experts_that_choose_are_equally_full(top_k):
    mixture, x = make(routing="expert_choice", top_k=top_k), samples()
    routing = mixture.route(x, TASK_ID)
    scores = mixture.router.logits(x).softmax(dim=-1)
    assert routing.tokens.shape == (3, ROWS * top_k // 3)
    for expert in range(3):
        best = scores[:, expert].topk(ROWS * top_k // 3).indices
        assert set(routing.tokens[expert].tolist()) == set(best.tolist())
    y, _ = mixture(x, TASK_ID)
    assert (mixture.selection_counts.sum(dim=0) == ROWS * top_k // 3).all()
    torch.testing.assert_close(y, soft_mixture(mixture, x, routing.weights))
    nobody = (routing.weights == 0).all(dim=1)
    assert not y[nobody].any()


def test_adaptive_is_soft_at_first_and_topk_in_the_end():
    mixture, x = make(routing="adaptive", temperature_end=0.25, anneal_share=0.8), samples()
    logits = mixture.router.logits(x)
    y, _ = mixture(x, TASK_ID)
    torch.testing.assert_close(y, soft_mixture(mixture, x, logits.softmax(dim=-1)))

    mixture.set_progress(0.4)  # half way: the geometric mean of both temperatures, still soft
    y, _ = mixture(x, TASK_ID)
    torch.testing.assert_close(y, soft_mixture(mixture, x, (logits / 0.5).softmax(dim=-1)))

    for progress in (0.8, 1.0):
        mixture.set_progress(progress)
        hard = make(routing="topk")
        hard.load_state_dict(mixture.state_dict(), strict=False)
        hard.router.weight.data /= 0.25
        torch.testing.assert_close(mixture(x, TASK_ID)[0], hard(x, TASK_ID)[0])
    loaded = make(routing="adaptive", seed=1)
    loaded.load_state_dict(mixture.state_dict())
    torch.testing.assert_close(loaded(x, TASK_ID)[0], mixture(x, TASK_ID)[0])


def test_the_step_from_soft_to_topk_is_small_where_the_temperature_is_low():
    mixture, x = make(routing="adaptive", temperature_end=1e-3), samples()
    mixture.set_progress(1.0)
    hard, _ = mixture(x, TASK_ID)
    mixture.is_hard.fill_(False)
    torch.testing.assert_close(mixture(x, TASK_ID)[0], hard)


@pytest.mark.parametrize("merge", ["concat", "mean"])
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_shapes_gradients_and_sums(routing, tokens, merge):
    sees = routing != "hardcoded"
    mixture = make(
        MAPS,
        routing=routing,
        tokens=tokens,
        merge=merge,
        router_task_id=sees,
        router_gradient=sees,
        parseval_weight=0.1,
        entropy_weight=0.1 if sees else 0.0,
    )
    x = samples(MAPS).requires_grad_()
    y, sums = mixture(x, TASK_ID, torch.randn(8) if sees else None)
    assert y.shape == (ROWS, *mixture.out_shape)
    (y.square().sum() + sums.loss(mixture.config)).backward()
    for tensor in (x, *mixture.experts.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.any()
    if sees:
        weight = mixture.router.slots if routing == "softmoe" else mixture.router.weight
        assert weight.grad.isfinite().all() and weight.grad.abs().max() > 1e-6
    num_tokens = {"PerConv": 9, "PerFeat": 4, "PerSamp": 1}[tokens]
    assert sums.tokens.tolist() == [num_tokens * ROWS // TASKS] * TASKS
    torch.testing.assert_close(sums.scores.sum(dim=1), sums.tokens)
    assert mixture.features(x, TASK_ID).shape == y.shape


@pytest.mark.parametrize("routing", [one for one in ROUTINGS if one != "expert_choice"])
@pytest.mark.parametrize("tokens", TOKENS)
def test_rows_do_not_depend_on_each_other(routing, tokens):
    """Not so where experts choose: their choice is among all rows."""
    mixture, x = make(MAPS, routing=routing, tokens=tokens).eval(), samples(MAPS)
    whole, _ = mixture(x, TASK_ID)
    some = torch.tensor([7, 1])
    torch.testing.assert_close(mixture(x[some], TASK_ID[some])[0], whole[some])


def test_rows_do_depend_on_each_other_where_experts_choose():
    mixture, x = make(routing="expert_choice").eval(), samples()
    assert not torch.allclose(mixture(x[:2], TASK_ID[:2])[0], mixture(x, TASK_ID)[0][:2])


@pytest.mark.parametrize("routing", [one for one in ROUTINGS if one != "hardcoded"])
def test_the_router_sees_task_and_gradient(routing):
    mixture, x = make(MAPS, routing=routing, router_task_id=True).eval(), samples(MAPS)
    assert not torch.allclose(mixture(x, TASK_ID)[0], mixture(x, 2 - TASK_ID)[0])
    mixture = make(MAPS, routing=routing, router_gradient=True, gradient_features=5).eval()
    y, _ = mixture(x, TASK_ID, torch.ones(5))
    assert not torch.allclose(mixture(x, TASK_ID)[0], y)
    torch.testing.assert_close(mixture(x, TASK_ID)[0], mixture(x, TASK_ID, torch.zeros(5))[0])


def test_tokens_are_places_or_maps():
    x = samples(MAPS)
    places = make(MAPS, tokens="PerConv", routing="topk", num_experts=1)
    y, _ = places(x, TASK_ID)
    torch.testing.assert_close(y.view(ROWS, 9, OUT)[:, 5], one_expert(places, 0, x[:, :, 1, 2]))
    maps = make(MAPS, tokens="PerFeat", routing="topk", num_experts=1)
    y, _ = maps(x, TASK_ID)
    torch.testing.assert_close(y.view(ROWS, 4, OUT)[:, 3], one_expert(maps, 0, x[:, 3].flatten(1)))
    mean = make(MAPS, tokens="PerFeat", routing="topk", num_experts=1, merge="mean")
    torch.testing.assert_close(mean(x, TASK_ID)[0], y.view(ROWS, 4, OUT).mean(dim=1))


def test_slots_are_as_many_as_tokens_for_each_expert():
    assert make(MAPS, tokens="PerConv").router.slots.shape == (4, 3, 3)
    assert make(MAPS, tokens="PerFeat").router.slots.shape == (9, 3, 1)
    assert make(MAPS, tokens="PerSamp").router.slots.shape == (36, 3, 1)
    assert make(MAPS, tokens="PerConv", slots=2).router.slots.shape == (4, 3, 2)
    assert make(MAPS, tokens="PerConv", slots=2, wide=True).router.slots.shape == (4, 1, 6)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_counts_are_choices_of_tasks_in_training_only(routing):
    mixture, x = make(routing=routing).eval(), samples()
    mixture(x, TASK_ID)
    assert not mixture.selection_counts.any()
    mixture.train()
    mixture(x, TASK_ID)
    assert mixture.selection_counts.sum() == ROWS
    if routing == "hardcoded":
        assert torch.equal(mixture.selection_counts, 4 * torch.eye(TASKS, dtype=torch.int64))
    elif routing != "expert_choice":
        units = mixture.units(x, TASK_ID)
        assert units.entropy.shape == (ROWS,)
        assert mixture.selection_counts.sum(dim=1).tolist() == [4, 4, 4]
    recorder = ExpertSelectionRecorder({0: mixture})
    recorder.record()
    assert not mixture.selection_counts.any()
    assert recorder.statistics[0].selection().counts[0].sum() == ROWS


def test_sums_are_the_entropies_of_tasks():
    mixture, x = make(routing="topk"), samples()
    _, sums = mixture(x, TASK_ID)
    scores = mixture.router.logits(x).softmax(dim=-1)
    entropy = torch.distributions.Categorical(scores).entropy()
    for task in range(TASKS):
        torch.testing.assert_close(sums.mean_entropy()[task], entropy[TASK_ID == task].mean())
        torch.testing.assert_close(sums.scores[task], scores[TASK_ID == task].sum(dim=0))
    _, sums = mixture(x[:1], TASK_ID[:1])
    assert sums.mean_entropy().isnan().tolist() == [False, True, True]
    assert make(routing="hardcoded")(x, TASK_ID)[1].entropy.tolist() == [0.0] * TASKS


@pytest.mark.parametrize("weight", [0.5, -0.5])
def test_the_entropy_weight_has_the_sign_of_a_bonus(weight):
    mixture, x = make(routing="topk", entropy_weight=weight), samples()
    before = mixture(x, TASK_ID)[1]
    before.loss(mixture.config).backward()
    mixture.router.weight.data -= 0.1 * mixture.router.weight.grad
    after = mixture(x, TASK_ID)[1]
    assert (after.entropy.sum() > before.entropy.sum()) == (weight > 0)


def test_entropy_is_finite_where_the_router_is_sure():
    mixture, x = make(routing="topk"), samples()
    mixture.router.weight.data *= 1e4
    _, sums = mixture(x, TASK_ID)
    sums.entropy.sum().backward()
    assert sums.entropy.isfinite().all() and mixture.router.weight.grad.isfinite().all()


def test_the_parseval_penalty_is_that_of_the_gram_matrix():
    torch.manual_seed(0)
    features = torch.randn(50, 3, 4)
    phi = features.view(50, 12)
    gram = phi.t() @ phi / 50
    expected = (gram - gram.trace() / 12 * torch.eye(12)).square().sum()
    torch.testing.assert_close(parseval_penalty(features), expected)
    even = torch.linalg.qr(torch.randn(50, 12)).Q.view(50, 3, 4)
    assert parseval_penalty(even) < 1e-9
    maps = torch.randn(5, 3, 4, 2, 2)  # places are samples
    as_samples = maps.permute(0, 3, 4, 1, 2).reshape(20, 3, 4)
    torch.testing.assert_close(parseval_penalty(maps), parseval_penalty(as_samples))


def test_the_parseval_penalty_sees_features_times_gates():
    mixture, x = make(routing="topk", parseval_weight=2.0), samples()
    _, sums = mixture(x, TASK_ID)
    routing = mixture.route(x, TASK_ID)
    terms = [routing.weights[:, e, None] * one_expert(mixture, e, x) for e in range(3)]
    expected = parseval_penalty(torch.stack(terms, dim=1))
    torch.testing.assert_close(sums.parseval, expected)
    torch.testing.assert_close(sums.loss(mixture.config), 2 * expected)
    assert make(routing="topk")(x, TASK_ID)[1].parseval is None


def test_the_penalty_makes_the_spectrum_of_features_more_even():
    mixture, x = make(routing="softmoe", parseval_weight=1.0), samples(rows=64)
    optimizer = torch.optim.Adam(mixture.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = mixture(x, torch.arange(64) % TASKS)[1].loss(mixture.config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_stack_of_networks_with_convolutions_is_mixed_too(routing):
    """Maps stay maps for experts that are convolutions, whatever the tokens."""
    config = MixtureConfig(routing=routing, tokens="PerConv", parseval_weight=0.1)
    whole = StackedNetwork(MAPS, 3, channels=(5,), kernel=2, hidden=(8,), heads=[(2, 1.0)])
    conv = StackedNetwork(MAPS, 3, channels=(5,), kernel=2)
    for experts, shape in ((whole, (2,)), (conv, (5, 2, 2))):
        mixture = Mixture(config, experts, MAPS, TASKS)
        y, sums = mixture(samples(MAPS), TASK_ID)
        assert y.shape == (ROWS, *shape) and mixture.out_shape == shape
        (y.square().sum() + sums.loss(config)).backward()
        for parameter in experts.parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.any()
    routing_of_flat = mixture._begin(samples(MAPS), TASK_ID, None)
    every = experts(samples(MAPS).expand(3, -1, -1, -1, -1))
    if routing_of_flat.slots is None:
        expected = torch.einsum("te,etchw->tchw", routing_of_flat.routing.weights, every)
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("penalised", [False, True])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_routers_decide_in_single_precision_under_autocast(routing, penalised):
    mixture = make(MAPS, routing=routing, tokens="PerConv", parseval_weight=float(penalised))
    with torch.autocast("cpu", torch.bfloat16):
        y, sums = mixture(samples(MAPS), TASK_ID)
    assert y.isfinite().all()
    assert sums.scores.dtype == sums.entropy.dtype == torch.float32
    torch.testing.assert_close(y.float(), mixture(samples(MAPS), TASK_ID)[0], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("tokens", ["PerConv", "PerSamp"])
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("penalised", [False, True])
def test_an_accelerator_waits_for_no_value(routing, tokens, penalised, monkeypatch):
    """Fake tensors hold no values: whatever would make the host wait for one on an accelerator raises here."""
    monkeypatch.setattr("lzero.nn.mixture.counts_on_host", lambda x: False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        mixture = make(MAPS, routing=routing, tokens=tokens, parseval_weight=float(penalised))
        mixture.set_progress(0.5)
        y, sums = mixture.train()(samples(MAPS), torch.zeros(ROWS, dtype=torch.int64))
        assert y.shape == (ROWS, *mixture.out_shape)
        (y.sum() + sums.loss(mixture.config)).backward()


@pytest.mark.parametrize("in_shape", [(WIDTH,), MAPS])
@pytest.mark.parametrize("routing", ["topk", "hardcoded"])
def test_both_ways_to_compute_are_the_same(routing, in_shape, monkeypatch):
    mixture, x = make(in_shape, routing=routing, tokens="PerFeat"), samples(in_shape)
    padded, _ = mixture(x, TASK_ID)
    monkeypatch.setattr("lzero.nn.mixture.counts_on_host", lambda x: False)
    torch.testing.assert_close(mixture(x, TASK_ID)[0], padded)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 4}, "top_k=4.*num_experts=3"),
        ({"num_experts": 0}, "num_experts"),
        ({"routing": "hard"}, "routing"),
        ({"tokens": "PerPixel"}, "tokens"),
        ({"slots": -1}, "slots"),
        ({"temperature_start": 0.1, "temperature_end": 0.2}, "temperature_end=0.2.*falls"),
        ({"wide": True, "routing": "adaptive"}, "wide=True.*adaptive.*softmoe"),
        ({"routing": "hardcoded", "router_task_id": True}, "router_task_id=True.*hardcoded"),
        ({"routing": "topk", "wide": True, "router_gradient": True}, "router_gradient=True.*wide"),
        ({"routing": "hardcoded", "entropy_weight": 0.1}, "entropy_weight=0.1.*hardcoded"),
        ({"wide": True, "entropy_weight": -0.1}, "entropy_weight=-0.1.*wide"),
        ({"parseval_weight": -1.0}, "parseval_weight"),
        ({"experts": 3}, "unknown key 'experts'.*num_experts"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        MixtureConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share_trunk": True, "where": "actor", "architecture": "middle"}, "where='actor'"),
        ({"architecture": "middle", "mixture": {"tokens": "PerConv"}}, "PerConv.*stem='mlp'"),
        (
            {"stem": "conv", "architecture": "big", "mixture": {"tokens": "PerFeat"}},
            "PerFeat.*architecture='big'",
        ),
        (
            {
                "stem": "conv",
                "conv_hidden": (8, 8),
                "architecture": "middle",
                "mixture": {"tokens": "PerConv"},
            },
            "no mixture sees maps",
        ),
        ({"architecture": "final", "mixture": {"wide": True}}, "wide=True.*final"),
        ({"architecture": "final", "mixture": {"parseval_weight": 1.0}}, "parseval_weight=1.0"),
        ({"mlp_hidden": ()}, "mlp_hidden"),
    ],
)
def test_networks_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ActorCriticConfig(**settings)


@pytest.mark.parametrize("section", [MixtureConfig, ActorCriticConfig])
def test_every_field_is_described(section):
    for name, field in section.model_fields.items():
        assert field.description, name


def test_calls_that_cannot_be_are_refused():
    mixture, x = make(routing="topk"), samples()
    with pytest.raises(ValueError, match=r"x.*\(12, 4\).*6"):
        mixture(x[:, :4], TASK_ID)
    with pytest.raises(ValueError, match=r"task_id.*\(3,\)"):
        mixture(x, TASK_ID[:3])
    with pytest.raises(TypeError, match="task_id.*float32"):
        mixture(x, TASK_ID.float())
    with pytest.raises(ValueError, match="router_gradient=False"):
        mixture(x, TASK_ID, torch.ones(8))
    with pytest.raises(ValueError, match=r"extra.*\(3,\).*8"):
        make(router_gradient=True)(x, TASK_ID, torch.ones(3))
    with pytest.raises(ValueError, match="progress=1.5"):
        mixture.set_progress(1.5)
    with pytest.raises(ValueError, match="experts are 2.*3"):
        Mixture(MixtureConfig(), StackedNetwork((WIDTH,), 2, hidden=(4,)), (WIDTH,), TASKS)
    with pytest.raises(ValueError, match="num_tasks=0"):
        Mixture(MixtureConfig(), StackedNetwork((WIDTH,), 3, hidden=(4,)), (WIDTH,), 0)


def test_sums_are_data():
    sums = MixtureSums(torch.ones(2), torch.ones(2, 3), torch.ones(2), None)
    assert replace(sums, parseval=torch.ones(())).loss(MixtureConfig(parseval_weight=3.0)) == 3.0
