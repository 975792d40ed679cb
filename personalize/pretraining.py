"""The generic stages' trainings, one call each, in the order they need each other: face, speech, expression, motion.

The head needs the face alone.
Each takes the training rows of a set, goes on where it stopped when called again, and leaves `output`/<part>/ (config and
safetensors) and its section of `output`/README.md.
"""

from personalize.expression_pretraining import pretrain_expression
from personalize.face_learning import pretrain_face
from personalize.head_pretraining import pretrain_head
from personalize.motion_pretraining import pretrain_motion
from personalize.speech_pretraining import adopt_hubert, pretrain_speech

__all__ = ["adopt_hubert", "pretrain_expression", "pretrain_face", "pretrain_head", "pretrain_motion", "pretrain_speech"]
