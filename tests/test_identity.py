"""Identity similarity by a tiny stand-in for ArcFace that insightface itself reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gmtalker.errors import UnusableInput
from gmtalker.measure.identity import ALIGNED_POINTS, FaceRecogniser, recogniser_at_hand

ARCFACE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])  # its alignment, in 112 pixels


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The picture in 7 x 7 means, as a flat row: the same face gives the same numbers."""
    path = tmp_path_factory.mktemp("models") / "arcface.onnx"
    nodes = [
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Reshape", ["pooled", "shape"], ["row"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 3, 112, 112]), ("row", ["n", 147]))]
    shape = numpy_helper.from_array(np.array([-1, 147]), "shape")
    model = helper.make_model(helper.make_graph(nodes, "arcface", ends[:1], ends[1:], [shape]))
    model.ir_version = 9
    model.opset_import[0].version = 17
    onnx.save(model, str(path))
    return path


def frame_with(face: np.ndarray, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture that holds the face (112, 112, 3) somewhere, and where its points are."""
    frame = np.full((256, 256, 3), 90, np.uint8)
    frame[top : top + 112, left : left + 112] = face
    points = np.zeros((478, 3))
    points[list(ALIGNED_POINTS), :2] = ARCFACE + [left, top]
    return frame, points


def test_the_same_face_elsewhere_is_the_same_person_and_another_is_not(network):
    recogniser = recogniser_at_hand(network)
    random = np.random.default_rng(0)
    one, other = (np.kron(random.integers(0, 255, (7, 7, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(2))
    here, there, unseen_speaker = frame_with(one, 20, 30), frame_with(one, 90, 100), frame_with(other, 20, 30)
    same = recogniser.similarity([here[0]], [there[0]], here[1][None], there[1][None])
    different = recogniser.similarity([here[0]], [unseen_speaker[0]], here[1][None], unseen_speaker[1][None])
    assert same > 0.98 and different < 0.5


def test_files_that_are_no_recognition_network(tmp_path):
    with pytest.raises(UnusableInput, match="no file"):
        recogniser_at_hand(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(UnusableInput, match="can read"):
        FaceRecogniser(tmp_path / "broken.onnx")


def test_without_weights_it_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr("gmtalker.measure.identity.PACK", tmp_path / "none.onnx")
    assert recogniser_at_hand() is None
