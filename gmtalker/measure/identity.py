"""Is it still the same person? Identity similarity (CSIM) by insightface's ArcFace, where its weights are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gmtalker.errors import UnusableInput

# Where insightface's FaceAnalysis puts the recognition network of its standard pack (non-commercial; nothing here downloads it).
PACK = Path("~/.insightface/models/buffalo_l/w600k_r50.onnx")


FIVE_POINTS = (468, 473, 1, 61, 291)  # irises, nose tip and corners of the mouth of the mesh, in the order ArcFace was aligned by


class FaceRecogniser:
    """ArcFace (arXiv 1801.07698) as an ONNX file that insightface reads. Errors: UnusableInput when it can't."""

    def __init__(self, path: Path):
        from insightface.model_zoo import get_model  # late: it takes seconds to import

        path = Path(path).expanduser()
        if not path.is_file():
            raise UnusableInput(f"There is no file {path}. Please give insightface's w600k_r50.onnx.")
        try:
            self.network = get_model(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever onnxruntime raises for a file that is none
            raise UnusableInput(f"{path.name} is not a network that insightface can read.") from error
        if getattr(self.network, "taskname", None) != "recognition":
            raise UnusableInput(f"{path.name} does not recognise faces. Please give insightface's recognition network.")

    def embedding(self, frame: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(d,) of length 1: who is in a frame (h, w, 3) RGB whose face has these points (478, 3) in pixels."""
        from insightface.utils import face_align

        side = self.network.input_size[0]
        face = face_align.norm_crop(frame[..., ::-1], points[list(FIVE_POINTS), :2].astype(np.float32), image_size=side)
        found = self.network.get_feat(face).ravel()
        return found / max(np.linalg.norm(found), 1e-9)

    def similarity(
        self, real: Sequence[np.ndarray], drawn: Sequence[np.ndarray], real_points: np.ndarray, drawn_points: np.ndarray
    ) -> float:
        """Mean cosine of drawn and real frames side by side; points (frames, 478, 3)."""
        values = [
            float(self.embedding(a, p) @ self.embedding(b, q)) for a, b, p, q in zip(real, drawn, real_points, drawn_points)
        ]
        return float(np.mean(values))


def recogniser_at_hand(path: Path | None = None) -> FaceRecogniser | None:
    """The judge in `path`, or in insightface's own folder; None where there is none. Errors: UnusableInput for a wrong path."""
    if path is None and not PACK.expanduser().is_file():
        return None
    return FaceRecogniser(PACK if path is None else path)
