"""What a parquet from elsewhere could try: each ends in one line, and nothing is read from outside the folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parquets import HOW, cell, lines_of, picture, sound, write
from pyarrow import parquet as pq
from refusals import check_line, refused

from lumo.datasets.fitting import Adoption
from lumo.datasets.folder import adopt
from lumo.datasets.manifest import ChangedError, ManifestError
from lumo.datasets.members import Members, on_disk


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"file": cell(None, "../out.wav"), "caption": "x"}, "leaves the manifest's folder"),
        ({"file": cell(None, "/etc/passwd"), "caption": "x"}, "leaves the manifest's folder"),
        ({"file": cell(None, None), "caption": "x"}, "no file"),
        ({"file": None, "caption": "x"}, "no file"),
        ({"file": cell(b"#!/bin/sh", "a.wav"), "caption": "x"}, "file holds neither a picture nor a sound"),
        ({"file": cell(b"", "a.wav"), "caption": "x"}, "file holds neither a picture nor a sound"),
        ({"file": cell(sound(1)[:99], "a.wav"), "caption": "x"}, "truncated"),
        ({"file": cell(picture(1)[:-20], "a.png"), "caption": "x"}, ".png: not a readable picture"),
        ({"file": cell(sound(7), "a.wav"), "caption": None}, "no caption"),
        ({"file": cell(sound(7), "a.wav"), "caption": "bell\x07"}, "control characters"),
    ],
)  # fmt: skip
def test_a_row_that_cant_be_used_is_named_and_stops_nothing(tmp_path, row, reason):
    (tmp_path / "out.wav").write_bytes(sound(9))
    good = [{"file": cell(sound(n), "../../evil.wav"), "caption": f"tone {n}"} for n in range(3)]
    path = write(tmp_path / "in/c.parquet", [*good, row])
    before = sorted(tmp_path.rglob("*"))
    result = adopt(tmp_path / "in", path, tmp_path / "made", Adoption(**HOW))
    (told,) = result.left_out
    check_line(told, "c.parquet:[3]: ", reason)
    assert result.rows["audio"] == 3
    # the path that stands beside bytes leads nowhere
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "made")) == before


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"file": [1, 2], "caption": ["a", "b"]}, "file is 1, expected text"),
        ({"file": ["a.wav", "b.wav"], "caption": [["a"], ["b"]]}, "caption is ['a'], expected text"),
        ({"file": [[0.5], [0.5]], "caption": ["a", "b"]}, "file is [0.5], expected text"),
    ],
)
def test_columns_of_another_type_leave_every_row_out(tmp_path, columns, reason):
    pq.write_table(pyarrow.table(columns), tmp_path / "c.parquet")
    lines, left_out = lines_of(tmp_path / "c.parquet")
    assert lines == [] and len(left_out) == 2 and reason in left_out[0]


@pytest.mark.parametrize("data", ["RIFF", [82, 73]])
def test_bytes_that_are_none_leave_their_rows_out_by_the_shards_own_name(tmp_path, data):
    write(tmp_path / "hub/good.parquet", [{"file": cell(sound(n)), "caption": f"tone {n}"} for n in range(3)])
    for part in ("a", "b"):
        write(tmp_path / f"hub/{part}/0.parquet", [{"file": cell(data), "caption": "x"}])
    result = adopt(tmp_path, tmp_path / "hub", tmp_path / "out", Adoption(**HOW))
    why = f"[0]: bytes in file are of type {type(data).__name__}, expected binary; mend the table"
    assert result.rows["audio"] == 3 and result.left_out == [f"a/0.parquet:{why}", f"b/0.parquet:{why}"]


CHANGES = {
    "other sounds": lambda rows: [row | {"file": cell(sound(n + 5))} for n, row in enumerate(rows)],
    "another order": lambda rows: rows[::-1],
    "fewer rows": lambda rows: rows[:1],
    "no bytes": lambda rows: [row | {"file": cell(None, "a.wav")} for row in rows],
    "bytes as text": lambda rows: [row | {"file": cell("a.wav")} for row in rows],
    "no column": lambda rows: [{"caption": "x"} for _ in rows],
}


@pytest.mark.parametrize("change", [*CHANGES, "damage", "gone"])
def test_a_table_that_changes_meanwhile_ends_the_run(tmp_path, change):
    """Captions come first, sounds later: another file's mustn't come under them, nor a manifest without those that are gone."""
    rows = [{"file": cell(sound(n)), "caption": f"tone {n}"} for n in range(4)]
    path = write(tmp_path / "c.parquet", rows)

    def swap(done, of):
        if done == 0:
            path.unlink()
            if change in CHANGES:
                write(path, CHANGES[change](rows))
            elif change == "damage":
                path.write_bytes(b"PAR1")

    with refused(ChangedError, f"{path}: changed while it was worked on; run the same command again"):
        adopt(tmp_path, path, tmp_path / "out", Adoption(**HOW), swap)
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_a_table_that_is_none_is_refused(tmp_path):
    path = write(tmp_path / "c.parquet", [{"file": "a.wav", "caption": "x"}])
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"file,caption\na.wav,x\n"):
        path.write_bytes(data)
        with refused(ManifestError, f"{path}: can't be read", "expected a whole parquet file"):
            lines_of(path)
    path.unlink()
    with refused(ManifestError, f"{path}: can't be read"):
        lines_of(path)
    with refused(ManifestError, f"{tmp_path}: no *.parquet in it"):
        lines_of(tmp_path)


def test_columns_twice_and_no_rows_are_refused(tmp_path):
    text = pyarrow.array(["x"])
    pq.write_table(pyarrow.Table.from_arrays([text] * 3, names=["file", "caption", "caption"]), tmp_path / "c.parquet")
    with refused(ManifestError, "a column appears twice"):
        lines_of(tmp_path / "c.parquet")
    pq.write_table(pyarrow.table({"file": text[:0], "caption": text[:0]}), tmp_path / "c.parquet")
    with refused(ManifestError, "no row can be used (the table is empty)"):
        adopt(tmp_path, tmp_path / "c.parquet", tmp_path / "out", Adoption(**HOW))


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "c.parquet", [{"file": "a.wav", "caption": "x"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refused(ManifestError, f"{path}: pyarrow, which reads it", 'pip install -e ".[parquet]"'):
        lines_of(path)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_no_damage_is_more_than_a_line(tmp_path, at, put):
    path = write(tmp_path / "c.parquet", [{"file": cell(sound(0)[:400], "a.wav"), "caption": "x" * 50}] * 5)
    data = bytearray(path.read_bytes())
    data[at % len(data) : at % len(data) + len(put)] = put
    path.write_bytes(data)
    try:
        lines, left_out = lines_of(path)
        for line in lines:
            with on_disk(tmp_path, line["file"], Members(tmp_path).read(line)) as source:
                assert source.suffix == Path(line["file"]).suffix
        assert all("\n" not in line for line in left_out)
    except ManifestError as error:
        check_line(str(error))
