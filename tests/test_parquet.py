"""Tables as people have them: parquet as on the hub, columns under other names. There and back."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parquets import HOW, cell, lines_of, picture, sound, write
from pyarrow import parquet as pq
from refusals import refused

from lumo.__main__ import main
from lumo.adoption import Options
from lumo.datasets import parquet
from lumo.datasets.fitting import Adoption
from lumo.datasets.folder import adopt
from lumo.datasets.manifest import ChangedError, ManifestError, read_manifest
from lumo.datasets.published import PUBLISHED
from lumo.datasets.table import read_table
from lumo.media import read_audio, read_image

# --- there and back ---------------------------------------------------------------------------------------------------


def test_paths_in_a_parquet_are_files_of_the_folder(tmp_path):
    for n in range(4):
        (tmp_path / f"s{n}.wav").write_bytes(sound(n))
    rows = [{"id": 70 + n, "file": f"s{n}.wav", "caption": f"tone {n}", "license": "CC0-1.0"} for n in range(4)]
    result = adopt(tmp_path, write(tmp_path / "captions.parquet", rows), tmp_path / "out", Adoption(**HOW))
    adopted, _ = read_manifest(result.manifest)
    assert [(row.id, row.text.caption, row.license) for row in adopted] == [
        (f"{70 + n}", f"tone {n}", "CC0-1.0") for n in range(4)
    ]
    assert result.left_out == []


def test_bytes_in_a_parquet_are_the_files(tmp_path):
    """Shards as the hub has them: sounds and pictures, some rows of the same bytes, and the test shard never learned from."""
    rows = [{"audio": cell(sound(n % 5), f"{n}.mp3"), "text": f"tone {n}"} for n in range(7)]
    rows += [{"audio": cell(picture(n)), "text": f"sheet {n}"} for n in range(4)]
    shards = [rows[:3], rows[3:]]
    for n, these in enumerate(shards):
        write(tmp_path / f"hub/train-0000{n}-of-00002.parquet", these)
    tests = [{"audio": cell(data), "text": f"kept {n}"} for n, data in enumerate((sound(8), picture(8)))]
    write(tmp_path / "hub/test-00000-of-00001.parquet", tests)
    how = Adoption(**HOW, columns={"file": "audio", "caption": "text"})
    result = adopt(tmp_path, tmp_path / "hub", tmp_path / "out", how)
    adopted, _ = read_manifest(result.manifest)
    assert result.left_out == [] and [row.text.caption for row in adopted] == [row["text"] for row in tests + rows]
    made = {row.text.caption: row.modalities.items()[0] for row in adopted}
    for row in rows + tests:
        medium, file = made[row["text"]]
        source = tmp_path / "alone"
        source.write_bytes(row["audio"]["bytes"])
        path = tmp_path / "out" / file.path
        if medium == "image":
            assert np.array_equal(read_image(path, (32, 32)).pixels, read_image(source).pixels)
        else:
            assert np.allclose(read_audio(path, HOW["clips"]).samples, read_audio(source).samples, atol=1e-4)
        assert file.meta["split"] == ("golden" if row["text"].startswith("kept") else "train")
    assert made["tone 0"] == made["tone 5"] and made["tone 0"] != made["tone 1"]  # one recording, one file
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.wav")}
    assert adopt(tmp_path, tmp_path / "hub", tmp_path / "out", how).rows == result.rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.wav")} == before


@pytest.mark.parametrize(
    ("data", "suffix"),
    [(sound(0, kind), suffix) for kind, suffix in (("WAV", ".wav"), ("FLAC", ".flac"), ("OGG", ".ogg"), ("MP3", ".mp3"))]
    + [(picture(0, kind), suffix) for kind, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"))],
)  # fmt: skip
def test_a_file_is_known_by_how_it_begins(tmp_path, data, suffix):
    path = write(tmp_path / "c.parquet", [{"file": cell(data, "x.bin"), "caption": "x"}])
    ((line,), left_out) = lines_of(path)
    assert line["file"].endswith(suffix) and left_out == []
    pq.write_table(pyarrow.table({"file": [data], "caption": ["x"]}), path)  # bytes without a struct around them
    assert lines_of(path)[0][0]["file"] == line["file"]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 9), st.lists(st.integers(0, 39), min_size=1, max_size=12))
def test_cells_are_found_in_any_order(tmp_path_factory, count, group, asked):
    path = tmp_path_factory.mktemp("cells") / "c.parquet"
    write(path, [{"file": cell(b"%d" % n)} for n in range(count)], group)
    cells = parquet.Cells()
    for row in asked:
        data = b"%d" % row
        name = hashlib.sha256(data).hexdigest()
        if row < count:
            assert cells.read(path, "file", row, name) == data
        else:
            with refused(ChangedError, "changed while it was worked on"):
                cells.read(path, "file", row, name)


def test_a_table_is_read_row_group_by_row_group(tmp_path):
    path = write(tmp_path / "c.parquet", [{"file": f"{n}" * 99, "caption": "x"} for n in range(100)], 50)
    last = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = last.dictionary_page_offset or last.data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    rows = parquet.rows(path, ["file"])
    assert [next(rows)[0] for _ in range(50)] == list(range(50))  # the second group is damaged, and not yet read
    with refused(ManifestError, f"{path}: can't be read", "download it again"):
        list(rows)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train-00000-of-00002", "training", "train.clean.100-0", "TRAIN_1")),
        *((f"{word}-00000-of-00001", "eval") for word in ("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")),
        *((name, "eval") for name in ("test_clean-00000-of-00001", "test", "test/0000", "validation/12", "test/val-0")),
        *((name, None) for name in ("captions", "tester", "contest-test", "a/0000", "a/part-0")),
    ],
)  # fmt: skip
def test_a_table_is_named_for_its_split_also_by_itself(tmp_path, name, split):
    path = write(tmp_path / f"{name}.parquet", [{"file": "a.wav", "caption": "x"}])
    for asked in (path, tmp_path):
        assert [line["split"] for _, line in read_table(asked, {}, [])] == [split]


@pytest.mark.parametrize(
    ("name", "split"),
    [("en/test/part-0", "eval"), ("test/en/part-0", "eval"), ("test/captions", "eval"), ("dev-clean/captions", "eval"),
     ("test/train-0", "train"), ("test/train/0000", "train"), ("split=test/part-0", "eval"), ("contest/part-0", None),
     ("test.parquet/part-00000-5e6f-c000.snappy", "eval"), ("val/part.0", "eval")],
)  # fmt: skip
def test_a_split_is_read_of_the_folders_within_the_table(tmp_path, name, split):
    """As the hub's own library reads them; Spark's folders and partitions besides."""
    hub = tmp_path / "hub"
    write(hub / f"{name}.parquet", [{"file": "a.wav", "caption": "x"}])
    assert [line["split"] for _, line in read_table(hub, {}, [])] == [split]


@pytest.mark.parametrize(
    ("name", "split"), [("test/captions", None), ("test/part-0", "eval"), ("test/en/part-0", None), ("test/hub/a/0000", None)]
)  # fmt: skip
def test_folders_above_a_table_are_the_users_own(tmp_path, name, split):
    path = write(tmp_path / f"{name}.parquet", [{"file": "a.wav", "caption": "x"}])
    asked = [path, *([path.parent] if path.parent.name != "a" else [tmp_path / "test/hub"])]
    assert {line["split"] for table in asked for _, line in read_table(table, {}, [])} == {split}


def test_what_is_kept_for_tests_is_never_learned_from(tmp_path):
    for n, name in enumerate(("captions", "val-0", "test_clean-0")):
        write(tmp_path / f"hub/{name}.parquet", [{"file": cell(sound(3 * n + k)), "caption": name} for k in range(3)])
    rows, _ = read_manifest(adopt(tmp_path, tmp_path / "hub", tmp_path / "out", Adoption(**HOW)).manifest)
    assert {row.text.caption for row in rows if row.modalities.audio.meta["split"] == "train"} == {"captions"}
    with refused(ManifestError, "every row is of the dataset's own validation or test part"):
        adopt(tmp_path, tmp_path / "hub/val-0.parquet", tmp_path / "out", Adoption(**HOW))


# --- columns ----------------------------------------------------------------------------------------------------------


def test_columns_have_other_names_in_every_kind_of_table(tmp_path):
    rows = [{"path": f"{n}.wav", "Text": f"tone {n}", "caption": "not this"} for n in range(2)]
    (tmp_path / "c.csv").write_text("Path,Text,caption\n0.wav,tone 0,not this\n1.wav,tone 1,not this\n")
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "c.json").write_text(json.dumps(rows, indent=1))
    write(tmp_path / "c.parquet", rows)
    for kind in ("csv", "jsonl", "json", "parquet"):
        lines, left_out = lines_of(tmp_path / f"c.{kind}", {"file": "path", "caption": "Text"})
        assert lines == [{"file": f"{n}.wav", "caption": f"tone {n}"} for n in range(2)] and left_out == []
        with refused(ManifestError, "no column file, got [", "'caption']", "--columns file=NAME,caption=NAME"):
            lines_of(tmp_path / f"c.{kind}")
        with refused(ManifestError, "no column licence, got ["):
            lines_of(tmp_path / f"c.{kind}", {"file": "path", "license": "licence"})


@pytest.mark.parametrize(
    ("text", "columns"),
    [("caption=text,file=audio", {"caption": "text", "file": "audio"}), (" id = a=b ", {"id": "a=b"})],
)
def test_the_option_names_columns(tmp_path, text, columns, monkeypatch):
    asked = []
    monkeypatch.setattr("lumo.adoption.adopt", lambda *given: asked.append(given[4]) or sys.exit(7))
    with pytest.raises(SystemExit, match="7"):
        main(["adopt", str(tmp_path), "clotho", str(tmp_path / "out"), "--profile", "smoke", "--columns", text])
    assert asked == [Options(columns=columns, long="first", golden=64)]


def test_the_command_takes_shards(tmp_path, capsys):
    rows = [{"audio": cell(sound(n)), "text": f"tone {n}"} for n in range(4)]
    write(tmp_path / "hub/data/train-00000-of-00001.parquet", rows)
    asked = ["adopt", *(str(tmp_path / name) for name in ("hub", "hub/data", "out")), "--profile", "smoke"]
    assert main([*asked, "--columns", "file=audio,caption=text"]) == 0
    assert "manifest: " in capsys.readouterr().out
    assert main(asked) == 1
    assert "no column file and no column caption, got ['audio', 'text']" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "caption", "caption=", "words=text", "file=a,file=b", "file=a,,caption=b"])
def test_an_option_that_names_no_columns_is_refused(tmp_path, text, capsys):
    with pytest.raises(SystemExit):
        main(["adopt", str(tmp_path), "c.csv", str(tmp_path / "out"), "--columns", text])
    assert f"got '{text}', expected pairs such as caption=text,file=audio" in capsys.readouterr().err


def test_a_published_datasets_columns_are_its_own(tmp_path):
    with refused(ManifestError, "clotho: has columns of its own; --columns is for a table"):
        adopt(tmp_path, PUBLISHED["clotho"], tmp_path / "out", Adoption(**HOW, columns={"file": "audio"}))


@pytest.mark.parametrize(
    ("text", "fault"), [("[{]", "not JSON"), ("[" * 100_000, "not JSON"), ('{"file": "a"}', "no column caption")]
)
def test_a_json_that_is_no_table_is_refused(tmp_path, text, fault):
    (tmp_path / "c.json").write_text(text)
    with refused(ManifestError, f"{tmp_path / 'c.json'}: {fault}"):
        lines_of(tmp_path / "c.json")


def test_an_entry_of_a_json_that_is_no_row_is_named(tmp_path):
    (tmp_path / "c.json").write_text('[{"file": "a.wav", "caption": "x"}, 3, {"file": "b.wav"}]')
    lines, left_out = lines_of(tmp_path / "c.json")
    assert len(lines) == 1 and left_out == [
        "c.json:[1]: got int, expected an object; mend the row",
        "c.json:[2]: no caption; mend the row",
    ]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_number_as_id_becomes_text_in_every_kind_of_table(tmp_path, kind):
    rows = [{"id": n, "file": f"{n}.wav", "caption": "x"} for n in (0, 70)]
    text = {"jsonl": "".join(json.dumps(row) + "\n" for row in rows), "json": json.dumps(rows)}
    path = tmp_path / f"c.{kind}"
    path.write_text(text[kind]) if kind in text else write(path, rows)
    lines, left_out = lines_of(path)
    assert [line["id"] for line in lines] == ["0", "70"] and left_out == []


@pytest.mark.parametrize("name", [True, 7.0, [7]])
def test_an_id_that_is_neither_text_nor_number_is_left_out(tmp_path, name):
    lines, (told,) = lines_of(write(tmp_path / "c.parquet", [{"id": name, "file": "a.wav", "caption": "x"}]))
    assert lines == [] and f"id is {name}, expected text" in told
