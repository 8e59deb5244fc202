"""LoRA (Hu et al. 2021) by peft, as one product with one weight where that is cheaper than peft's three products and a sum.

peft computes x Wᵀ + s (x Aᵀ) Bᵀ: the last two are thin products, and the sum reads and writes every activation again. Here
W + s B A is made first, which is little work where a step has many tokens, and x meets it once. The gradients of A and B stay
the thin products they are. Weights, names and files are peft's own.

In half precision W + s B A would lose what B A adds to a larger W, so peft's own way stays there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lumo.wording import in_short

# peft 0.21 asks transformers 5.23 for a property by its old name; nothing that a user of lumo could change
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


class LoraError(ValueError):
    """A backbone that LoRA doesn't fit; the message is one line."""


def with_lora(base: nn.Module, rank: int) -> PeftModel:
    """LoRA on every linear layer of a base but the head; alpha is twice the rank. Raises LoraError where there is nothing to adapt."""
    layers = {name: layer for name, layer in base.base_model.named_modules() if isinstance(layer, (nn.Linear, Conv1D))}
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=sorted({name.rpartition(".")[2] for name in layers}),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        lora_dropout=0.0,
        bias="none",
    )
    try:
        model = get_peft_model(base, config)
    except ValueError as error:  # peft's own
        raise LoraError(
            f"backbone {type(base).__name__} takes no LoRA ({in_short(error)}); expected linear layers, take another backbone"
        ) from error
    fold(model)
    return model


def load_adapter(base: nn.Module, folder: Path) -> PeftModel:
    """A base with the LoRA that peft has saved in a folder; over LoRA that it has already, whose parameters stay the optimiser's.

    Raises ValueError for weights that aren't those of the config, and what peft raises for files that can't be read.
    """
    # by their names: where one isn't there, peft would ask the hub, and of a tensor that is missing it only warns
    weights = load_file(folder / "adapter_model.safetensors")
    if not isinstance(base, PeftModel):
        config = LoraConfig.from_pretrained(str(folder), local_files_only=True)
        config.inference_mode = False  # peft saves it as true
        base = PeftModel(base, config)
        fold(base)
    if differing := sorted(weights.keys() ^ get_peft_model_state_dict(base, save_embedding_layers=False).keys()):
        raise ValueError(f"{folder.name}: {len(differing)} tensors missing or unexpected, such as '{differing[0]}'")
    set_peft_model_state_dict(base, weights)
    return base


def fold(model: nn.Module) -> None:
    """Let the LoRA layers of a peft model compute this way, where they can."""
    for layer in model.modules():
        # GPT-2's layers are of another kind
        if type(layer) is Linear and isinstance(layer.get_base_layer(), nn.Linear):
            # the same weights under the same names, so peft saves and merges it as its own
            layer.__class__ = FoldedLinear


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Keep every W + s B A for a while: generation asks for each of them at every token. It takes these weights' memory once more.

    Nothing is trained meanwhile, and the base stays as it is, to the bit: peft's merge and unmerge would round it.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, FoldedLinear) and layer.can_fold()]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.kept = layer.whole()
        yield
    finally:
        for layer in layers:
            layer.kept = None


def whole_weight(layer: nn.Module) -> Float[Tensor, "o i"] | None:
    """The one weight that a layer multiplies by, LoRA included; None where there is none such: a bias, half precision, another adapter."""
    if isinstance(layer, FoldedLinear):
        bias, weight = layer.get_base_layer().bias, layer.whole() if layer.can_fold() else None
    elif type(layer) is nn.Linear and layer.weight.dtype in (torch.float32, torch.float64):
        bias, weight = layer.bias, layer.weight
    else:
        return None
    return weight if bias is None else None


class FoldedLinear(Linear):
    """peft's LoRA around `nn.Linear`, with another forward."""

    kept: Tensor | None = None

    def forward(self, x: Float[Tensor, "... i"], *args: Any, **kwargs: Any) -> Float[Tensor, "... o"]:
        base = self.get_base_layer()
        if self.kept is not None:
            return F.linear(x, self.kept, base.bias)
        inputs, outputs = base.in_features, base.out_features
        enough = x.numel() // inputs >= inputs * outputs / (inputs + outputs)  # below, the thin products are less work
        if args or kwargs or not enough or x.dtype != base.weight.dtype or not self.can_fold():
            return super().forward(x, *args, **kwargs)
        out = _FoldedProduct.apply(x, base.weight, *self._factors())
        return out if base.bias is None else out + base.bias

    def can_fold(self) -> bool:
        """Whether this is plain LoRA by one adapter that is switched on, with nothing that peft does besides, on a frozen weight, all in
        one wide type."""
        base = self.get_base_layer()
        if not isinstance(base, nn.Linear) or base.weight.requires_grad:
            return False
        if self.merged or self.disable_adapters or len(self.active_adapters) != 1:
            return False
        (name,) = self.active_adapters
        if name not in self.lora_A or self.lora_variant or self.lora_bias.get(name) or self.fan_in_fan_out:
            return False
        if not isinstance(self.lora_dropout[name], nn.Identity):
            return False
        types = {base.weight.dtype, self.lora_A[name].weight.dtype, self.lora_B[name].weight.dtype}
        return len(types) == 1 and types <= {torch.float32, torch.float64}

    def whole(self) -> Float[Tensor, "o i"]:
        return _whole(self.get_base_layer().weight, *self._factors())

    def _factors(self) -> tuple[Tensor, Tensor, float]:
        (name,) = self.active_adapters
        return self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]


def _whole(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.addmm(weight, b, a, alpha=scale)


class _FoldedProduct(torch.autograd.Function):
    """x [t i], weight [o i], a [r i], b [o r]. The weight is frozen and gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return x @ _whole(weight, a, b, scale).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        flat, inputs = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        # made again, not kept from the forward pass: a rank's share of the work against a copy of every weight
        to_x = grad @ _whole(weight, a, b, ctx.scale) if ctx.needs_input_grad[0] else None
        return to_x, None, ctx.scale * ((flat @ b).T @ inputs), ctx.scale * (flat.T @ (inputs @ a.T)), None
