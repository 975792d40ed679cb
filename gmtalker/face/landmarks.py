"""Index tables of the MediaPipe FaceMesh with irises: 478 points."""

from __future__ import annotations

POINTS = 478
FOREHEAD, CHIN = 10, 152
INNER_LIPS = (13, 14)  # middle of the upper and lower inner lip
MOUTH_CORNERS = (78, 308)


# Per eye (left of the picture first): outer corner, inner corner, upper lid, lower lid, iris centre, iris ring.
EYES = (
    {"corners": (33, 133), "upper": (158, 159, 160), "lower": (153, 145, 144), "iris": 468, "ring": (469, 470, 471, 472)},
    {"corners": (362, 263), "upper": (385, 386, 387), "lower": (380, 374, 373), "iris": 473, "ring": (474, 475, 476, 477)},
)


LEFT_EYE_RING = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
RIGHT_EYE_RING = (362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398)
INNER_LIP_RING = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
LIPS = tuple(
    sorted(
        {
            0,
            13,
            14,
            17,
            37,
            39,
            40,
            61,
            78,
            80,
            81,
            82,
            84,
            87,
            88,
            91,
            95,
            146,
            178,
            181,
            185,
            191,
            267,
            269,
            270,
            291,
            308,
            310,
            311,
            312,
            314,
            317,
            318,
            321,
            324,
            375,
            402,
            405,
            409,
            415,
        }
    )
)
EYE_REGION = tuple(
    sorted(
        {
            *LEFT_EYE_RING,
            *RIGHT_EYE_RING,
            247,
            30,
            29,
            27,
            28,
            56,
            190,
            243,
            112,
            26,
            22,
            23,
            24,
            110,
            25,
            130,
            467,
            260,
            259,
            257,
            258,
            286,
            414,
            463,
            341,
            256,
            252,
            253,
            254,
            339,
            255,
            359,
        }
    )
)
