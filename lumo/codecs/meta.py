"""EnCodec's weights in the format of Meta's own package: one `.th` file, 24 or 48 kHz, into transformers' model.

Source: the layouts of both state dicts, github.com/facebookresearch/encodec and transformers' `EncodecModel`.
"""

from __future__ import annotations

import re
from pathlib import Path

from transformers import EncodecConfig, EncodecModel

from lumo.codecs import CodecError
from lumo.codecs.pickles import DAMAGED, read_pickle, reason, renamed

# by the channels of the first convolution; a `.th` file says nothing else about itself
CONFIGS = {
    1: {},  # 24 kHz: what EncodecConfig has as its defaults
    2: {
        "sampling_rate": 48_000, "audio_channels": 2, "normalize": True, "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
        "chunk_length_s": 1.0, "overlap": 0.01, "norm_type": "time_group_norm", "use_causal_conv": False,
    },
}  # fmt: skip
# weights that are normalised have two names, older torch's and newer torch's; both sides keep the norm and the direction
RENAMED = (
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.(conv|convtr)\.(conv|convtr)\.", ".conv."),
    (r"\.(conv|convtr)\.norm\.", ".norm."),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
)


def read_meta(path: Path) -> EncodecModel:
    """The model, from a file that `encodec` loads as well. Raises CodecError for anything else, a pickle that runs code included."""
    try:
        state = read_pickle(path)
        first = next((key for key in state if re.fullmatch(r"encoder\.model\.0\.conv\.conv\.weight(_v)?", key)), None)
        if first is None:
            raise ValueError("no encoder.model.0.conv.conv in it")
        model = EncodecModel(EncodecConfig(**CONFIGS[state[first].shape[1]]))
        ours = {renamed(key, RENAMED): value for key, value in state.items()}
        missing, unexpected = model.load_state_dict(ours, strict=False)
        if missing or unexpected:
            raise ValueError(f"lacks {sorted(missing)[:3]}, has {sorted(unexpected)[:3]} besides")
    except DAMAGED as error:
        raise CodecError(f"{path}: no EnCodec of Meta's that can be read ({reason(error)}); fetch it again") from error
    return model.eval()
