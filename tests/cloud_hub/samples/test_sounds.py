"""The sounds of a sample: WAV files of the inputs that the model's policy calls sound."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from cloud_hub.samples.sounds import LONGEST_S, policy_of, sound_of, sounds_in
from fleet.protocol.tensors import to_array

RATE = 8000


def played(values: np.ndarray, rate: int = RATE) -> np.ndarray:
    """(frames, channels) of the WAV, as whole numbers of 16 bits."""
    with wave.open(io.BytesIO(sound_of([to_array("x", values)], "x", {"x": rate}) or b"")) as file:
        assert (file.getsampwidth(), file.getframerate()) == (2, rate)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())


def test_real_numbers_are_full_scale_at_one_and_louder_ones_are_not_cut_off() -> None:
    tone = np.sin(np.arange(400) / 5, dtype=np.float32)
    assert np.abs(played(tone[None] * 0.5)).max() == pytest.approx(16_384, abs=20)
    loud = played(tone[None] * 40).ravel()
    assert np.abs(loud).max() == 32_767 and np.allclose(loud, np.round(tone / np.abs(tone).max() * 32_767), atol=1)


@pytest.mark.parametrize(
    ("dtype", "silent", "loud"), [("int16", 0, 16_384), ("uint8", 128, 192), ("int8", 0, 64), ("int32", 0, 2**30)]
)
def test_integers_are_full_scale_at_the_end_of_their_type(dtype: str, silent: int, loud: int) -> None:
    values = np.array([[silent, loud] * 20], dtype)
    assert played(values).ravel()[:2].tolist() == [0, 16_384]


def test_two_channels_stay_two_whichever_axis_they_are_on() -> None:
    both = np.stack([np.zeros(300), np.full(300, 0.25)], axis=1).astype(np.float32)
    for values in (both[None], both.T[None]):
        found = played(values)
        assert found.shape == (300, 2) and found[0].tolist() == [0, 8192]


def test_what_is_no_number_is_silence_and_what_is_very_long_is_cut() -> None:
    broken = np.full((1, 100), np.nan, np.float32)
    broken[0, 50:] = np.inf
    assert not played(broken).any()
    assert len(played(np.zeros((1, RATE * (LONGEST_S + 5)), np.int8))) == RATE * LONGEST_S


def test_how_much_is_played_is_what_the_file_holds() -> None:
    for values, rate in ((np.zeros((1, 8000 * 65), np.int8), 8000), (np.zeros((1, 48_000 * 50, 2), np.int8), 48_000)):
        ((length_s, played_s),) = sounds_in([to_array("x", values)], {"x": rate}).values()
        assert length_s == values.shape[1] / rate > played_s == len(played(values, rate)) / rate


def test_only_what_the_policy_names_is_sound() -> None:
    inputs = [to_array("audio", np.zeros((1, 4000), np.float32)), to_array("image", np.zeros((1, 32, 32), np.float32))]
    rates = {"audio": RATE, "image": RATE, "other": RATE}
    assert sounds_in(inputs, rates) == {"audio": (0.5, 0.5)}
    assert sound_of(inputs, "image", rates) is None and sound_of(inputs, "audio", {}) is None
    assert policy_of({"samples": {"sound": {"audio": RATE}}}).sound == {"audio": RATE}
    assert policy_of({"samples": "of an earlier version"}).sound == {}
