"""Tree search through the world model: the roots' history once, then rounds of one new node a row.

Both run the model that training runs, on tokens whose keys and values are kept. ``lzero/native/search_step.cpp`` computes
:func:`expand` in one call.

Shape legend: N = roots, J = history steps, D = model width, A = actions, V = support bins, E = rows of a round of simulations.
"""

from torch import Tensor, nn

from lzero.model.unizero_world_models.search_cache import SearchCache, TokenSite
from lzero.model.unizero_world_models.world_model_multitask import WorldModel
from lzero.nn.moe import compute_dtype
from lzero.nn.tasks import TaskGroups


def prefill(
    model: WorldModel,
    latent: Tensor,
    action: Tensor,
    num_valid: Tensor,
    groups: TaskGroups,
    num_simulations: int,
) -> tuple[Tensor, Tensor, SearchCache]:
    """Start a search: run the history of every root once and keep its keys and values.

    Args:
        model: the world model.
        latent: ``(N, J, D)``, the current latent last; unused history in front may hold anything.
        action: ``(N, J−1)`` int64, the actions between them.
        num_valid: ``(N,)`` int64, pairs of history that are real (0 … J−1).
        groups: tasks of the N rows.
        num_simulations: M, simulations that will follow.

    Returns:
        Root policy logits ``(N, A)``, root value logits ``(N, V)``, and the cache.
    """
    cache = SearchCache.create(
        model.transformer,
        compute_dtype(latent),
        latent.shape[1],
        num_valid,
        groups,
        num_simulations,
    )
    hidden, _ = model.run(
        latent,
        action,
        groups,
        position=cache.root_positions(num_valid),
        mask=cache.root_mask(num_valid),
        slabs=cache.slabs,
    )
    if model.config.residual_latent:
        cache.keep_latents(latent[:, -1])
    last = hidden[:, -1:]
    return model.policy_head(last, groups)[:, 0], model.value_head(last, groups)[:, 0], cache


def expand(
    model: WorldModel, cache: SearchCache, rows: Tensor, groups: TaskGroups, latent_norm: nn.Module
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One round of simulations: per row an action token, then the latent token it predicts.

    Args:
        model: the world model.
        cache: of :func:`prefill`; gains a node a row.
        rows: the round as :meth:`SearchCache.rows` writes it ``(5, E)``, on the device.
        groups: tasks of the E rows.
        latent_norm: the encoder's final norm.

    Returns:
        Reward logits ``(E, V)``, termination logits ``(E,)``, and of the new node the latent
        ``(E, D)``, policy logits ``(E, A)`` and value logits ``(E, V)``.
    """
    at_action, at_latent = cache.add_nodes(rows)
    taken = rows[4]
    token = model.embed(model.action_embedding(taken), groups.task_id)
    hidden = _step(model, token, cache, groups, at_action)
    latent = model.latent_head(hidden, groups)[:, 0]
    if cache.latent is not None:
        latent = latent + cache.latent.index_select(0, rows[0])
    latent = latent_norm(latent)
    if cache.latent is not None:
        cache.latent.index_copy_(0, rows[1], latent)
    outcome = model.reward_head(hidden, groups)[:, 0]
    hidden = _step(model, model.embed(latent, groups.task_id), cache, groups, at_latent)
    policy, value = (
        model.policy_head(hidden, groups)[:, 0],
        model.value_head(hidden, groups)[:, 0],
    )
    return outcome[:, :-1], outcome[:, -1], latent, policy, value


def _step(
    model: WorldModel, token: Tensor, cache: SearchCache, groups: TaskGroups, site: TokenSite
) -> Tensor:
    hidden = model.transformer.step(
        token,
        groups.task_id,
        position=site.position,
        slabs=cache.slabs,
        slot=site.slot,
        window=site.window,
        mask=site.mask,
    )
    return hidden[:, None]
