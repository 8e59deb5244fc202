"""`lumo adopt`: a folder of pictures and sounds, made ready for a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lumo.commands.options import PROFILE, Commands, add_command, count, profile_of

if TYPE_CHECKING:
    from lumo.datasets.folder import Adopted

SUMMARY = "make a folder of pictures and sounds, your own or a published dataset's, ready for a run"
MORE = """as in:
  lumo adopt my_folder captions.csv data/mine      a table with the columns file and caption
  lumo adopt hub/ hub/data data/hub --columns file=audio,caption=text      parquet shards as on the Hugging Face hub
  lumo adopt clotho/ clotho data/clotho            as its authors publish it; lumo/datasets/README.md has the names"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "adopt", SUMMARY, MORE)
    option = parser.add_argument
    option("folder", metavar="FOLDER", type=Path, help="where the files lie")
    option(
        "captions",
        metavar="CAPTIONS",
        help="CSV, JSONL, JSON or parquet with file and caption (and id, license, source, subtype), or a folder of parquet shards; or a published dataset's name, such as clotho",
    )
    option(
        "out", metavar="OUT", type=Path, help="a new folder for files of the codecs' size, the manifest and a profile"
    )
    option("--profile", metavar="NAME", default="mini", help=f"whose codecs the files are for: {PROFILE}")
    option(
        "--columns",
        metavar="OURS=THEIRS,...",
        type=_columns,
        help="columns that the table has under other names, as in caption=text,file=audio",
    )
    option("--fit", choices=("crop", "stretch"), help="pictures of other proportions (stretch for SEED-2, else crop)")
    option("--long", choices=("first", "split"), default="first", help="sounds longer than a clip (%(default)s)")
    option(
        "--golden",
        metavar="N",
        type=int,
        default=64,
        help="pictures, sounds, and pairs of them, kept for the golden suites (%(default)s)",
    )
    option("--workers", metavar="N", type=count, help="threads that make files (as many as there are cores)")
    option("--license", help="for rows that don't say (unknown, or the dataset's)")
    option("--source", help="what the data is called (mine, or the dataset's name)")
    option("--subtype", choices=("speech", "sfx", "music"), help="of sounds whose row doesn't say")
    parser.set_defaults(command=_adopt)


def _columns(text: str) -> dict[str, str]:
    """An argument's type: lumo's column names → the table's."""
    from lumo.datasets.table import COLUMNS

    pairs = [pair.partition("=") for pair in text.split(",")]
    columns = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    if len(columns) < len(pairs) or not all(columns.values()) or not columns.keys() <= set(COLUMNS):
        raise argparse.ArgumentTypeError(
            f"got '{text}', expected pairs such as caption=text,file=audio, each of {', '.join(COLUMNS)} once at the most"
        )
    return columns


def _adopt(options: argparse.Namespace) -> None:
    from lumo import adoption, show
    from lumo.datasets.published import captions_of
    from lumo.files import place_of
    from lumo.params import load_profile

    profile = load_profile(profile_of(options))
    captions = captions_of(options.captions)
    folder, out = (place_of(path) for path in (options.folder, options.out))
    asked = adoption.Options(
        fit=options.fit,
        long=options.long,
        golden=options.golden,
        license=options.license,
        source=options.source,
        subtype=options.subtype,
        columns=options.columns,
    )
    pace = show.Pace("rows")
    with show.Live("files") as live:
        result, written = adoption.adopt(
            profile, folder, captions, out, asked, lambda done, of: live.update(pace(done, of)), options.workers
        )
    say(result, written)


def say(result: Adopted, profile: Path) -> None:
    """What the dataset has, the first reasons of what it hasn't, and the next command."""
    from lumo import show

    print(show.facts({**result.rows, **+result.done, "rows left out": len(result.left_out)}).text)
    for line in result.left_out[:10]:
        print(line, file=sys.stderr)
    if len(result.left_out) > 10:
        left_out = result.manifest.with_name("left_out.txt")
        print(f"and {len(result.left_out) - 10} more, in {left_out}", file=sys.stderr)
    print(f"manifest: {result.manifest}\nnext: lumo report --profile {profile}")
