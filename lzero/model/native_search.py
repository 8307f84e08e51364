"""The world model's part of a tree search as one call of compiled code.

It answers what :meth:`UniZeroMTModel.recurrent_inference` answers, already turned into scalars and
priors, in fp32 on a CPU. The arithmetic is in ``lzero/native/search_step.cpp``; here the model's
weights are packed for it, once after every change.

Shape legend: N = roots, R = rows of a round, A = actions, D = model width, T = tasks, P = outputs of
a panel. A suffix names a tensor's shape; weights are (sets, in, out) with a set per task or expert.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lzero.model.unizero_model_multitask import UniZeroMTModel
from lzero.model.unizero_world_models.search_cache import SearchCache
from lzero.native import search_step
from lzero.nn.block import Block
from lzero.nn.encoder import LatentNorm
from lzero.nn.feed_forward import DenseMLP, DenseSwiGLU
from lzero.nn.heads import Head
from lzero.nn.moe import MoELayer, SwiGLU
from lzero.nn.parameters import weights_version
from lzero.nn.scalars import EPSILON, ScalarSupport

Pointer = ctypes.c_void_p
# Multiplications (a quarter of a millisecond) from which a further thread gains more than its start costs.
WORK_OF_THREAD = 10_000_000


class _Record(ctypes.Structure):
    """A struct of ``search_step.cpp``; fields must be those there, in order."""


class _Linear(_Record):
    _fields_ = [
        ("panels", Pointer),
        ("bias", Pointer),
        ("in_width", ctypes.c_int64),
        ("out_width", ctypes.c_int64),
    ]


class _Norm(_Record):
    _fields_ = [("scale", Pointer), ("shift", Pointer)]


class _Block(_Record):
    _fields_ = [
        *((name, _Norm) for name in ("norm1", "norm2")),
        *(
            (name, _Linear)
            for name in (
                "qkv",
                "attention_out",
                "w_in",
                "w_out",
                "expert_in",
                "expert_out",
                "router",
            )
        ),
        *((name, Pointer) for name in ("selection_bias", "experts_of_task")),
        *((name, ctypes.c_int64) for name in ("num_shared", "num_experts", "top_k", "renormalise")),
    ]


class _Head(_Record):
    _fields_ = [
        *((name, _Norm) for name in ("norm1", "norm2")),
        *((name, _Linear) for name in ("linear1", "linear2")),
        ("shared", ctypes.c_int64),
    ]


class _Model(_Record):
    _fields_ = [
        ("blocks", ctypes.POINTER(_Block)),
        ("norm", _Norm),
        *((name, _Head) for name in ("policy", "value", "reward", "latent")),
        ("join_task", _Linear),
        *((name, Pointer) for name in ("rotation", "action_embedding", "task_embedding")),
        *(
            (name, ctypes.c_int64)
            for name in (
                "num_layers",
                "dim",
                "num_heads",
                "num_actions",
                "num_bins",
                "sim_norm_group",
            )
        ),
        *((name, ctypes.c_float) for name in ("support_low", "support_high", "linear_term")),
    ]


class _Cache(_Record):
    _fields_ = [
        ("slabs", ctypes.POINTER(Pointer)),
        *((name, Pointer) for name in ("window", "position", "task", "legal", "latent")),
        *(
            (name, ctypes.c_int64)
            for name in ("slots", "columns", "places", "registers", "root_tokens")
        ),
    ]


class _Round(_Record):
    _fields_ = [
        *(
            (name, Pointer)
            for name in (
                "root",
                "parent",
                "action",
                "node",
                "reward",
                "value",
                "survival",
                "prior",
                "scratch",
            )
        ),
        ("rows", ctypes.c_int64),
    ]


class NativeSearch:
    """Answers rounds of simulations with compiled code.

    Args:
        model: on the CPU, in fp32; read before the first round that follows a change of its
            weights.
        support: of its scalars.

    Raises:
        RuntimeError: if the library was not built for this machine.
    """

    def __init__(self, model: UniZeroMTModel, support: ScalarSupport) -> None:
        library = search_step()
        if library is None:
            raise RuntimeError(
                "lzero/native/search_step.cpp is not compiled: install a C++ compiler and run make "
                "setup again, or search with torch"
            )
        self.library, self.model, self.support = library, model, support
        self._version: object = None
        self._packed = _Model()
        self._kept: list[object] = []  # what the structs point to
        self._scratch = np.empty(0, np.float32)
        self._work = model.world_model.work_of_expansion()

    def expand(
        self,
        cache: SearchCache,
        root: np.ndarray,
        parent: np.ndarray,
        action: np.ndarray,
        node: np.ndarray,
        legal: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Answer one round of a search; its first round comes after :meth:`follow_weights`.

        Args:
            cache: of the model's ``initial_inference``; gains the new nodes.
            root: ``(R,)`` int64, as are the next three; see
                :meth:`UniZeroMTModel.recurrent_inference`.
            parent: node that is left.
            action: taken there.
            node: number that the new node gets.
            legal: ``(N, A)`` bool.

        Returns:
            Reward, value and survival probability ``(R,)``, and the prior over legal actions
            ``(R, A)``; all float32.
        """
        num_rows, num_actions = len(root), legal.shape[1]
        scalars = np.empty((3, num_rows), np.float32)
        prior = np.empty((num_rows, num_actions), np.float32)
        needed = num_rows * self._scratch_width
        if len(self._scratch) < needed:
            self._scratch = np.empty(needed, np.float32)
        edges = [np.ascontiguousarray(rows, np.int64) for rows in (root, parent, action, node)]
        host_task_id = np.ascontiguousarray(cache.groups.host_task_id, np.int64)
        legal = np.ascontiguousarray(legal)
        slabs = (Pointer * len(cache.slabs))(*(slab.data_ptr() for slab in cache.slabs))
        memory = _Cache(
            slabs,
            cache.window.data_ptr(),
            cache.position.data_ptr(),
            host_task_id.ctypes.data,
            legal.ctypes.data,
            None if cache.latent is None else cache.latent.data_ptr(),
            cache.slabs[0].shape[1],
            cache.window.shape[1],
            cache.window.shape[2],
            cache.num_registers,
            cache.num_root_tokens,
        )
        arrays = (*edges, *scalars, prior, self._scratch)
        call = _Round(*(array.ctypes.data for array in arrays), num_rows)
        self.library.expand(
            ctypes.byref(self._packed),
            ctypes.byref(memory),
            ctypes.byref(call),
            ctypes.c_int64(
                min(torch.get_num_threads(), 1 + num_rows * self._work // WORK_OF_THREAD)
            ),
        )
        reward, value, survival = scalars
        return reward, value, survival, prior

    def follow_weights(self) -> None:
        """Pack the model's weights, unless they are those that are packed."""
        version = weights_version(self.model.world_model)
        if version != self._version:
            with torch.no_grad():
                self._pack()
            self._version = version

    def _pack(self) -> None:
        self._kept = []
        world, config = self.model.world_model, self.model.config
        blocks = [self._block(block) for block in world.transformer.blocks]
        stored = (_Block * len(blocks))(*blocks)
        join = world.join_task
        norm = self.model.encoder.norm
        self._packed = _Model(
            blocks=stored,
            norm=self._layer_norm(world.transformer.norm),
            **{name: self._head(head) for name, head in world.heads.items()},
            join_task=_Linear() if join is None else self._linear(join),
            rotation=self._pointer(torch.view_as_real(world.transformer.rotation)),
            action_embedding=self._pointer(world.action_embedding.weight),
            task_embedding=None
            if world.task_embedding is None
            else self._pointer(world.task_embedding.weight),
            num_layers=len(blocks),
            dim=config.embed_dim,
            num_heads=config.num_heads,
            num_actions=world.action_embedding.num_embeddings,
            num_bins=self.support.num_bins,
            sim_norm_group=LatentNorm.GROUP if norm.kind == "sim_norm" else 0,
            support_low=self.support.low,
            support_high=self.support.high,
            linear_term=EPSILON,
        )
        self._scratch_width = self.library.scratch_width(ctypes.byref(self._packed))

    def _block(self, block: Block) -> _Block:
        feed_forward = block.feed_forward
        packed = _Block(
            norm1=self._layer_norm(block.norm1),
            norm2=self._layer_norm(block.norm2),
            qkv=self._linear(block.attention.qkv),
            attention_out=self._linear(block.attention.out),
        )
        if isinstance(feed_forward, DenseMLP):
            packed.w_in = self._linear(feed_forward.w_in)
            packed.w_out = self._linear(feed_forward.w_out)
        elif isinstance(feed_forward, DenseSwiGLU):
            self._shared(packed, [feed_forward.expert])
        else:
            self._shared(packed, feed_forward.shared_experts)
            if feed_forward.experts is not None:
                self._routed(packed, feed_forward, feed_forward.experts)
        return packed

    def _shared(self, packed: _Block, experts: Sequence[SwiGLU]) -> None:
        packed.num_shared = len(experts)
        if len(experts):
            packed.w_in = self._stack(torch.stack([expert.w_in for expert in experts]))
            packed.w_out = self._stack(torch.stack([expert.w_out for expert in experts]))

    def _routed(self, packed: _Block, layer: MoELayer, experts: SwiGLU) -> None:
        packed.num_experts = layer.config.num_experts
        packed.expert_in = self._stack(experts.w_in)
        packed.expert_out = self._stack(experts.w_out)
        if layer.router is None:
            packed.top_k = layer.experts_of_task.shape[1]
            packed.experts_of_task = self._pointer(layer.experts_of_task)
            return
        packed.top_k, packed.renormalise = layer.router.top_k, layer.router.renormalise
        packed.router = self._stack(layer.router.weight.t()[None])
        packed.selection_bias = self._pointer(layer.router.selection_bias)

    def _head(self, head: Head) -> _Head:
        return _Head(
            norm1=_Norm(self._pointer(head.norm1_scale), self._pointer(head.norm1_shift)),
            norm2=_Norm(self._pointer(head.norm2_scale), self._pointer(head.norm2_shift)),
            linear1=self._stack(head.weight1, head.bias1.flatten(1)),
            linear2=self._stack(head.weight2, head.bias2.flatten(1)),
            shared=head.shared,
        )

    def _layer_norm(self, norm: nn.LayerNorm) -> _Norm:
        return _Norm(self._pointer(norm.weight), self._pointer(norm.bias))

    def _linear(self, linear: nn.Linear) -> _Linear:
        return self._stack(linear.weight.t()[None], linear.bias[None])

    def _stack(self, weight_SIO: Tensor, bias_SO: Tensor | None = None) -> _Linear:
        """Linear maps of one shape, a set per task or expert."""
        width = self.library.panel_width()
        sets, fan_in, fan_out = weight_SIO.shape
        missing = -fan_out % width
        if bias_SO is None:
            bias_SO = weight_SIO.new_zeros(sets, fan_out)
        panels = F.pad(weight_SIO, (0, missing)).unflatten(-1, (-1, width)).transpose(1, 2)
        return _Linear(
            self._pointer(panels), self._pointer(F.pad(bias_SO, (0, missing))), fan_in, fan_out
        )

    def _pointer(self, tensor: Tensor) -> int:
        """Address of a contiguous copy, or of the tensor itself, that lives as long as the pack."""
        contiguous = tensor.detach().contiguous()
        self._kept.append(contiguous)
        return contiguous.data_ptr()
