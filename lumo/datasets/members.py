"""The file that a line names, as one that can be opened: in the folder, in a tar, or in a parquet's cell."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lumo.datasets.manifest import inside
from lumo.datasets.parquet import Cells
from lumo.media import MediaError


class Members:
    """What lies within other files of a folder. Cells of a parquet come fast in the table's order alone."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cells = Cells()

    def read(self, line: Mapping[str, str]) -> bytes | None:
        """What lies within a tar or a parquet; None for a file of its own. Raises ManifestError, and MediaError for a tar that can't be read."""
        if "shard" in line:
            return self.cells.read(Path(line["shard"]), line["column"], int(line["row"]), Path(line["file"]).stem)
        if "archive" in line:
            try:
                with inside(self.folder, line["archive"]).open("rb") as archive:
                    archive.seek(int(line["offset"]))
                    return archive.read(int(line["size"]))
            except OSError as error:
                raise MediaError(f"{line['archive']}: can't be read ({error.strerror or error})") from error
        return None


@contextmanager
def on_disk(folder: Path, file: str, member: bytes | None) -> Iterator[Path]:
    """The file; what lies within another one gets a folder of its own for as long as it is needed."""
    if member is None:
        yield folder / file
        return
    with tempfile.TemporaryDirectory() as here:
        path = Path(here) / f"member{Path(file).suffix}"
        path.write_bytes(member)
        try:
            yield path
        except MediaError as error:
            raise MediaError(str(error).replace(str(path), file)) from error
