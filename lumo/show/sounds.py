"""Sound to hear and to see.

What is judged by ear must arrive as it was made: 16-bit WAV, at its own loudness, with no lossy transport.

Axes: c channel · samples · f frequency · t time.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from lumo.media import Audio, wav_bytes
from lumo.show.figures import blank_figure, figure_uri
from lumo.show.page import FAIL_COLOUR, MUTED, SMALL, Page, data_uri, escape, plain, tag

SPECTRUM_DB = (-90.0, 0.0)  # the same for every clip, so that a quiet clip looks quiet; 0 is a full-scale sine
_WINDOW_S = 0.032
_MOST_COLUMNS = 600
_WIDTH_PX, _HEIGHT_PX = 220, 116  # three stand beside each other in a notebook's output


def player(audio: Audio, label: str = "", name: str = "") -> Page:
    """A player with length, peak and loudness below it.

    audio: float32 [c samples]; samples beyond ±1 are clipped, and the caption counts them
    name: what it is called, to a screen reader too, where no label is to stand below
    A clip with samples that are not finite gets no player, but a line that says so: a report goes on without it.
    """
    name = plain(name) or plain(label) or "sound"
    broken = int(audio.samples.size - np.isfinite(audio.samples).sum())
    if broken:
        words = f"{broken} of {audio.samples.size} samples are not finite numbers, nothing to play"
        mark = f"{SMALL};color:{FAIL_COLOUR};font-weight:600"
        return Page(tag("div", f"✗ {escape(name)}: {words}", style=mark), f"✗ {name}: {words}")
    # src on <audio> itself: JupyterLab's sanitizer takes it off a <source>. No preload: a report holds hundreds.
    control = tag(
        "audio",
        controls="controls",
        preload="none",
        src=data_uri(wav_bytes(audio), "audio/wav"),
        title=name,
        style=f"width:{_WIDTH_PX}px;height:34px;display:block",
    )
    heard = measured(audio)
    words = (f"{plain(label)} · " if plain(label) else "") + heard.replace(", ", " · ")
    caption = tag("div", escape(words), style=f"{MUTED};max-width:{_WIDTH_PX + 20}px")
    return Page(tag("div", control + caption), f"♪ {name}: {heard}")


def measured(audio: Audio) -> str:
    """Length, rate, peak and loudness in one line: `1.00 s, 16000 Hz, peak 0.43, RMS -14.2 dBFS`."""
    channels = audio.samples.shape[0]
    parts = [f"{audio.duration_s:.2f} s", f"{audio.sample_rate_hz} Hz"]
    if channels != 1:
        parts.append(f"{channels} channels")
    parts.append(f"peak {audio.peak:.2f}" if audio.peak >= 0.01 or not audio.peak else f"peak {audio.peak:.1e}")
    parts.append(f"RMS {audio.rms_dbfs:.1f} dBFS" if math.isfinite(audio.rms_dbfs) else "silent")
    clipped = int((np.abs(audio.samples) > 1).sum())
    if clipped:
        parts.append(f"{clipped} samples clipped at ±1")
    return ", ".join(parts)


def spectrogram(audio: Audio, label: str = "") -> Page:
    """A small picture of frequency over time, in dB relative to a full-scale sine, on a scale that never moves.

    audio: float32 [c samples]; channels are averaged as power, so that opposite phases don't cancel
    """
    name = plain(label) or "sound"
    levels_db = spectrum_db(audio)  # [f t]
    window_s = _window_size(audio.sample_rate_hz) / audio.sample_rate_hz
    end_s = max(audio.duration_s, window_s)
    edge_s = window_s * 3 / 8  # a column is drawn around the middle of its window, a hop (a quarter of it) wide
    figure, axes = blank_figure(_WIDTH_PX, _HEIGHT_PX, fonts=6.0)
    axes.set_position((0.18, 0.24, 0.79, 0.72))
    axes.imshow(
        levels_db,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        vmin=SPECTRUM_DB[0],
        vmax=SPECTRUM_DB[1],
        extent=(edge_s, end_s - edge_s, 0, audio.sample_rate_hz / 2),
    )
    axes.set_xlim(0, end_s)
    axes.locator_params(axis="y", nbins=4)
    axes.set_xlabel("s", labelpad=-1)
    axes.set_ylabel("Hz", labelpad=0)
    span = f"0–{audio.sample_rate_hz // 2} Hz, {SPECTRUM_DB[0]:.0f} to {SPECTRUM_DB[1]:.0f} dB"
    picture = tag(
        "img",
        src=figure_uri(figure, "webp"),
        alt=f"spectrogram of {name}, {span}",
        width=_WIDTH_PX,
        height=_HEIGHT_PX,
        loading="lazy",
        style="max-width:none;margin:0;vertical-align:top",
    )
    return Page(tag("div", picture), f"▤ spectrogram of {name}: {audio.duration_s:.2f} s, {span}")


def spectrum_db(audio: Audio) -> np.ndarray:
    """Level [f t] in dB relative to a full-scale sine, floored at the bottom of the scale; t is at most 600.

    The first column's window begins where the clip begins and the last one's ends where it ends: padding would draw
    clicks that aren't there. In a long clip each column is the loudest of the frames it covers, so none gets lost.
    """
    size = _window_size(audio.sample_rate_hz)
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    samples = np.nan_to_num(audio.samples, nan=0.0, posinf=0.0, neginf=0.0)
    samples = np.pad(samples, ((0, 0), (0, max(0, size - samples.shape[1]))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, size, axis=1)  # [c samples-size+1 size], a view
    starts = np.unique(np.append(np.arange(0, frames.shape[1], size // 4), frames.shape[1] - 1))
    # not array_split, whose longer parts all come first and would bend the time axis
    edges = np.linspace(0, len(starts), min(len(starts), _MOST_COLUMNS) + 1).round().astype(int)
    columns = []
    for start, end in itertools.pairwise(edges):
        amplitude = np.abs(np.fft.rfft(frames[:, starts[start:end]] * window, axis=-1)) * (2 / window.sum())
        columns.append(np.square(amplitude).mean(axis=0).max(axis=0))
    return 10 * np.log10(np.maximum(np.stack(columns, axis=1), 10 ** (SPECTRUM_DB[0] / 10)))


def _window_size(sample_rate_hz: int) -> int:
    """The power of two next to 32 ms."""
    return 1 << max(5, round(math.log2(_WINDOW_S * sample_rate_hz)))
