"""Files are whole or not there: also when the disk is full, and when the run is interrupted."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import pytest

from lumo.files import printable, write_atomically

OLD, NEW = b"old", b"new" * 20_000


def only_the_old(path) -> bool:
    return path.read_bytes() == OLD and [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folder" / "file.json"
    assert write_atomically(path, OLD) == path
    return path


def test_writes_text_and_bytes_over_what_was_there(path):
    write_atomically(path, "é\r\n")
    assert path.read_bytes() == "é\r\n".encode()
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["lumo.files.os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_partial(path, monkeypatch, at, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr(at, fail)
    with pytest.raises(type(fault)):
        write_atomically(path, NEW)
    monkeypatch.undo()
    assert only_the_old(path)


def test_a_write_that_the_system_cuts_keeps_the_old_file(path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OSError, match="too large"):
            write_atomically(path, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert only_the_old(path)


def test_a_disk_that_is_really_full(tmp_path):
    script = (
        "import errno, pathlib, lumo.files as f\n"
        "path = pathlib.Path('disk/file')\n"
        "f.write_atomically(path, b'old')\n"
        "try: f.write_atomically(path, b'n' * 200_000); print('written')\n"
        "except OSError as error: print(error.errno == errno.ENOSPC)\n"
        "print(path.read_bytes(), len(list(path.parent.iterdir())))"
    )
    (tmp_path / "disk").mkdir()
    # a mount of its own, that goes with the process
    mount = 'mount -t tmpfs -o size=64k none disk && echo mounted && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", script]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if not done.stdout.startswith("mounted"):
        pytest.skip(f"no right to mount here: {done.stderr.strip()}")
    assert done.stdout.splitlines()[1:] == ["True", "b'old' 1"], done


def test_text_from_outside_stays_one_line_that_can_be_written():
    hostile = "evil\nmanifest: fine \x1b[2J\x9b31m \udcff Café 雨"
    assert printable(hostile) == "evil\\nmanifest: fine \\x1b[2J\\x9b31m \\udcff Café 雨"
    printable(hostile).encode()
