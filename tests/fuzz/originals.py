"""What is damaged: models of four kinds, data for each, and a folder that `compress` wrote; made once, when needed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile
from transformers import BitImageProcessorPil, ViTConfig, ViTForImageClassification

from contract.families import FAMILIES, build, randomise
from neuromeld import compress, parse_recipe
from neuromeld.archs.classes import stock_class
from tiny import save_model, save_text
from unit.modalities.text_to_text import tiny_processor, tiny_tokenizer

KINDS = ("cat", "dog")


class Originals:
    """Undamaged files, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._makers: dict[str, Callable[[Path], object]] = {
            "model": save_model,
            "words.jsonl": save_text,
            "small": self._compressed,
            "translator": _translator,
            "pairs.tsv": _pairs,
            "viewer": _viewer,
            "images": _images,
            "listener": _listener,
            "speech": _speech,
        }

    def path(self, name: str) -> Path:
        """Where the original of this name lies; it must not be changed."""
        path = self._folder / name
        if not path.exists():
            self._makers[name](path)
        return path

    def _compressed(self, folder: Path) -> None:
        calibration = {"source": f"file:{self.path('words.jsonl')}", "tokens": 256, "seqlen": 32}
        recipe = parse_recipe({"ffn": {"ratio": 0.7}, "calibration": calibration})
        compress(str(self.path("model")), recipe, folder)


def _translator(folder: Path) -> None:
    build("marian", dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def _pairs(path: Path) -> None:
    lines = [f"w{5 + i % 60:02} w{9 + i % 50:02}\tw{6 + i % 70:02} w{7 + i % 40:02}" for i in range(80)]
    path.write_text("\n".join(lines))


def _viewer(folder: Path) -> None:
    sizes = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=2)).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(folder)


def _images(folder: Path) -> None:
    for label, kind in enumerate(KINDS):
        (folder / kind).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (9, 9), (i, 70 * label, 9)).save(folder / kind / f"{i}.png")


def _listener(folder: Path) -> None:
    config = FAMILIES["whisper"]()
    config.max_source_positions = 50
    randomise(stock_class(config)._from_config(config)).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)


def _speech(folder: Path) -> None:
    folder.mkdir()
    for i in range(12):
        samples = np.random.default_rng(i).integers(-9999, 9999, 3000)
        wavfile.write(folder / f"{i}.wav", 16000, samples.astype(np.int16))
    (folder / "transcripts.tsv").write_text("".join(f"{i}.wav\tspoken words\n" for i in range(12)))
