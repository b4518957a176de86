"""Images, recordings and transcripts of any damage."""

import struct
import zlib
from pathlib import Path
from random import Random

from fuzz.case import Case, Scene, compression
from fuzz.damage import damage_file, damage_json, damaged_bytes
from fuzz.originals import KINDS

LINES = (
    "",
    "\t",
    "0.wav",
    "0.wav\t",
    "\tx",
    "none.wav\tx",
    "../0.wav\tx",
    "0.wav\tx\ty",
    ".\tx",
    "n" * 300 + ".wav\tx",
    "0.wav\té",
)


def case(scene: Scene) -> Case:
    """A vision model with damaged images, or one that listens with damaged recordings."""
    return _images(scene) if scene.draw.random() < 0.5 else _speech(scene)


def _images(scene: Scene) -> Case:
    draw = scene.draw
    model, folder = scene.take("viewer"), scene.take("images")
    place = folder / draw.choice(KINDS)
    pictures = sorted(place.glob("*.png"))
    way = draw.randrange(8)
    if way == 0:
        for path in pictures:
            path.write_bytes(_png(draw.choice((0, 1, 100_000, 2**31)), draw.choice((1, 100_000))))
    elif way == 1:
        damage_file(draw, draw.choice(pictures))
    elif way == 2:
        for path in pictures:
            path.write_bytes(damaged_bytes(draw, path.read_bytes()))
    elif way == 3:
        (place / "x.png").symlink_to(draw.choice(("none", ".", "x.png", "0.png")))
    elif way == 4:
        (place / draw.choice(("x.png", "é.jpg", "x.gif", "x.webp", "[red].png"))).write_bytes(draw.randbytes(40))
    elif way == 5:
        for path in pictures:
            path.rename(path.with_suffix(draw.choice((".jpg", ".txt", ".GIF"))))
    elif way == 6:
        damage_json(draw, model / "preprocessor_config.json")
    else:
        place.rename(folder / draw.choice(("[red]", " ", "n" * 200, ".hidden")))
    if draw.random() < 0.4:
        return Case(["evaluate", "viewer", "--images", "file:images"])
    options = ["--ffn-ratio", "0.7", "--no-evaluate", "--calibration", "file:images", "--calibration-tokens", "60"]
    return compression("viewer", *options, loads_as="AutoModelForImageClassification")


def _speech(scene: Scene) -> Case:
    draw = scene.draw
    model, folder = scene.take("listener"), scene.take("speech")
    clips = sorted(folder.glob("*.wav"))
    transcripts = folder / "transcripts.tsv"
    way = draw.randrange(6)
    if way == 0:
        _replace_all(draw, clips)
    elif way == 1:
        damage_file(draw, draw.choice(clips))
    elif way == 2:
        damage_file(draw, transcripts)
    elif way == 3:
        lines = transcripts.read_text().splitlines()
        lines[draw.randrange(len(lines))] = draw.choice(LINES)
        transcripts.write_bytes("\n".join(lines).encode(draw.choice(("utf-8", "latin-1", "utf-16"))))
    elif way == 4:
        names = [path for path in model.iterdir() if path.name in ("processor_config.json", "preprocessor_config.json")]
        damage_json(draw, draw.choice(names))
    else:
        for path in clips:
            path.unlink()
            path.symlink_to(draw.choice(("none", ".", "../words.jsonl")))
    if draw.random() < 0.3:
        return Case(["evaluate", "listener", "--speech", "file:speech", "--num-examples", "1"])
    options = ["--share-ffns-at", "0-1", "--no-evaluate", "--calibration", "file:speech"]
    return compression("listener", *options, "--calibration-tokens", "100", loads_as="AutoModelForSpeechSeq2Seq")


def _replace_all(draw: Random, clips: list[Path]) -> None:
    wrong = {
        "rate": draw.choice((0, 1, 16001, 2**31 - 1)),
        "channels": draw.choice((0, 1, 2, 60_000)),
        "bits": draw.choice((0, 1, 8, 16, 24, 33, 64)),
        "size": draw.choice((None, 0, 3, 2**32 - 1)),
        "kind": draw.choice((1, 1, 3, 85, 65534)),
    }
    for path in clips:
        path.write_bytes(_wav(**wrong))


def _wav(rate: int, channels: int, bits: int, size: int | None, kind: int) -> bytes:
    samples = b"\1\0" * 3000
    byte_rate, block = rate * channels * bits // 8 % 2**32, channels * bits // 8 % 2**16
    head = struct.pack("<HHIIHH", kind, channels, rate, byte_rate, block, bits)
    body = b"WAVEfmt \x10\0\0\0" + head + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def _png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 500)) + chunk(b"IEND", b"")
