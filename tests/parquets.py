"""Parquet tables of a few sounds and pictures."""

from __future__ import annotations

import io

import numpy as np
import pyarrow
import soundfile
from PIL import Image as PILImage
from pyarrow import parquet as pq

from lumo.datasets.table import read_table, usable
from lumo.media import ClipPolicy

HOW = {"resolution": (32, 32), "clips": ClipPolicy(8000, 1, 0.25), "golden": 1}


def sound(n: int, kind: str = "WAV") -> bytes:
    data = io.BytesIO()
    soundfile.write(data, 0.3 * np.sin(np.arange(2000) * 0.1 * (n + 1)), 8000, format=kind)
    return data.getvalue()


def picture(n: int, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    PILImage.new("RGB", (32, 32), (25 * n, 20, 90)).save(data, kind)
    return data.getvalue()


def write(path, rows, row_group_size=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


def cell(data, path=None):
    return {"bytes": data, "path": path}


def lines_of(path, columns=()):
    left_out: list[str] = []
    return [line for _, line in usable(read_table(path, dict(columns), left_out), left_out)], left_out
