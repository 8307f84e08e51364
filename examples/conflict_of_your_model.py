"""Where the losses of your own model pull its shared weights apart: no lzero model, no run needed.

python examples/conflict_of_your_model.py            # prints cosines, draws conflict_{part}.png here
python examples/conflict_of_your_model.py pictures   # draws into that folder
"""

import sys
from pathlib import Path

import imageio.v3 as imageio
import torch
from torch import Tensor, nn

from lzero.policy.utils import compute_gradient_conflicts_batch, gradient_conflict_heatmap

TASKS = ("sum", "minus sum", "product")


def main(folder: Path) -> None:
    """Measure, print and draw the conflict in each of the model's two shared parts."""
    torch.manual_seed(0)
    parts = {"hidden": nn.Sequential(nn.Linear(8, 64), nn.Tanh()), "output": nn.Linear(64, 1)}
    x = torch.randn(512, 8)
    answers = x.sum(dim=1), -x.sum(dim=1), x[:, 0] * x[:, 1]
    rows: dict[str, list[Tensor]] = {name: [] for name in parts}  # of each part one per task
    for answer in answers:
        loss = (parts["output"](parts["hidden"](x)).squeeze(1) - answer).square().mean()
        for name, part in parts.items():
            own = torch.autograd.grad(loss, list(part.parameters()), retain_graph=True)
            rows[name].append(torch.cat([gradient.flatten() for gradient in own]))
    folder.mkdir(parents=True, exist_ok=True)
    for name, conflict in compute_gradient_conflicts_batch(rows).items():
        print(f"{name}: maximum negative cosine {conflict.max_conflict_score:.2f} of {TASKS}")
        print(conflict.cosine_similarity_matrix.numpy().round(2))
        picture = gradient_conflict_heatmap(conflict, TASKS, name).transpose(1, 2, 0)
        imageio.imwrite(folder / f"conflict_{name}.png", picture)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
