"""Generic stages of one's own: a face model and an expression generator, trained for moments on clips in a MANIFEST.csv.

python -m examples.pretrain_tiny DATA OUTPUT [MINUTES]

DATA/MANIFEST.csv has at least the columns file, split, person, seconds, and one row a clip.
"""

import shutil
import sys
from pathlib import Path

from gmtalker.assets import GENERIC
from gmtalker.pretrain.datasets import training_rows
from gmtalker.pretrain.expression import pretrain_expression
from gmtalker.pretrain.face import pretrain_face
from gmtalker.pretrain.samples import PretrainOptions

data, output = Path(sys.argv[1]), Path(sys.argv[2])
options = PretrainOptions(minutes=float(sys.argv[3]) if len(sys.argv) > 3 else 1.0)

rows = training_rows(data)
face = pretrain_face(rows, output)
print(f"face model of {len(rows)} clips: {len(face.expression_basis)} coefficients")
shutil.copytree(GENERIC / "speech_encoder", output / "speech_encoder")  # one's own would need a teacher: `pretrain speech --help`
folder = pretrain_expression(rows, output, options, lambda progress: print(progress.stage, progress.details(), end="\r"))
print(f"expression generator: {folder}; `motion` and `head` follow in the same way")
