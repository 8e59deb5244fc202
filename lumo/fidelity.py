"""How much of a picture or a clip comes back from a codec. Every measure takes what was true and what was made, of one size.

Each says one thing: PSNR and SI-SDR compare numbers, so they punish a moved edge or another phase that nobody sees or hears; SSIM
and the mel distance look at structure and at spectra. Compare codecs on the same media, and listen and look all the same.

Axes: h w pixel · c channel · samples · t frame · f frequency · m mel band.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from lumo.media import Audio, Image

# window in samples → mel bands, the hop a quarter of the window; Kumar et al. 2023, section 3.5
MEL_BANDS = {32: 5, 64: 10, 128: 20, 256: 40, 512: 80, 1024: 160, 2048: 320}
MEL_FLOOR = 1e-5


def psnr_db(true: Image, made: Image) -> float:
    """Peak signal-to-noise ratio, 10 log10(255² / mean squared error) over all pixels and channels; infinite for the same picture."""
    difference = true.pixels.astype(np.float64) - made.pixels
    return _decibels(255.0**2, float(np.mean(difference**2)))


def ssim(true: Image, made: Image) -> float:
    """Structural similarity, 1 for the same picture: the mean over all windows that lie in the picture, and over red, green and blue.

    Source: Wang et al. 2004, "Image quality assessment", equation 13: Gaussian windows of 11 x 11 pixels with sigma 1.5, K1 0.01,
    K2 0.03. They look at luminance alone; the mean over channels is what scikit-image gives for colour.
    """
    x, y = true.pixels.astype(np.float64), made.pixels.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x, variance_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)))


def si_sdr_db(true: Audio, made: Audio) -> float | None:
    """Scale-invariant signal-to-distortion ratio: 10 log10(|αs|² / |αs - ŝ|²) with α = ⟨ŝ, s⟩ / |s|².

    Each channel's mean is taken away first; one α serves all channels. Infinite for the same clip at any loudness, None where the
    true one is silent: then there is nothing to scale.
    Source: Le Roux et al. 2019, "SDR – half-baked or well done?", equation 5.
    """
    wide = (audio.samples.astype(np.float64) for audio in (true, made))
    s, estimate = (samples - samples.mean(axis=1, keepdims=True) for samples in wide)
    energy = float(np.sum(s * s))
    if energy == 0:
        return None
    target = np.sum(estimate * s) / energy * s
    return _decibels(float(np.sum(target**2)), float(np.sum((target - estimate) ** 2)))


def mel_distance(true: Audio, made: Audio) -> float:
    """Multi-scale mel distance, 0 for the same clip: mean |log10 difference| of mel magnitudes, added up over seven windows.

    Source: DAC's reconstruction loss (Kumar et al. 2023, section 3.5, and its published configuration): `MEL_BANDS`, Hann windows,
    magnitudes not below 1e-5, bands from 0 Hz to half the sample rate.
    """
    total = 0.0
    for window, bands in MEL_BANDS.items():
        filters = mel_filters(true.sample_rate_hz, window, bands)
        x, y = (
            np.log10(np.maximum(magnitudes(audio.samples, window) @ filters.T, MEL_FLOOR)) for audio in (true, made)
        )
        total += float(np.mean(np.abs(x - y)))
    return total


# measures of a modality, and which end of their range is the worst
MEASURES: dict[str, dict[Callable[[Any, Any], float | None], Callable[[Any], Any]]] = {
    "image": {psnr_db: np.min, ssim: np.min},
    "audio": {si_sdr_db: np.min, mel_distance: np.max},
}


def spread(values: Sequence[float | None], worst: Callable[[Any], Any] = np.min) -> dict[str, Any]:
    """Median and worst of the values that there are, and over how many; both are None without any.

    >>> spread([3.0, None, 1.0, 2.0])
    {'median': 2.0, 'worst': 1.0, 'over': 3}
    """
    there = [value for value in values if value is not None]
    median, end = (float(np.median(there)), float(worst(there))) if there else (None, None)
    return {"median": median, "worst": end, "over": len(there)}


def magnitudes(samples: Float[np.ndarray, "c samples"], window: int) -> Float[np.ndarray, "c t f"]:
    """Magnitudes of spectra under Hann windows that are a quarter of a window apart.

    The clip is mirrored at its ends, so the first window is centred on its beginning.
    """
    padded = np.pad(samples.astype(np.float64), ((0, 0), (window // 2, window // 2)), mode="reflect")
    frames = sliding_window_view(padded, window, axis=1)[:, :: window // 4]
    hann = np.hanning(window + 1)[:-1]
    return np.abs(np.fft.rfft(frames * hann))


def mel_filters(sample_rate_hz: int, window: int, bands: int) -> Float[np.ndarray, "m f"]:
    """Triangles of one area, evenly spaced on Slaney's mel scale (Auditory Toolbox 1998): linear up to 1 kHz, then logarithmic.

    Where bands are narrower than the spectrum's bins (44.1 kHz, 320 bands) a few are empty, as in DAC's own.
    """
    top = 15 + 27 * math.log(sample_rate_hz / 2000) / math.log(6.4)
    mel = np.linspace(0, top, bands + 2)
    hz = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    bins = np.fft.rfftfreq(window, 1 / sample_rate_hz)
    rising = (bins - hz[:-2, None]) / np.diff(hz)[:-1, None]
    falling = (hz[2:, None] - bins) / np.diff(hz)[1:, None]
    return np.maximum(np.minimum(rising, falling), 0) * (2 / (hz[2:] - hz[:-2]))[:, None]


def _blurred(values: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h-10 w-10 c"]:
    """Means under SSIM's window, wherever it fits."""
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights /= weights.sum()
    rows = sliding_window_view(values, 11, axis=0) @ weights
    return sliding_window_view(rows, 11, axis=1) @ weights


def _decibels(signal: float, noise: float) -> float:
    if signal == 0:
        return -math.inf
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)
