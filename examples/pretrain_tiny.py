"""Generic stages of one's own: a face model and a speech encoder, trained for moments on a folder that MANIFEST.csv describes.

python -m examples.pretrain_tiny DATA OUTPUT [MINUTES]

DATA/MANIFEST.csv has at least the columns file, split, person, seconds, and one row a clip.
"""

import sys
from pathlib import Path

from gmtalker.pretrain.datasets import training_rows
from gmtalker.pretrain.face import pretrain_face
from gmtalker.pretrain.samples import PretrainOptions
from gmtalker.pretrain.speech import pretrain_speech

data, output = Path(sys.argv[1]), Path(sys.argv[2])
options = PretrainOptions(minutes=float(sys.argv[3]) if len(sys.argv) > 3 else 1.0)

rows = training_rows(data)
face = pretrain_face(rows, output)
print(f"face model of {len(rows)} clips: {len(face.expression_basis)} coefficients")
folder = pretrain_speech(rows, output, options, lambda progress: print(progress.stage, progress.details(), end="\r"))
print(f"speech encoder: {folder}; `expression`, `motion` and `head` follow in the same way")
