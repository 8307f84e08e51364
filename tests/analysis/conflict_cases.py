"""What the tests of gradient conflict share."""

import numpy as np

SCORES = (
    "avg_conflict_score",
    "max_conflict_score",
    "min_conflict_score",
    "conflict_rate",
    "coverage",
)


def reference_cosine(gradients: np.ndarray) -> np.ndarray:
    norms = np.array([np.sqrt(np.sum(row**2)) for row in gradients.astype(np.float64)])
    cosine = np.full((len(norms), len(norms)), np.nan)
    for i, j in np.ndindex(cosine.shape):
        if norms[i] > 0 and norms[j] > 0:
            cosine[i, j] = (
                np.sum(gradients[i].astype(np.float64) * gradients[j]) / norms[i] / norms[j]
            )
    return cosine


class Pictures:
    """What a TensorBoard writer is asked for."""

    def __init__(self) -> None:
        self.added: list[tuple[str, np.ndarray, int]] = []

    def add_image(self, tag: str, image: np.ndarray, step: int) -> None:
        self.added.append((tag, image, step))
