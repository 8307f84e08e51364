"""The recent past of every environment, as the world model sees it when it acts.

Shape legend: N = environments, J = history steps, D = latent width.
"""

import numpy as np
import torch
from torch import Tensor

from lzero import checks


class EnvContext:
    """Last J−1 (latent, action) pairs of N environments; each is cleared when its own episode ends,
    no other's. ValueError for sizes below 1.
    """

    def __init__(
        self, num_envs: int, history_steps: int, embed_dim: int, device: torch.device
    ) -> None:
        checks.count("num_envs", num_envs)
        checks.count("history_steps", history_steps)
        checks.count("embed_dim", embed_dim)
        self.latent = torch.zeros(num_envs, history_steps - 1, embed_dim, device=device)
        self.action = torch.zeros(num_envs, history_steps - 1, dtype=torch.int64, device=device)
        self.num_valid = torch.zeros(num_envs, dtype=torch.int64, device=device)

    def with_current(self, latent: Tensor) -> Tensor:
        """Context and current latents ``(N, D)`` as ``(N, J, D)``."""
        return torch.cat([self.latent, latent[:, None]], dim=1)

    def push(self, latent: Tensor, action: Tensor) -> None:
        """Append the pair that each environment has just lived through: ``(N, D)`` and ``(N,)``."""
        self.latent = self.with_current(latent)[:, 1:]
        self.action = torch.cat([self.action, action[:, None]], dim=1)[:, 1:]
        self.num_valid = (self.num_valid + 1).clamp_max(self.action.shape[1])

    def state(self) -> dict[str, np.ndarray]:
        """What :meth:`load` goes on from."""
        held = {"latent": self.latent, "action": self.action, "num_valid": self.num_valid}
        return {name: tensor.cpu().numpy() for name, tensor in held.items()}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Remember what :meth:`state` did."""
        device = self.latent.device
        self.latent, self.action, self.num_valid = (
            torch.tensor(state[name], device=device) for name in ("latent", "action", "num_valid")
        )

    def clear(self, ended: np.ndarray) -> None:
        """Forget the past of the environments whose episode ``ended (N,)``."""
        self.num_valid = self.num_valid.masked_fill(
            torch.as_tensor(ended, device=self.num_valid.device), 0
        )
