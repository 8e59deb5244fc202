"""A codec of one's own: a Python file that a profile names, without a change to lumo.

    codecs:
      image: {name: own, adapter: my_codec.py, path: weights/mine}

The file has a function `load(params, device)` that gives a `Codec`. params: this section of the profile. It is run as it stands, so a profile
from elsewhere that names one is a program from elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

from lumo.codecs import Codec, CodecError
from lumo.params import ROOT, AudioCodec, ImageCodec
from lumo.wording import in_short

WANTED = ("name", "codebooks", "cardinalities", "frames", "cannot_decode", "card", "read", "encode", "decode")


def load_own(params: ImageCodec | AudioCodec, device: str) -> Codec:
    """Raises CodecError for a file that isn't there, fails, or gives something that is no codec."""
    file = ROOT / os.path.expanduser(params.adapter or "")
    if file.suffix != ".py" or not file.is_file():
        raise CodecError(f"{file}: no such Python file; codecs' adapter names one, relative to the project")
    try:
        codec = _module(file).load(params, device)
    except CodecError:
        raise
    except Exception as error:  # whatever is in it
        reason = in_short(f"{type(error).__name__}: {error}")
        raise CodecError(f"{file}: can't load a codec ({reason}); expected a function load(params, device)") from error
    wanted = (*WANTED, "fit") if isinstance(params, ImageCodec) else (*WANTED, "policy")
    if missing := [name for name in wanted if not hasattr(codec, name)]:
        raise CodecError(f"{file}: its codec has no {', '.join(missing)}; see Codec in lumo/codecs/__init__.py")
    return codec


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lumo_adapter_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
