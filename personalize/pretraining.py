"""The generic stages' trainings, one call each, in the order they need each other: face, speech, expression, motion.

The head needs the face alone.
Each takes the training rows of a set, goes on where it stopped when called again, and leaves `output`/<part>/ (config and
safetensors) and its section of `output`/README.md.
"""

from gmtalker.pretrain.expression import pretrain_expression
from gmtalker.pretrain.face import pretrain_face
from gmtalker.pretrain.head import pretrain_head
from gmtalker.pretrain.motion import pretrain_motion
from gmtalker.pretrain.speech import adopt_hubert, pretrain_speech

__all__ = ["adopt_hubert", "pretrain_expression", "pretrain_face", "pretrain_head", "pretrain_motion", "pretrain_speech"]
