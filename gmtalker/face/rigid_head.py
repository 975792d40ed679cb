"""How a whole head moves in the picture: for poses further out than the footage that context motion was learned from."""

from __future__ import annotations

import cv2
import numpy as np

from gmtalker.face.model import FaceModel
from gmtalker.face.person import CONTEXT_CELLS, PersonFace
from gmtalker.tracks import POSE

HEAD_DEPTH = 0.3  # face heights behind the middle of the face, where hair, ears and the outline of a head are
TRIED = 2.0  # usual deviations of the pose in which head and context are compared
STILL = 1e-9  # of a movement, in squared crop widths, under which nothing moves


class RigidHead:
    """Carries what belongs to the head along with it.

    share: (CONTEXT_CELLS, CONTEXT_CELLS) float32, how far a place moves with the head, 0 to 1, as its context motion tells.
    """

    def __init__(self, model: FaceModel, face: PersonFace):
        self.model = model
        self.share = self._share(face)

    def _share(self, face: PersonFace) -> np.ndarray:
        """Regression of the context motion on the motion of a rigid head, over the poses that the footage shows."""
        median = face.motion_mean.astype(np.float64)
        if not face.pose_whitening.any():
            return np.zeros((CONTEXT_CELLS, CONTEXT_CELLS), np.float32)
        middles = (np.arange(CONTEXT_CELLS) + 0.5) / CONTEXT_CELLS
        places = np.stack(np.meshgrid(middles, middles), axis=-1)
        poses = np.tile(median, (2 * face.pose_whitening.shape[0], 1))
        poses[:, POSE] += TRIED * np.concatenate([side * np.linalg.inv(face.pose_whitening) for side in (1, -1)], axis=1).T
        moved = np.tensordot(face.context_features(poses) - face.context_features(median[None]), face.context_motion, 1)
        rigid = np.stack([self.before(places, pose, median) - places for pose in poses])
        shared, most = ((moved * rigid).sum((0, 3)), (rigid**2).sum((0, 3)))
        share = np.clip(cv2.GaussianBlur(shared / np.maximum(most, STILL), (0, 0), 1), 0, 1)
        return share.astype(np.float32)

    def before(self, places: np.ndarray, motion: np.ndarray, former: np.ndarray) -> np.ndarray:
        """Where something on the head was when the head stood otherwise.

        places: (..., 2) in crop widths.
        motion, former: (10,) now and then.
        Returns: (..., 2) in crop widths.
        """
        (here, across), (there, former_across) = (self._plane(row) for row in (motion, former))
        result: np.ndarray = (places - here) @ (former_across @ np.linalg.inv(across)).T + there
        return result

    def _plane(self, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A plane through the head, at right angles to where it looks: its middle (2,), and its axes (2, 2), in crop widths."""
        corners = np.array([[0, 0, HEAD_DEPTH], [1, 0, HEAD_DEPTH], [0, 1, HEAD_DEPTH]], np.float64)
        points = self.model.project(corners, motion, 1.0)[:, :2]
        return points[0], (points[1:] - points[0]).T

    def carried(self, sources: np.ndarray, motion: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Where each pixel comes from when the head stands as in `motion`, from what is known of a pose nearby.

        sources: (size, size, 2) float32 pixels, of the pose nearby.
        motion, near: (10,) both poses.
        """
        size = len(sources)
        still = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).astype(np.float32)
        places = (self.before((still + 0.5) / size, motion, near) * size - 0.5).astype(np.float32)
        share = cv2.resize(self.share, (size, size), interpolation=cv2.INTER_LINEAR)
        # What is on the head now was where it comes from then: so that place, not this one, tells whether it is on the head.
        on_head = cv2.remap(share, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        places = still + on_head[..., None] * (places - still)
        result: np.ndarray = cv2.remap(sources, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return result
