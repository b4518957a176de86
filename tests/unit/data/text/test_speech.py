"""Recordings: what is read is what was recorded, whatever the file holds it in."""

import re
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import wavfile

from neuromeld.data.text import Clip, read_audio, speech_clips
from neuromeld.errors import UserInputError

RATE = 16000


def sine(rate: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_audio_is_the_wave_that_was_written(tmp_path, rate, dtype):
    wave = sine(rate)
    if dtype == np.uint8:
        stored = np.round(wave * 128 + 128).astype(dtype)
    elif dtype == np.float32:
        stored = wave.astype(dtype)
    else:
        stored = (wave * -float(np.iinfo(dtype).min)).astype(dtype)
    wavfile.write(tmp_path / "a.wav", rate, np.stack([stored, stored], axis=1))
    (audio,) = read_audio([Clip(tmp_path / "a.wav", "")], RATE)
    middle = slice(500, 7500)  # resampling rings where the wave starts and stops
    assert audio.dtype == np.float32
    np.testing.assert_allclose(audio[middle], sine(RATE)[middle], atol=0.01)


def speech(tmp_path, num: int) -> str:
    for i in range(num):
        wavfile.write(tmp_path / f"{i}.wav", RATE, np.zeros(8, dtype=np.int16))
    (tmp_path / "transcripts.tsv").write_text("".join(f"{i}.wav\tsaid {i}\n" for i in range(num)))
    return f"file:{tmp_path}"


def test_every_recording_is_in_one_split(tmp_path):
    source = speech(tmp_path, 60)
    parts = [speech_clips(source, split) for split in ("calibration", "validation", "evaluation")]
    assert all(parts)
    names = [clip.path.name for part in parts for clip in part]
    assert sorted(names) == sorted(f"{i}.wav" for i in range(60))
    assert [clip.transcript for clip in speech_clips(source, None)] == [f"said {i}" for i in range(60)]


def test_bad_folders_are_refused(tmp_path):
    for source in ("wikipedia-sample", f"file:{tmp_path}"):
        with pytest.raises(UserInputError, match=r"give file:FOLDER.*transcripts\.tsv"):
            speech_clips(source, None)
    (tmp_path / "transcripts.tsv").write_text("missing.wav\tsaid")
    with pytest.raises(UserInputError, match=r"line 1: .*missing\.wav is not there"):
        speech_clips(f"file:{tmp_path}", None)
    (tmp_path / "transcripts.tsv").write_text("no tab")
    with pytest.raises(UserInputError, match="line 1: there is no tab"):
        speech_clips(f"file:{tmp_path}", None)
    (tmp_path / "not.wav").write_text("text")
    with pytest.raises(UserInputError, match=r"not\.wav cannot be read"):
        read_audio([Clip(tmp_path / "not.wav", "")], RATE)


def wav(rate=RATE, channels=1, bits=16, form=1, size=None, riff=None, samples=b"\1\0" * 4000) -> bytes:
    """A .wav file whose header says what it is told to."""
    bytes_a_frame = channels * bits // 8 % 2**16
    header = struct.pack("<HHIIHH", form, channels, rate, rate * bytes_a_frame % 2**32, bytes_a_frame, bits)
    size = len(samples) if size is None else size
    body = b"WAVEfmt \x10\0\0\0" + header + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", len(body) - len(samples) + size if riff is None else riff) + body


DAMAGED = {
    "four bytes": b"RIFF",
    "nothing": b"",
    "a RIFF of 3 bytes": wav(riff=3),
    "rate 0": wav(rate=0),
    "rate 4294967295": wav(rate=2**32 - 1),
    "no channels": wav(channels=0),
    "65535 channels": wav(channels=65535),
    "no bits": wav(bits=0),
    "unknown format": wav(form=85),
    "no samples": wav(samples=b""),
    "half of the samples": wav(size=16000),
    "2 GiB of samples": wav(size=2**31),
    "NaN": wav(form=3, bits=32, samples=struct.pack("<f", float("nan")) * 100),
    "infinity": wav(form=3, bits=32, samples=struct.pack("<f", float("inf")) * 100),
    "beyond all sound": wav(form=3, bits=64, samples=struct.pack("<d", 1e300) * 100),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_recording_is_one_message(tmp_path, name):
    path = tmp_path / "a.wav"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(UserInputError, match=re.escape(str(path))):
        read_audio([Clip(path, "")], RATE)


@given(place=st.integers(0, 43), value=st.integers(0, 255), cut=st.integers(0, 300))
def test_any_header_is_sound_or_one_message(place, value, cut):
    data = bytearray(wav(samples=b"\1\0" * 100))
    data[place] = value
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        path.write_bytes(data[: len(data) - cut])
        try:
            (audio,) = read_audio([Clip(path, "")], RATE)
        except UserInputError as error:
            audio = np.zeros(int(str(error).startswith(str(path))))
        assert audio.size > 0
        assert np.isfinite(audio).all()


def test_24_bits_are_read(tmp_path):
    samples = b"".join(int(value * 2**23).to_bytes(3, "little", signed=True) for value in sine(RATE))
    (tmp_path / "a.wav").write_bytes(wav(bits=24, samples=samples))
    (audio,) = read_audio([Clip(tmp_path / "a.wav", "")], RATE)
    np.testing.assert_allclose(audio, sine(RATE), atol=1e-6)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_transcripts_are_read_in_any_unicode(tmp_path, encoding):
    source = speech(tmp_path, 2)
    (tmp_path / "transcripts.tsv").write_bytes("0.wav\tcafé\r\n\r\n1.wav\t\u0434\u0430\r\n".encode(encoding))
    assert [clip.transcript for clip in speech_clips(source, None)] == ["café", "\u0434\u0430"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"0.wav\tcaf\xe9", "cannot be read as UTF-8 text"),
        (b"n" * 300 + b".wav\tx", "too long"),
        (b"../0.wav\tx", r"line 1: \.\./0\.wav is not in that folder"),
        (b"/etc/0.wav\tx", r"line 1: /etc/0\.wav is not in that folder"),
        (b".\tx", r"line 1: .* is not there"),
        (b"", "has 0 documents"),
    ],
)
def test_transcripts_that_cannot_be_used_are_one_message(tmp_path, content, why):
    source = speech(tmp_path, 2)
    (tmp_path / "transcripts.tsv").write_bytes(content)
    with pytest.raises(UserInputError, match=why):
        speech_clips(source, "calibration")
