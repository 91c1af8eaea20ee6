"""Words spoken by eSpeak NG, and what a classifier hears of them.

The library comes in the wheel `espeakng-loader` (extra `modalities`); it is called through `ctypes`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from neurotrace.core.errors import InputError

Array = np.ndarray
BANDS, FRAMES = 16, 16
TRAIN_VOICES = (
    "en+m1",
    "en+m2",
    "en+m3",
    "en+f1",
    "en+f2",
    "en-US+m7",
    "en-US+croak",
    "en-GB-scotland+m4",
    "en+klatt",
    "en-US+f4",
)
TEST_VOICES = ("en+m5", "en+f3", "en-US+m8", "en-GB-x-rp+f5", "en+klatt3")


def spectrogram(wave: Float[Array, " sample"]) -> Float[Array, "band frame"]:
    from scipy.signal import stft

    power = np.abs(stft(wave, nperseg=512, noverlap=256)[2][2:]) ** 2
    edges = np.geomspace(1, len(power), BANDS + 1).astype(int)
    bands = np.stack([power[a : max(b, a + 1)].mean(axis=0) for a, b in pairwise(edges)])
    at = np.linspace(0, bands.shape[1] - 1, FRAMES)
    lines = [np.interp(at, np.arange(bands.shape[1]), np.log(band + 1e-9)) for band in bands]
    return np.stack(lines).astype(np.float32)


@cache
def spoken(text: str, voice: str) -> Float[Array, " sample"]:
    """A text in an eSpeak NG voice ("en+f1"), without the silence about it.

    Raises:
        InputError: no `espeakng-loader`, or an unknown voice.
    """
    library, said, _ = _espeak()
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise InputError(f"voice {voice!r} is unknown to eSpeak NG: expected one like 'en+f1'")
    said.clear()
    raw = text.encode() + b"\0"
    library.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 1, 0, 1, None, None)
    library.espeak_Synchronize()
    wave = np.concatenate([np.frombuffer(part, np.int16) for part in said]).astype(float) / 32768
    loud = np.flatnonzero(np.abs(wave) > 0.01)
    return wave[loud[0] : loud[-1] + 1]


@cache
def _espeak() -> tuple[ctypes.CDLL, list[bytes], Any]:
    """(library, the list into which it speaks, the callback, which must outlive it)."""
    try:
        import espeakng_loader
    except ImportError:
        raise InputError("spoken names need eSpeak NG: run `pip install espeakng-loader`") from None
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    said: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def hear(wave: int | None, count: int, events: int | None) -> int:
        if wave and count > 0:
            said.append(ctypes.string_at(wave, 2 * count))
        return 0

    # 2: synchronous, to the callback and no loudspeaker
    if library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0) < 0:
        raise InputError("eSpeak NG found no data: reinstall espeakng-loader")
    library.espeak_SetSynthCallback(hear)
    return library, said, hear
