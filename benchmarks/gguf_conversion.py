"""Does a stock checkpoint survive the public GGUF converter?

    python benchmarks/gguf_conversion.py CHECKPOINT path/to/llama.cpp/convert_hf_to_gguf.py

Converts to GGUF in float32 with llama.cpp's own script, reads the file back through transformers, and compares logits
with those of the checkpoint.  The script comes with llama.cpp, and with the source distribution of llama-cpp-python
(`vendor/llama.cpp`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("converter", type=Path)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.gguf"
        command = [sys.executable, options.converter, options.checkpoint, "--outfile", target, "--outtype", "f32"]
        own = str(options.converter.resolve().parent / "gguf-py")
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": own})
        size = target.stat().st_size
        expected = logits(options.checkpoint)
        found = logits(Path(folder), gguf_file=target.name)
    difference = float((found - expected).abs().max() / expected.abs().max())
    same = float((found.argmax(-1) == expected.argmax(-1)).float().mean())
    print(f"{size:,} bytes of GGUF; logits differ by {difference:.1e} of the largest; same first choice at {same:.1%}")
    if difference > TOLERANCE:
        sys.exit(f"that is more than {TOLERANCE:.0e}")


@torch.no_grad()
def logits(folder: Path, **options: str) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    ids = torch.arange(256)[None] * 97 % model.config.vocab_size
    return model(input_ids=ids, use_cache=False).logits


if __name__ == "__main__":
    main()
