"""One tokenizer for text, pictures and sound, over the token space and the codecs.

Text from people and datasets is encoded without parsing special tokens: a caption that contains `<|img_start|>` stays text.

Axes: n token · k codebook · t frame.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from lumo import patterns
from lumo.codecs import CodecError, CodecSet, load_codecs
from lumo.machine import device_of
from lumo.media import Audio, Image
from lumo.params import Profile, weights_folder
from lumo.space import TokenSpace, block_names
from lumo.wording import in_short

# what a backbone is made of one by one, as a config of transformers names it; the largest published ones have some hundreds
COUNTED = ("num_hidden_layers", "n_layer", "num_experts", "num_local_experts", "n_routed_experts")
MOST_MODULES = 1024


class UnifiedTokenizer:
    """Media and text to ids of one space, and back."""

    def __init__(self, space: TokenSpace, text: PreTrainedTokenizerFast, codecs: CodecSet):
        self.space, self.text, self.codecs = space, text, codecs
        # what plain text is made of: no special tokens, and no embedding rows that the tokenizer never gives
        self.text_ids = np.array(sorted(set(text.get_vocab().values()) - _special_ids(text)))

    @classmethod
    def of(cls, backbone: Path, codecs: CodecSet) -> UnifiedTokenizer:
        """Over the space of a backbone's folder and a set of codecs. Raises CodecError, as `make_space` does."""
        text = load_text_tokenizer(backbone)
        return cls(_space_of(text, backbone, codecs), text, codecs)

    # --- text ---------------------------------------------------------------------------------------------------------

    def encode_text(self, text: str) -> Int[np.ndarray, "n"]:
        ids = self._encoder().encode(text, add_special_tokens=False).ids
        return self.space.to_ids("text", np.array(ids, dtype=np.int64))

    def _encoder(self) -> Tokenizer:
        """The tokenizer below transformers' own, which takes half the time, with nothing cut and no caption's word taken for a special token.

        Set only where another caller left it otherwise: it can't be while another thread encodes.
        """
        encoder = self.text.backend_tokenizer
        if encoder.truncation is not None:
            encoder.no_truncation()
        if encoder.padding is not None:
            encoder.no_padding()
        if not encoder.encode_special_tokens:
            encoder.encode_special_tokens = True
        return encoder

    def decode_text(self, ids: Int[np.ndarray, "n"]) -> str:
        """Raises SpaceError for an id that isn't text."""
        return self.text.decode(self.space.to_codes("text", ids).tolist(), skip_special_tokens=False)

    # --- pictures and sound -------------------------------------------------------------------------------------------

    def encode(self, modality: str, media: Sequence[Image | Audio]) -> Int[np.ndarray, "b n"]:
        """A batch of pictures or clips to lines of ids of equal length."""
        codes = self.codecs[modality].encode(media)
        books = zip(self.blocks(modality), codes.swapaxes(0, 1), strict=True)
        ids = np.stack([self.space.to_ids(name, book) for name, book in books], 1)
        return np.stack([patterns.flatten(clip) for clip in ids])

    def decode(self, modality: str, ids: Int[np.ndarray, "b n"]) -> list[Image | Audio]:
        """Lines of ids to pictures or clips. Raises SpaceError or ValueError for ids that are not whole, valid frames."""
        codec = self.codecs[modality]
        lines = [patterns.unflatten(np.asarray(line), codec.codebooks) for line in ids]
        return codec.decode(np.stack([self._without_offsets(modality, line) for line in lines]))

    def blocks(self, modality: str) -> list[str]:
        """The block of each codebook, in order."""
        return block_names(modality, self.codecs[modality].codebooks)

    def tokens_of(self, modality: str) -> int:
        """How many tokens a picture, or a clip, has."""
        return self.codecs[modality].frames * self.codecs[modality].codebooks

    def _without_offsets(self, modality: str, ids: Int[np.ndarray, "k t"]) -> Int[np.ndarray, "k t"]:
        return np.stack([self.space.to_codes(name, row) for name, row in zip(self.blocks(modality), ids, strict=True)])


def make_space(backbone: Path, codecs: CodecSet) -> TokenSpace:
    """The space of a backbone and a set of codecs: text takes the embedding's rows, of which a tokenizer may leave some unused.

    Raises CodecError for a tokenizer that isn't this backbone's.
    """
    return _space_of(load_text_tokenizer(backbone), backbone, codecs)


def _space_of(text: PreTrainedTokenizerFast, backbone: Path, codecs: CodecSet) -> TokenSpace:
    config = load_config(backbone)
    _check_fit(text, config, backbone / "config.json")
    rows = config.get_text_config().vocab_size
    card = {
        "tokenizer": type(text).__name__,
        "length": len(text),
        "embedding_rows": rows,
        "sha256": _vocabulary_sha256(text),
    }
    return TokenSpace(rows, card, codecs.image.card, codecs.audio.card)


def _check_fit(text: PreTrainedTokenizerFast, config: PreTrainedConfig, path: Path) -> None:
    """Raises CodecError when a token has no row, or when what the config calls an end or a beginning is no special token."""
    config = config.get_text_config()
    last, special = max(text.get_vocab().values()), _special_ids(text)
    if last >= config.vocab_size:
        raise CodecError(
            f"{path}: vocab_size is {config.vocab_size}, the tokenizer beside it gives ids up to {last}; "
            "take the tokenizer and the weights of one model"
        )
    for name in ("bos_token_id", "eos_token_id"):
        given = getattr(config, name, None)
        for token in given if isinstance(given, list) else [given]:
            if token is not None and token not in special:
                raise CodecError(
                    f"{path}: {name} is {token}, the tokenizer beside it has no special token of that id; "
                    "take the tokenizer and the weights of one model"
                )


def load_tokenizer(profile: Profile) -> UnifiedTokenizer:
    """The unified tokenizer of a profile's backbone and codecs, these on its device.

    Raises ParamsError, HubError, CodecError or MachineError.
    """
    backbone = weights_folder(profile.backbone.path, "backbone")
    codecs = load_codecs(profile.codecs, device_of(profile.device))
    _check_writing(profile, codecs)
    return UnifiedTokenizer.of(backbone, codecs)


def _check_writing(profile: Profile, codecs: CodecSet) -> None:
    """Raises CodecError when the profile trains a task whose answers its codec can't decode: 05 would be the first to need it."""
    for task, modality in (("t2i", "image"), ("t2a", "audio")):
        codec, rates = codecs[modality], profile.stage4.rates
        if codec.cannot_decode and task in profile.tasks:
            raise CodecError(
                f"stage4.rates.{task} is {rates[task]:g}, and codec '{modality}' ({codec.name}) only reads: {codec.cannot_decode}; "
                f"add what is missing (lumo/codecs/README.md), or set stage4.rates.{task} to 0"
            )


def load_config(backbone: Path) -> PreTrainedConfig:
    """A backbone's config. Raises CodecError when the folder holds none of a kind that transformers knows."""
    try:
        said = json.loads((backbone / "config.json").read_text())
        for name in COUNTED:
            if isinstance(said.get(name), int) and said[name] > MOST_MODULES:
                raise ValueError(f"{name} is {said[name]}, expected {MOST_MODULES} at the most")
        return AutoConfig.from_pretrained(backbone, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its checks of single fields raise a class of their own
        raise CodecError(
            f"{backbone / 'config.json'}: no model config that can be read ({in_short(error)}); expected a Hugging Face model folder"
        ) from error


def load_text_tokenizer(backbone: Path) -> PreTrainedTokenizerFast:
    """Raises CodecError when the folder holds no tokenizer."""
    try:
        text = AutoTokenizer.from_pretrained(backbone, local_files_only=True, trust_remote_code=False)
        if not text.is_fast:  # the others have no vocabulary to hash, and parse special tokens in captions
            raise ValueError(f"a {type(text).__name__} without tokenizer.json")
        if not text.encode("a dog"):  # made of nothing, where the folder has a config alone
            raise ValueError("it has no vocabulary; is tokenizer.json there?")
    except Exception as error:  # a tokenizer.json that lacks a part fails in whatever way
        raise CodecError(
            f"{backbone}: no tokenizer that can be read ({in_short(error)}); expected a Hugging Face model folder"
        ) from error
    return text


def _special_ids(text: PreTrainedTokenizerFast) -> set[int]:
    """The special tokens that the tokenizer's config names, and those that its vocabulary marks: either file may know more."""
    return set(text.all_special_ids) | {i for i, token in text.added_tokens_decoder.items() if token.special}


def _vocabulary_sha256(text: PreTrainedTokenizerFast) -> str:
    """The revision of a tokenizer that came without one: a hash of what each id means and of the merges."""
    return hashlib.sha256(text.backend_tokenizer.to_str().encode()).hexdigest()
