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
    """Of the lines about a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cells = Cells()

    @contextmanager
    def on_disk(self, line: Mapping[str, str], file: str) -> Iterator[Path]:
        """The file; what lies within another one gets a folder of its own for as long as it is needed. Raises ManifestError."""
        data = self._bytes(line)
        if data is None:
            yield self.folder.resolve() / file
            return
        with tempfile.TemporaryDirectory() as here:
            path = Path(here) / f"member{Path(file).suffix}"
            path.write_bytes(data)
            try:
                yield path
            except MediaError as error:
                raise MediaError(str(error).replace(str(path), file)) from error

    def _bytes(self, line: Mapping[str, str]) -> bytes | None:
        """What lies within a tar or a parquet; None for a file of its own."""
        if "shard" in line:
            return self.cells.read(Path(line["shard"]), line["column"], int(line["row"]), Path(line["file"]).stem)
        if "archive" in line:
            with inside(self.folder, line["archive"]).open("rb") as archive:
                archive.seek(int(line["offset"]))
                return archive.read(int(line["size"]))
        return None
