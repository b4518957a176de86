"""Freeze what the program gives now: `PYTHONPATH=src:tests python -m golden`."""

import json
import tempfile
from pathlib import Path

import torch

from golden.cases import FOLDER, make_inputs, names, run

torch.set_num_threads(1)
FOLDER.mkdir(exist_ok=True)
with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch)
    make_inputs(folder)
    for family, case in names():
        frozen = run(folder, family, case, folder / f"{family}-{case}")
        (FOLDER / f"{family}-{case}.json").write_text(json.dumps(frozen, indent=1, sort_keys=True) + "\n")
