"""SEED-2's network and its published files: picture → 32 codes → one image embedding of CLIP ViT-H/14.

Source: Ge et al. 2023, "Making LLaMA SEE and draw with SEED tokenizer"; the names and shapes in `seed_quantizer.pt` are those of
github.com/AILab-CVC/SEED, `models/seed_qformer`, and those in `eva_vit_g.pth` are LAVIS's. Vision tower and Q-Former are BLIP-2's, so
transformers has them; what is SEED-2's own is that a query looks only at the queries before it, and all that comes after.

Axes: b picture · q query, of which each gives a code · d width of a code's vector · e embedding · h w pixel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel

from lumo.codecs import CodecError
from lumo.codecs.pickles import DAMAGED, read_pickle, reason, renamed, unusable
from lumo.codecs.vectors import nearest

QUANTIZER, VISION = "seed_quantizer.pt", "eva_vit_g.pth"
TOWER = "visual_encoder."  # what a key of VISION is called in QUANTIZER
# our names → the files', in order
RENAMED = (
    (r"^visual_encoder\.post_layernorm\.", "ln_vision."),
    (r"\.embeddings\.class_embedding$", ".cls_token"),
    (r"\.embeddings\.position_embedding$", ".pos_embed"),
    (r"\.embeddings\.patch_embedding\.", ".patch_embed.proj."),
    (r"^visual_encoder\.encoder\.layers\.", "visual_encoder.blocks."),
    (r"^blocks_image\.layers\.", "blocks_image."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.(projection|out_proj)\.", ".attn.proj."),
    (r"\.self_attn\.(qkv\.|in_proj_)", ".attn.qkv."),
    (r"\.linear(\d)\.", r".mlp.fc\1."),
    (r"^qformer\.layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
    (r"^qformer\.", "Qformer.bert."),
    (r"attention\.attention\.", "attention.self."),
    (r"^codebook\.", "quantize.embedding."),
)
# Parts that only training uses, by the names of the training code. AnyGPT's issue 14 shows the published file with 146 keys that SEED's own
# loader doesn't know; which they are can't be seen there, so any that is none of these is refused by its name.
TRAINING = re.compile(
    r"Qformer\.bert\.embeddings\.(word_embeddings|position_embeddings|position_ids)|Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\.|"
    r"Qformer\.cls\.|(vision_proj|text_proj|itm_head|distill_text_proj)\.|temp$|(pos_embed|pos_embed_text|reverse_tokens_text)$|"
    r"(blocks|blocks_text|Reverse_Qformer_text|text_encoder|clip_model)\."
)


@dataclass(frozen=True)
class Seed2Config:
    """Sizes; those of the published model are the defaults, and the files don't say them.

    down: widths that a query's vector goes through on its way to the embedding
    """

    resolution: int = 224
    patch: int = 14
    vision_width: int = 1408
    vision_layers: int = 39
    vision_heads: int = 16
    vision_inner: int = 6144
    width: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    queries: int = 32
    codes: int = 8192
    code_width: int = 32
    decoder_layers: int = 4
    down: tuple[int, int, int] = (256, 128, 32)
    embedding: int = 1024


class Seed2(nn.Module):
    """Modules keep the file's names where they can."""

    def __init__(self, config: Seed2Config):
        super().__init__()
        width, (first, second, last) = config.width, config.down
        self.visual_encoder = Blip2VisionModel(_vision(config))
        self.visual_encoder.post_layernorm.eps = 1e-5  # LAVIS takes torch's default here, and 1e-6 within the tower
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, width))
        self.qformer = Blip2QFormerModel(_qformer(config))
        self.encode_task_layer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.code_width))
        self.codebook = nn.Embedding(config.codes, config.code_width)
        self.decode_task_layer = nn.Sequential(
            nn.Linear(config.code_width, config.code_width), nn.Tanh(), nn.Linear(config.code_width, width)
        )
        self.pos_embed_image = nn.Parameter(torch.empty(1, config.queries, width))
        block = nn.TransformerEncoderLayer(
            width, config.heads, config.inner, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        self.blocks_image = nn.TransformerEncoder(block, config.decoder_layers, enable_nested_tensor=False)
        self.image_down = nn.Sequential(
            nn.Linear(width, first, bias=False), nn.ReLU(),
            nn.Linear(first, second, bias=False), nn.ReLU(),
            nn.Linear(second, last, bias=False),
        )  # fmt: skip
        self.distill_image_proj = nn.Linear(config.queries * last, config.embedding)

    def vectors(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b q d"]:
        """What each query says of a picture, before it is rounded to a code; pixels are normalised as CLIP's."""
        seen = self.visual_encoder(pixels).last_hidden_state
        queries = self.query_tokens.expand(len(pixels), -1, -1)
        causal = torch.ones(queries.shape[1], queries.shape[1], dtype=torch.bool, device=pixels.device).tril()
        said = self.qformer(queries, attention_mask=causal[None, None], encoder_hidden_states=seen)
        return self.encode_task_layer(said.last_hidden_state)

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b q"]:
        vectors = self.vectors(pixels)
        return nearest(vectors.flatten(0, 1), self.codebook.weight).unflatten(0, vectors.shape[:2])

    def embed(self, codes: Int[Tensor, "b q"]) -> Float[Tensor, "b e"]:
        """The image embedding that unCLIP draws from."""
        queries = self.decode_task_layer(self.codebook(codes)) + self.pos_embed_image
        return self.distill_image_proj(self.image_down(self.blocks_image(queries)).flatten(1))


def _vision(config: Seed2Config) -> Blip2VisionConfig:
    return Blip2VisionConfig(
        hidden_size=config.vision_width,
        intermediate_size=config.vision_inner,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.vision_heads,
        image_size=config.resolution,
        patch_size=config.patch,
    )


def _qformer(config: Seed2Config) -> Blip2QFormerConfig:
    return Blip2QFormerConfig(
        hidden_size=config.width,
        intermediate_size=config.inner,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        encoder_hidden_size=config.vision_width,
    )


# --- files ------------------------------------------------------------------------------------------------------------


def read_seed2(folder: Path, config: Seed2Config) -> tuple[Seed2, list[Path]]:
    """The model in fp32, and the files it was read from. Raises CodecError, which names what doesn't fit."""
    with torch.device("meta"):  # the files have all there is, so nothing is drawn first
        model = Seed2(config).eval()
    wanted = {}
    for name, value in model.state_dict().items():
        keys = file_keys(name)
        wanted |= dict.fromkeys(keys, list(value.shape) if len(keys) == 1 else [len(value) // 3])
    files, state = [folder / QUANTIZER], _read(folder / QUANTIZER)
    if any(key.startswith(TOWER) for key in state):
        _check(files[0], state, wanted, TRAINING)
    else:
        files.append(folder / VISION)
        tower = {key.removeprefix(TOWER): shape for key, shape in wanted.items() if key.startswith(TOWER)}
        _check(files[0], state, {key: wanted[key] for key in wanted if not key.startswith(TOWER)}, TRAINING)
        seen = _read(files[1])
        # LAVIS's file has a block more than BLIP-2 uses, and what came after it
        _check(files[1], seen, tower, re.compile(rf"(blocks\.{config.vision_layers}|norm|fc_norm|head)\."))
        state |= {TOWER + key: value for key, value in seen.items()}
    model.load_state_dict({name: _value(state, name) for name in model.state_dict()}, assign=True)
    return model, files


def file_keys(name: str) -> list[str]:
    """What a parameter of ours is called in the files. The tower's attention has a bias for queries and values, none for keys."""
    name = renamed(name, RENAMED)
    if name.startswith(TOWER) and name.endswith(".qkv.bias"):
        return [name.replace(".qkv.bias", bias) for bias in (".q_bias", ".v_bias")]
    return [name]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = read_pickle(path)
        if not isinstance(state, dict) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        ):
            raise ValueError("expected names and tensors")
    except DAMAGED as error:
        raise CodecError(f"{path}: no weights of SEED-2 that can be read ({reason(error)}); fetch it again") from error
    return state


def _check(path: Path, state: dict[str, Tensor], wanted: dict[str, list[int]], unused: re.Pattern) -> None:
    """Raises CodecError for a key that is missing, of another shape, or neither wanted nor known to be of no use here."""
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted and not unused.match(key)]
    shapes = [(key, list(state[key].shape), shape) for key, shape in wanted.items() if key in state]
    other = [f"{key} of shape {got} instead of {shape}" for key, got, shape in shapes if got != shape]
    for what, some in (("lacks", missing), ("has, and shouldn't,", unexpected), ("has", other)):
        if some:
            named = ", ".join(some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else "")
            raise CodecError(f"{path}: no weights of SEED-2 that fit: it {what} {named}; fetch it again")
    if fault := unusable({key: state[key] for key in wanted}):
        raise CodecError(f"{path}: no weights of SEED-2 that can be used ({fault}); fetch it again")


def _value(state: dict[str, Tensor], name: str) -> Tensor:
    parts = [state[key].float() for key in file_keys(name)]
    return parts[0] if len(parts) == 1 else torch.cat([parts[0], torch.zeros_like(parts[0]), parts[1]])
