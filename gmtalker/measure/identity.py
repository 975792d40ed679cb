"""Identity similarity (CSIM) by insightface's ArcFace, where its weights are present (docs/method.md section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gmtalker.errors import UnusableInput

# Where insightface's FaceAnalysis puts the recognition network of its standard pack (non-commercial; nothing here downloads it).
PACK = Path("~/.insightface/models/buffalo_l/w600k_r50.onnx")
ALIGNED_POINTS = (468, 473, 1, 61, 291)  # irises, nose tip and mouth corners of the mesh, in the order that ArcFace aligns by


class FaceRecogniser:
    """ArcFace, an embedding of who a face belongs to.

    path: an ONNX file that insightface reads.
    Errors: UnusableInput when it can't be read or does not recognise faces.
    Source: arXiv 1801.07698.
    """

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
        """Embed the face in a frame.

        frame: (height, width, 3) uint8 RGB.
        points: (478, 3) of the face, in pixels.
        Returns: (d,) of length 1.
        """
        from insightface.utils import face_align

        side = self.network.input_size[0]
        face = face_align.norm_crop(frame[..., ::-1], points[list(ALIGNED_POINTS), :2].astype(np.float32), image_size=side)
        embedding = self.network.get_feat(face).ravel()
        return embedding / max(np.linalg.norm(embedding), 1e-9)

    def similarity(
        self,
        real: Sequence[np.ndarray],
        generated: Sequence[np.ndarray],
        real_points: np.ndarray,
        generated_points: np.ndarray,
    ) -> float:
        """CSIM: mean cosine of the embeddings of real and generated frames, pair by pair; 1 is the same face.

        real, generated: (height, width, 3) uint8 RGB each.
        real_points, generated_points: (frames, 478, 3) in pixels.
        """
        pairs = zip(real, generated, real_points, generated_points)
        return float(np.mean([float(self.embedding(a, p) @ self.embedding(b, q)) for a, b, p, q in pairs]))


def recogniser_at_hand(path: Path | None = None) -> FaceRecogniser | None:
    """The face recogniser in path, or in insightface's own folder; None where there is none there.

    Errors: UnusableInput for a path that is no face recogniser.
    """
    if path is None and not PACK.expanduser().is_file():
        return None
    return FaceRecogniser(PACK if path is None else path)
