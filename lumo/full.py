"""Full tuning: every layer of the backbone trains, in fp32, and several processes hold a part of each (FSDP2).

Its embedding and head rows stay frozen. Captions hold few of a vocabulary's words, so the others would move only because they weren't
said; and the loss keeps to the new rows' gradients, see `lumo.loss`.

Sharded weights are DTensors; `gathered` makes them whole. What is saved is a model folder as transformers has it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from lumo import parallel

WHOLE = StateDictOptions(full_state_dict=True)
WHOLE_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True)  # on the first process; the others get nothing


def unfreeze(base: nn.Module) -> None:
    """Let all but the rows of a causal language model train."""
    base.requires_grad_(True)
    for rows in (base.get_input_embeddings(), base.get_output_embeddings()):
        rows.requires_grad_(False)


def tuned_parameters(base: nn.Module) -> list[nn.Parameter]:
    """What `unfreeze` has let train; none of a model with LoRA."""
    return [p for name, p in base.named_parameters() if p.requires_grad and "lora_" not in name]


def share_out(base: nn.Module) -> None:
    """Before an optimiser is made: what trains becomes fp32, layer by layer, and each of several processes keeps its part alone.

    Layers compute in the type of the frozen rows. Gradients come summed over the processes, not as their mean: the loss is a sum.
    """
    rows = {table.weight for table in (base.get_input_embeddings(), base.get_output_embeddings())}
    compute = MixedPrecisionPolicy(param_dtype=base.get_input_embeddings().weight.dtype, reduce_dtype=torch.float32)
    mesh = init_device_mesh(next(iter(rows)).device.type, (parallel.size(),)) if parallel.size() > 1 else None
    for module in [*_layers(base), base.base_model]:
        for parameter in module.parameters():
            if parameter not in rows and parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()
        if mesh:
            fully_shard(module, mesh=mesh, mp_policy=compute, ignored_params=rows)
            _sum_gradients(module)


def _layers(base: nn.Module) -> list[nn.Module]:
    """The blocks that a model says are not to be split over devices: its decoder layers."""
    names = set(base._no_split_modules or ())
    return [module for module in base.base_model.modules() if type(module).__name__ in names]


def _sum_gradients(module: FSDPModule) -> None:
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)  # gloo has no other


def gathered(base: nn.Module) -> dict[str, Tensor]:
    """The tuned model's weights by name, whole, on the first process's CPU; nothing on the others. All take part."""
    return get_model_state_dict(base, options=WHOLE_ON_CPU)


def save(base: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Write `config.json` and safetensors, which `AutoModelForCausalLM.from_pretrained` reads. weights: what `gathered` gave"""
    base.save_pretrained(folder, state_dict=weights)


def load(base: nn.Module, folder: Path) -> None:
    """Read what `save` wrote, into a model that is shared out or not. Raises ValueError for weights that aren't this model's, and what
    transformers raises for files that can't be read."""
    tuned, report = type(base).from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    for fault in ("missing", "unexpected"):
        if names := sorted(report[f"{fault}_keys"]):
            raise ValueError(f"{folder.name}: {len(names)} tensors {fault}, such as '{names[0]}'")
    set_model_state_dict(base, tuned.state_dict(), options=WHOLE)


def optimiser_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict:
    """State by parameters' names, whole, as `gathered` gives weights."""
    return get_optimizer_state_dict(model, optimiser, options=WHOLE_ON_CPU)


def load_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, state: dict) -> None:
    """AdamW's state; each process takes its part of it. Raises ValueError for moments of other shapes, beyond which fused steps would read
    (torch 2.13 crashed), and what torch raises for other damage."""
    set_optimizer_state_dict(model, optimiser, state, options=WHOLE)
    for parameter, moments in optimiser.state.items():
        expected = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        found = {name: value.shape for name, value in moments.items()}
        if found != expected:
            raise ValueError(f"moments of shapes {found}, expected {expected}")
