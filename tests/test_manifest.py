"""The manifest: what is wrong with a row is named in one line with its number, and the other rows go on."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import product

import pytest
from refusals import check_line, refused

from lumo.datasets import manifest_of, previews, world
from lumo.datasets.manifest import ManifestError, inside, read_manifest
from lumo.datasets.world import rows as world_rows
from lumo.params import load_profile

GOOD = {
    "id": "a",
    "modalities": {"image": {"path": "a.png", "meta": {"kind": "image"}}},
    "text": {"caption": "a red circle"},
    "task": "i2t",
    "source": "own",
    "license": "CC0-1.0",
}


def without(key: str) -> dict:
    return {name: value for name, value in GOOD.items() if name != key}


def read(tmp_path, *lines):
    path = tmp_path / "manifest.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return read_manifest(path)


BAD = {
    "not json": ("{nonsense", "invalid JSON"),
    "cut": (json.dumps(GOOD)[:-5], "invalid JSON"),
    "two on a line": (json.dumps(GOOD) * 2, "invalid JSON"),
    "a list": ("[1, 2]", "should be an object"),
    "a number": ("7", "should be an object"),
    "deep": ("[" * 100_000, "recursion limit"),
    "half a surrogate": (json.dumps({**GOOD, "text": {"caption": "\ud800"}}), "invalid JSON"),
    "unknown key": ({**GOOD, "colour": 1}, "colour: extra inputs are not permitted"),
    "unknown key inside": ({**GOOD, "text": {"caption": "a", "title": "b"}}, "text.title: extra inputs"),
    "unknown modality": ({**GOOD, "modalities": {"video": {"path": "a"}}}, "modalities.video: extra inputs"),
    "unknown key in two lines": ({**GOOD, "two\nlines": 1}, "two lines: extra inputs"),
    "wrong type": ({**GOOD, "id": 7}, "id: input should be a valid string"),
    "unknown subtype": ({**GOOD, "subtype": "noise"}, "subtype: input should be 'speech', 'sfx' or 'music'"),
    "no path": ({**GOOD, "modalities": {"image": {}}}, "modalities.image.path: field required"),
    "empty path": ({**GOOD, "modalities": {"image": {"path": ""}}}, "modalities.image.path: got ''"),
    "null byte": ({**GOOD, "modalities": {"image": {"path": "a\0.png"}}}, r"path: got 'a\x00.png'"),
    "path in two lines": ({**GOOD, "modalities": {"image": {"path": "a\n.png"}}}, r"path: got 'a\n.png'"),
    "empty id": ({**GOOD, "id": ""}, "id: got '', expected a name"),
    "id in two lines": ({**GOOD, "id": "a\nB"}, r"id: got 'a\nB', expected a name without control characters"),
    "empty caption": ({**GOOD, "text": {"caption": ""}}, "'a' has an empty caption"),
    "blank caption": ({**GOOD, "text": {"caption": " \n\t\u00a0 "}}, "'a' has an empty caption"),
    "no caption": ({**GOOD, "text": {}}, "'a' has an empty caption"),
    "no media": ({**GOOD, "modalities": {}}, "'a' has neither image nor audio"),
    **{f"no {key}": (without(key), f"{key}: field required") for key in GOOD},
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_and_stops_nothing(tmp_path, case):
    line, words = BAD[case]
    rows, left_out = read(tmp_path, {**GOOD, "id": "first"}, line, {**GOOD, "id": "last"})
    assert [row.id for row in rows] == ["first", "last"]
    assert len(left_out) == 1
    check_line(left_out[0], "manifest.jsonl:2: ", words, "; mend the row")


def test_of_two_rows_with_one_id_the_first_is_kept(tmp_path):
    rows, left_out = read(tmp_path, GOOD, {**GOOD, "id": "b"}, {**GOOD, "source": "another"})
    assert [(row.id, row.source) for row in rows] == [("a", "own"), ("b", "own")]
    check_line(left_out[0], "manifest.jsonl:3: id 'a' appears twice, the first is kept")


def test_an_id_whose_first_row_was_bad_may_come_again(tmp_path):
    rows, left_out = read(tmp_path, {**GOOD, "text": {}}, GOOD)
    assert [row.id for row in rows] == ["a"] and len(left_out) == 1


def test_blank_lines_and_windows_line_ends_are_nothing(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b"\r\n" + json.dumps(GOOD).encode() + b"\r\n  \r\n\n")
    assert len(read_manifest(tmp_path / "m.jsonl")[0]) == 1 and not read_manifest(tmp_path / "m.jsonl")[1]
    (tmp_path / "m.jsonl").touch()
    assert read(tmp_path) == ([], [])


@pytest.mark.parametrize("caption", ["U+2028 \u2028 and U+0085 \x85", "a \v \f \x1c b", "🎈 <b>", "x" * 10_000])
def test_a_caption_comes_back_as_it_was(tmp_path, caption):
    """JSON may hold U+2028 as it is: it doesn't end the line."""
    path = tmp_path / "manifest.jsonl"
    for ascii_only in (True, False):
        path.write_text(json.dumps({**GOOD, "text": {"caption": caption}}, ensure_ascii=ascii_only) + "\n", "utf-8")
        rows, left_out = read_manifest(path)
        assert not left_out and rows[0].text.caption == caption


def test_no_manifest_at_all(tmp_path):
    with refused(ManifestError, "nowhere.jsonl: can't be read", "No such file", "one JSON object a line"):
        read_manifest(tmp_path / "nowhere.jsonl")
    with refused(ManifestError, "can't be read", "Is a directory"):
        read_manifest(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(json.dumps({**GOOD, "id": "é"}, ensure_ascii=False).encode("latin-1"))
    with refused(ManifestError, "latin.jsonl: can't be read ('utf-8' codec"):
        read_manifest(tmp_path / "latin.jsonl")


def test_the_worlds_rows_are_good_rows(tmp_path):
    described = list(world_rows(seed=0, images=20, clips=12, pairs=6))
    rows, left_out = read(tmp_path, *described)
    assert not left_out
    assert [row.model_dump(mode="json", exclude_none=True)["id"] for row in rows] == [row["id"] for row in described]
    assert {row.task for row in rows} == {"i2t", "a2t", "ia2t"}


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    base = tmp_path / "data"
    (base / "sub").mkdir(parents=True)
    (base / "sub" / "a.png").touch()
    (tmp_path / "secret.png").touch()
    (base / "link.png").symlink_to(tmp_path / "secret.png")
    (base / "out").symlink_to(tmp_path)
    (base / "in.png").symlink_to(base / "sub" / "a.png")
    (base / "loop").symlink_to("loop")
    return base


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "sub/../../secret.png",
        "/etc/hostname",
        "link.png",
        "out/secret.png",
        "out/data/../secret.png",
        "..",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(folder, path):
    with refused(ManifestError, f"{path}: leaves the manifest's folder {folder}", "put the file inside it"):
        inside(folder, path)


def test_a_folder_whose_name_only_begins_the_same_is_outside(folder):
    (folder.parent / "data-2").mkdir()
    with refused(ManifestError, "leaves the manifest's folder"):
        inside(folder, "../data-2/a.png")


@pytest.mark.parametrize("path", ["loop", "a\0b"])
def test_what_is_no_path_is_refused(folder, path):
    with refused(ManifestError, "no path", "name a file in the manifest's folder"):
        inside(folder, path)


def test_no_path_of_any_links_leaves_the_folder(folder):
    """Of `loop/../x` Python lets a link `x` stand. What is opened is what the system makes of a path, not what was read of it."""
    (folder / "winding.png").symlink_to("loop/../link.png")
    (folder / "gone").symlink_to("none/../out")
    parts, opened = (
        ("loop", "..", "link.png", "winding.png", "out", "gone", "none", "sub", "a.png", "secret.png"),
        set(),
    )
    for path in ("/".join(own) for length in (1, 2, 3) for own in product(parts, repeat=length)):
        with suppress(ManifestError):
            found = inside(folder, path)
            opened |= {found} if found.is_file() else set()
    assert opened == {folder / "sub" / "a.png"}
    for path in ("loop/../link.png", "winding.png", "none/../loop/../link.png", "loop/../out/secret.png"):
        with refused(ManifestError, "no path", "name a file in the manifest's folder"):
            inside(folder, path)


@pytest.mark.parametrize("path", ["sub/a.png", "./sub/a.png", "sub/../sub/a.png", "in.png", "out/data/sub/a.png"])
def test_a_path_inside_is_found(folder, path):
    assert inside(folder, path) == folder / "sub" / "a.png"


# --- which manifest ---------------------------------------------------------------------------------------------------


def test_a_profile_names_its_manifest_or_gets_the_world(tmp_path, monkeypatch):
    own = load_profile("smoke", {"data": {"manifest": str(tmp_path / "mine.jsonl")}})
    assert manifest_of(own, tmp_path / "world") == tmp_path / "mine.jsonl"
    assert not (tmp_path / "world").exists()
    asked = []
    monkeypatch.setattr(
        "lumo.datasets.write_world", lambda folder, **how_many: asked.append(how_many) or folder / "manifest.jsonl"
    )
    profile = load_profile("smoke", {"seed": 7})
    assert manifest_of(profile, tmp_path / "world") == tmp_path / "world" / "manifest.jsonl"
    assert asked == [{"seed": 7, **profile.world.model_dump()}]


def test_previews_pass_over_what_cant_be_read_and_never_leave_the_folder(tmp_path):
    manifest = world.write_world(tmp_path / "world", seed=0, images=6, clips=2)
    (tmp_path / "secret.png").write_bytes(next((manifest.parent / "image").rglob("*.png")).read_bytes())
    rows, _ = read_manifest(manifest)
    pictures = [row for row in rows if row.modalities.image][:4]
    outside, missing, *good = [row.model_copy(deep=True) for row in pictures]
    object.__setattr__(outside.modalities.image, "path", "../secret.png")
    object.__setattr__(missing.modalities.image, "path", "image/none.png")
    shown = previews(manifest, [outside, missing, *good], "image", 3)
    assert [caption for _, caption in shown] == [row.text.caption for row in good]
    assert len(previews(manifest, rows, "audio", 1)) == 1
