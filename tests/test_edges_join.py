"""What joining leaves out, and says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from refusals import check_line

from lumo.datasets.join import join
from lumo.datasets.manifest import read_manifest


@pytest.fixture
def parts(tmp_path):
    """Two manifests of a person's own, of three sounds each; the last row's task is none of a sound's."""
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for n, task in enumerate(("a2t", "t2a", "sing")):
            soundfile.write(folder / f"{n}.wav", np.full(800, 0.1), 8000)
            meta = {"split": "golden"} if n == 0 else {}
            media = {"audio": {"path": f"{n}.wav", "meta": meta}}
            said = {"task": task, "source": "mine", "license": "CC0-1.0"}
            rows.append({"id": str(n), "modalities": media, "text": {"caption": f"tone {n}"}} | said)
        (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [tmp_path / "one", tmp_path / "two"]


def test_a_row_whose_task_is_none_of_its_media_is_left_out_and_named(parts, tmp_path):
    """As shards leave it out: counted among the rows it would give a profile sizes that the data hasn't."""
    result = join(parts, tmp_path / "both", "none")
    rows, left_out = read_manifest(result.manifest)
    assert [row.id for row in rows] == ["one/0", "one/1", "two/0", "two/1"] and not left_out
    assert result.rows == {"audio": 4, "audio golden": 2} and len(result.left_out) == 2
    check_line(result.left_out[0], "one: 2: task is 'sing', expected a2t or t2a by its media", "mend the row")
    assert not (tmp_path / "both/one/2.wav").exists()
