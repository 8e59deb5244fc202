"""COCO captions: `captions_{train,val}20{14,17}.json`, {"images": [{"id", "file_name", "license"}], "annotations": [{"id", "image_id",
"caption"}], "licenses": [{"id", "url", "name"}]}, five captions a picture. Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from lumo.datasets.formats.reading import Files, json_of, license_name, named, objects, stem
from lumo.datasets.manifest import ManifestError
from lumo.datasets.table import Lines

KEYS = {
    "licenses": {"id": int, "url": str},
    "images": {"id": int, "file_name": str, "license": int},
    "annotations": {"id": int, "image_id": int, "caption": str},
}


def read(files: Files, left_out: list[str]) -> Lines:
    for path in files.named("captions_*.json"):
        content = json_of(path)
        given = content if isinstance(content, dict) else {}
        lists = {name: list(objects(path, given.get(name), keys, left_out, name)) for name, keys in KEYS.items()}
        licenses = {row["id"]: row["url"] for _, row in lists["licenses"]}
        pictures = {row["id"]: row for _, row in lists["images"]}
        for where, row in lists["annotations"]:
            with named(where, left_out):
                picture = pictures.get(row["image_id"])
                if picture is None:
                    raise ManifestError(f"picture {row['image_id']} isn't in the list of images")
                line = {
                    "file": files.picture(stem(picture["file_name"])),
                    "caption": row["caption"],
                    "id": f"coco-{row['id']}",
                    "group": f"coco/{row['image_id']}",
                    "license": license_name(licenses.get(picture["license"], "")),
                    "split": "train" if "train" in path.stem else "eval",
                }
                yield where, line
