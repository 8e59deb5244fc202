"""Media of one size as tensors.

Axes: b picture or clip · h w pixel · c channel · samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumo.codecs import check_clips
from lumo.media import Audio, ClipPolicy, Image


def pixels_of(media: Sequence[Image]) -> Float[Tensor, "b 3 h w"]:
    """Pictures of one size as fp32 in 0…255."""
    return torch.from_numpy(np.stack([image.pixels for image in media])).permute(0, 3, 1, 2).float()


def samples_of(media: Sequence[Audio], policy: ClipPolicy) -> Float[Tensor, "b c samples"]:
    """Clips as fp32, full scale being ±1. Raises CodecError for one that isn't what the policy says."""
    check_clips(media, policy)
    return torch.from_numpy(np.stack([audio.samples for audio in media]))
