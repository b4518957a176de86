"""Recordings: what is read is what was recorded, whatever the file holds it in."""

import numpy as np
import pytest
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
