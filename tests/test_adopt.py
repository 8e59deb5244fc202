"""Adopting at any size: on several threads the very bytes of one, an interrupt leaves what is whole, and no table is held."""

from __future__ import annotations

import csv
import threading
import tracemalloc
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryFile

import numpy as np
import pyarrow
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from pyarrow import parquet as pq

from lumo import adoption
from lumo.__main__ import main
from lumo.datasets import conversion
from lumo.datasets.conversion import Converter, MemoryBudget
from lumo.datasets.fitting import Adoption, clips_of
from lumo.datasets.folder import adopt
from lumo.datasets.members import Members
from lumo.datasets.spool import Spool
from lumo.datasets.table import read_table, usable
from lumo.media import Audio, ClipPolicy, MediaError, read_image

HOW = Adoption((32, 32), ClipPolicy(8000, 1, 0.25), golden=2)
FILES = 12


@pytest.fixture
def folder(tmp_path):
    """Sounds of one and of several parts, and pictures; one of each is broken."""
    folder = tmp_path / "media"
    folder.mkdir()
    for n in range(FILES):
        wave = 0.3 * np.sin(np.arange(2000 * (1 + n % 3)) * 0.05 * (n + 1))
        soundfile.write(folder / f"s{n}.wav", wave, 8000)
        PILImage.new("RGB", (40 + n, 50), (20 * n, 20, 30)).save(folder / f"p{n}.png")
    (folder / "s3.wav").write_bytes(b"RIFF")
    (folder / "p3.png").write_bytes(b"")
    return folder


def table(folder):
    """Three captions a file, some side by side and some far away, and rows that can't be used."""
    names = [f"{kind}{n}.{suffix}" for n in range(FILES) for kind, suffix in (("s", "wav"), ("p", "png"))]
    rows = [(name, f"{name} said in way {way}") for name in names for way in range(2)]
    rows += [
        ("none.wav", "gone"),
        ("../out.wav", "outside"),
        ("s1.wav", "s1.wav said in way 0"),
        ("s1.txt", "no sound"),
    ]
    rows += [(name, f"{name} once more") for name in names]
    path = folder.parent / "c.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), *rows])
    return path


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("long", ["first", "split"])
def test_any_number_of_threads_writes_the_same_bytes(folder, tmp_path, long):
    how = Adoption(HOW.resolution, HOW.clips, golden=2, long=long)
    results = [adopt(folder, table(folder), tmp_path / f"by-{n}", how, workers=n) for n in (1, 4)]
    one, four = (contents(tmp_path / f"by-{n}") for n in (1, 4))
    assert one == four and sum(name.endswith((".png", ".wav")) for name in one) >= 2 * (FILES - 1)
    assert results[0].left_out == results[1].left_out and len(results[0].left_out) == 10
    assert (results[0].rows, results[0].done) == (results[1].rows, results[1].done)


def test_files_of_a_parquet_come_in_its_order_to_any_number_of_threads(folder, tmp_path, monkeypatch):
    names = [f"{kind}{n}.{suffix}" for n in range(FILES) for kind, suffix in (("s", "wav"), ("p", "png"))]
    rows = [{"file": {"bytes": (folder / name).read_bytes(), "path": None}, "caption": name} for name in names]
    pq.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=3)
    asked, read = [], Members.read
    monkeypatch.setattr(Members, "read", lambda self, line: asked.append(int(line["row"])) or read(self, line))
    for n in (1, 4):
        adopt(folder, tmp_path / "c.parquet", tmp_path / f"by-{n}", HOW, workers=n)
        assert asked == sorted(asked) and len(asked) >= 2 * (FILES - 1)
        asked.clear()
    assert contents(tmp_path / "by-1") == contents(tmp_path / "by-4")


def test_what_is_asked_for_side_by_side_is_made_once(folder, tmp_path, monkeypatch):
    read, asked = conversion.read_audio, Counter()
    monkeypatch.setattr(conversion, "read_audio", lambda path: asked.update([path.name]) or read(path))
    (tmp_path / "c.csv").write_text("file,caption\n" + "".join(f"s{n % 2}.wav,tone {n}\n" for n in range(40)))
    assert adopt(folder, tmp_path / "c.csv", tmp_path / "out", HOW, workers=4).rows["audio"] == 40
    assert asked == {"s0.wav": 1, "s1.wav": 1}


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_made_ahead_than_can_be_held(folder, tmp_path, monkeypatch, workers):
    begun, ahead = [], []
    monkeypatch.setattr(Members, "read", lambda self, line: begun.append(line))  # no member: a file of its own
    adopt(folder, table(folder), tmp_path / "out", HOW, lambda done, of: ahead.append(len(begun) - done), workers)
    assert 2 <= max(ahead) <= 2 * workers + 1


@pytest.mark.parametrize("workers", [1, 4])
def test_an_interrupt_leaves_what_is_whole_and_the_next_call_makes_the_rest(folder, tmp_path, workers):
    def interrupt(done, of):
        if done == 9:
            raise KeyboardInterrupt

    out, captions, threads = tmp_path / "out", table(folder), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        adopt(folder, captions, out, HOW, interrupt, workers)
    assert threading.active_count() == threads
    assert not (out / "manifest.jsonl").exists() and not list(out.rglob("*.partial"))
    before = {path: path.stat().st_mtime_ns for path in [*out.rglob("*.png"), *out.rglob("*.wav")]}
    assert 3 <= len(before) < 2 * (FILES - 1)
    adopt(folder, captions, out, HOW, workers=workers)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    adopt(folder, captions, tmp_path / "clean", HOW)
    assert contents(out) == contents(tmp_path / "clean")


def test_many_threads_refuse_every_bomb(folder, monkeypatch):
    """Pillow only warns of them, and what becomes of warnings is the whole process's."""
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 45 * 50)
    before, names = list(warnings.filters), ["p0.png", "p11.png"] * 200  # 40 and 51 pixels wide

    def size(name):
        try:
            return read_image(folder / name).resolution
        except MediaError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(size, names))
    assert len(found) == 2 and (50, 40) in found
    assert any("exceeds limit" in told for told in found if isinstance(told, str))
    assert warnings.filters == before


def test_the_option_says_how_many(folder, tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(adoption.own, "adopt", lambda *given: asked.update(workers=given[-1]) or 1 / 0)
    line = ["adopt", str(folder), str(table(folder)), str(tmp_path / "out"), "--profile", "smoke"]
    for more, workers in ((["--workers", "3"], 3), ([], adoption.cores())):
        with pytest.raises(ZeroDivisionError):
            main([*line, *more])
        assert asked["workers"] == workers >= 1
    with pytest.raises(SystemExit):
        main([*line, "--workers", "0"])
    assert "got '0', expected a whole number above 0" in capsys.readouterr().err


# --- what is held -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_of_a_table_one_row_is_held(tmp_path, kind):
    path = tmp_path / f"c.{kind}"
    line = 'f{0}.wav,"{1} {0}"\n' if kind == "csv" else '{{"file": "f{0}.wav", "caption": "{1} {0}"}}\n'
    with path.open("w") as file:
        file.write("file,caption\n" if kind == "csv" else "")
        file.writelines(line.format(n, "word " * 40) for n in range(10_000))
    tracemalloc.start()
    try:
        count = sum(1 for _ in usable(read_table(path, {}, []), []))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 10_000 and peak < path.stat().st_size / 4


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.text() | st.dictionaries(st.text(), st.text() | st.integers()))), st.integers(0, 5))
def test_spooled_rows_come_back_each_time_they_are_gone_through(values, first):
    with TemporaryFile() as file:
        rows = Spool(iter(values), file)
        assert len(rows) == len(values)
        for _, value in zip(range(first), rows, strict=False):  # left half-way
            assert value in values
        assert list(rows) == list(rows) == values


def test_memory_is_shared_and_one_that_wants_more_than_all_has_it_alone():
    memory, together, most = MemoryBudget(100), Counter(), []

    def work(size):
        with memory.held(size):
            together[size] += 1
            most.append(dict(+together))
            together[size] -= 1

    threads = [threading.Thread(target=work, args=(size,)) for size in (60, 30, 500, 60, 500, 10) * 20]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(most) == len(threads) and memory.taken == 0
    assert all(held == {500: 1} or sum(size * n for size, n in held.items()) <= 100 for held in most)


def test_a_sound_takes_its_memory_while_it_is_read(folder, tmp_path, monkeypatch):
    taken, read = [], conversion.read_audio
    converter = Converter(folder, tmp_path / "out", HOW)
    monkeypatch.setattr(conversion, "read_audio", lambda path: taken.append(converter.memory.taken) or read(path))
    for name in ("s1.wav", "s2.wav"):
        converter.convert(name)
    with pytest.raises(MediaError):
        converter.convert("s3.wav")  # broken: nobody can tell
    assert taken == [4 * 4000, 4 * 6000, 0] and converter.memory.taken == 0


# --- a beginning ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([4000, 8000, 11_025, 22_050, 44_100, 48_000]), st.sampled_from([8000, 16_000, 24_000, 44_100]),
    st.sampled_from([0.25, 1.0]), st.floats(0.1, 4.0), st.integers(0, 9),
)  # fmt: skip
def test_a_beginning_is_bit_for_bit_that_of_the_whole_sound(rate, wanted, kept, seconds, seed):
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (2, max(1, round(seconds * rate)))).astype(np.float32)
    policy, done = ClipPolicy(wanted, 1, kept), Counter()
    (clip,) = clips_of(Audio(samples, rate), Adoption((8, 8), policy), done)
    mono = samples.mean(0, keepdims=True)
    slow = mono if rate == wanted else soxr.resample(mono.T, rate, wanted, quality="HQ").T
    whole = slow[:, : policy.samples]
    assert np.array_equal(clip.samples[:, : whole.shape[1]], whole) and not clip.samples[:, whole.shape[1] :].any()
    assert done["sounds cut"] == (slow.shape[1] > policy.samples)
