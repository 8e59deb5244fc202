"""How much memory a codec takes where it computes: its weights, and what a batch needs beside them.

Counted on networks that have shapes and no values, by the tensors that live at once; so it needs config.json alone, SEED-2 nothing. What
a library of convolutions sets aside for itself isn't counted.

Axes: b clip or picture · c channel · h w pixel.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lumo.codecs.seed2 import DRAWN_AT_ONCE
from lumo.codecs.seed2_network import Seed2, Seed2Config
from lumo.codecs.sizes import bare_audio
from lumo.codecs.taming import read_config
from lumo.codecs.vqgan import Vqgan
from lumo.params import AudioCodec, ImageCodec, weights_folder

# Stable unCLIP 2.1: U-Net, VAE, image and text encoder of 870, 84, 632 and 340 million numbers; and what drawing takes beside them, in
# numbers too: the VAE for one picture of 768 x 768 (they are decoded one by one), the U-Net for each of those that are drawn at once.
# Counted, as all here, on diffusers' and transformers' modules of those sizes.
UNCLIP_NUMBERS, VAE_DRAWING, UNET_DRAWING = 1_926_291_627, 432 * 2**20, 144 * 2**20


@dataclass(frozen=True)
class Memory:
    """weights_bytes: of the networks; late_bytes: of those that are read when a first picture is drawn

    encoding_bytes, decoding_bytes: the most that one clip or picture takes beside them
    encodes_batches, decodes_batches: whether a batch goes at once
    """

    weights_bytes: int = 0
    late_bytes: int = 0
    encoding_bytes: int = 0
    decoding_bytes: int = 0
    encodes_batches: bool = True
    decodes_batches: bool = True

    def encoding(self, batch: int) -> int:
        """Bytes that a batch takes."""
        return self.encoding_bytes * (batch if self.encodes_batches else 1)

    def decoding(self, batch: int) -> int:
        return self.decoding_bytes * (batch if self.decodes_batches else 1)


def image_memory(params: ImageCodec, device: str) -> Memory:
    """The miniature's own is a table, and next to nothing; of a user's own nothing is known.

    device: on CUDA unCLIP draws in half precision
    Raises ParamsError or CodecError, as `image_sizes` does.
    """
    if params.name in ("twotone", "own"):
        return Memory()
    return _seed2(device) if params.name == "seed2" else _vqgan(params)


def _seed2(device: str) -> Memory:
    config = Seed2Config()
    with torch.device("meta"):
        model, pixels = Seed2(config).eval(), torch.zeros(1, 3, config.resolution, config.resolution)
        encoding = peak_bytes(model, lambda: model.vectors(pixels))
    width = 2 if device == "cuda" else 4
    drawing = max(VAE_DRAWING, DRAWN_AT_ONCE * UNET_DRAWING)
    return Memory(_bytes(model), width * UNCLIP_NUMBERS, encoding, width * drawing, decodes_batches=False)


def _vqgan(params: ImageCodec) -> Memory:
    config = read_config(weights_folder(params.path, "image_codec", ("model.yaml",)) / "model.yaml")
    sizes = config.ddconfig
    with torch.device("meta"):
        model, pixels = Vqgan(config).eval(), torch.zeros(1, 3, sizes.resolution, sizes.resolution)
        cells = torch.zeros(1, sizes.heights[-1] ** 2, dtype=torch.long)
        encoding = peak_bytes(model, lambda: model.encode(pixels))
        decoding = peak_bytes(model, lambda: model.decode(cells))
    return Memory(_bytes(model), 0, encoding, decoding, encodes_batches=False, decodes_batches=False)


def audio_memory(params: AudioCodec) -> Memory:
    """As `image_memory`. Of a long clip a second is counted, and the rest in proportion; of one in segments, the longest segment."""
    if params.name in ("spectral", "own"):
        return Memory()
    codec = bare_audio(params)
    config = codec.model.config
    whole = min(codec.policy.samples, getattr(config, "chunk_length", None) or codec.policy.samples)
    some = min(whole, config.sampling_rate)
    # EnCodec computes its padding from buffers, which on the device "meta" have no values
    with FakeTensorMode() if params.name == "encodec" else torch.device("meta"):
        model = type(codec.model)(config).eval()
        clip = torch.zeros(1, codec.policy.channels, some)
        vectors = torch.zeros(1, config.hidden_size, -(-some // config.hop_length))
        encoding = peak_bytes(model, lambda: model.encoder(clip)) * whole // some
        decoding = peak_bytes(model, lambda: model.decoder(vectors)) * whole // some
    return Memory(_bytes(model), 0, encoding, decoding)


def peak_bytes(model: nn.Module, run: Callable[[], Any]) -> int:
    """The most that tensors held at once while something ran, the model's own weights left aside."""
    with torch.no_grad(), _Living(model) as living:
        run()
    return living.most


class _Living(TorchDispatchMode):
    """Counts storages from the operation that makes them until nothing holds them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakKeyDictionary({value.untyped_storage(): True for value in model.state_dict().values()})

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.known:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.known[storage] = True
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def _bytes(model: nn.Module) -> int:
    return sum(value.nbytes for value in model.state_dict().values())
