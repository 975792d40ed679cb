"""Index tables of the MediaPipe FaceMesh with irises: 478 points."""

from __future__ import annotations

from typing import NamedTuple

POINTS = 478
FACE_POINTS = 468  # the first ones; irises follow
FOREHEAD, CHIN = 10, 152
INNER_LIPS = (13, 14)  # middle of the upper and lower inner lip
MOUTH_CORNERS = (78, 308)
OUTER_EYE_CORNERS = (33, 263)
BROWS = ((107, 336), (70, 300))  # their inner and outer ends
NOSE_WINGS = (129, 358)

# Closed rings, each point beside the next.
LEFT_EYE_RING = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
RIGHT_EYE_RING = (362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398)
INNER_LIP_RING = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
OUTER_LIP_RING = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
AROUND_LEFT_EYE = (130, 25, 110, 24, 23, 22, 26, 112, 243, 190, 56, 28, 27, 29, 30, 247)
AROUND_RIGHT_EYE = (463, 341, 256, 252, 253, 254, 339, 255, 359, 467, 260, 259, 257, 258, 286, 414)

# The lips' corners and their neighbours: a smile.
AROUND_CORNERS = (61, 76, 78, 95, 146, 185, 191, 291, 306, 308, 324, 375, 409, 415)
LIPS = tuple(sorted((*INNER_LIP_RING, *OUTER_LIP_RING)))
EYE_REGION = tuple(sorted((*LEFT_EYE_RING, *RIGHT_EYE_RING, *AROUND_LEFT_EYE, *AROUND_RIGHT_EYE)))


class Eye(NamedTuple):
    """Points of one eye.

    corners: left and right in the picture.
    upper, lower: three points of each lid, facing each other.
    iris: its centre.
    iris_ring: four points on its rim.
    """

    corners: tuple[int, int]
    upper: tuple[int, int, int]
    lower: tuple[int, int, int]
    iris: int
    iris_ring: tuple[int, int, int, int]


# Left eye of the picture first.
EYES = (
    Eye(corners=(33, 133), upper=(158, 159, 160), lower=(153, 145, 144), iris=468, iris_ring=(469, 470, 471, 472)),
    Eye(corners=(362, 263), upper=(385, 386, 387), lower=(380, 374, 373), iris=473, iris_ring=(474, 475, 476, 477)),
)
