"""Exact cross-entropy over the base's rows and the new ones, without ever holding all logits.

Logits are made for a few positions at a time, turned into gradients at once and dropped; the weights of the loss are known
before, so nothing is computed twice. The base's rows are frozen: only the new ones get a weight gradient, which for a
vocabulary of 151,936 old rows and 12,416 new ones saves a third of the head's work.

Axes: m supervised position · d hidden · o old row · n new row.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_BYTES = 2**27  # of fp32 logits


class _SplitCrossEntropy(torch.autograd.Function):
    """The weighted sum of losses; its gradients are made in the forward pass, since a loss depends on its own position alone."""

    @staticmethod
    def forward(ctx, hidden, old, new, labels, weights, text_size, chunk):
        wants_hidden, _, wants_new = ctx.needs_input_grad[:3]
        losses = torch.empty(len(labels), dtype=new.dtype, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_new = torch.zeros_like(new) if wants_new else None
        new_here = new.to(hidden.dtype)
        for start in range(0, len(labels), chunk):
            span = slice(start, start + chunk)
            part, wanted = hidden[span], labels[span]
            logits = torch.cat([part @ old.T, part @ new_here.T], 1).to(new.dtype)
            # ids between the base's last row and the first new one don't exist
            column = torch.where(wanted < text_size, wanted, wanted - text_size + len(old))[:, None]
            norm = logits.logsumexp(1, keepdim=True)
            losses[span] = (norm - logits.gather(1, column)).squeeze(1)
            if wants_hidden or wants_new:
                grad = logits.sub_(norm).exp_()
                grad.scatter_add_(1, column, torch.full_like(norm, -1.0)).mul_(weights[span, None])
                of_old, of_new = grad.to(hidden.dtype).split([len(old), len(new)], 1)
                if wants_hidden:
                    d_hidden[span] = of_old @ old + of_new @ new_here
                if wants_new:
                    d_new += (of_new.T @ part).to(new.dtype)
        ctx.save_for_backward(d_hidden, d_new)
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx, upstream, _):
        d_hidden, d_new = ctx.saved_tensors
        d_hidden, d_new = (None if grad is None else grad * upstream.to(grad.dtype) for grad in (d_hidden, d_new))
        return d_hidden, None, d_new, None, None, None, None


def split_cross_entropy(
    hidden: Float[Tensor, "m d"],
    old: Float[Tensor, "o d"],
    new: Float[Tensor, "n d"],
    labels: Int[Tensor, "m"],
    weights: Float[Tensor, "m"],
    text_size: int,
    chunk: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "m"]]:
    """The weighted sum of the positions' losses, to be differentiated, and each position's loss in nats, detached.

    old: the base's head, frozen; new: the new rows of the head, whose first id is `text_size`
    chunk: positions at a time; by default as many as keep their logits within 128 MiB
    """
    if old.requires_grad:
        raise ValueError("loss: the base's head is to be frozen, got one that trains; call requires_grad_(False) on it")
    chunk = chunk or max(1, CHUNK_BYTES // (4 * (len(old) + len(new))))
    return _SplitCrossEntropy.apply(hidden, old, new, labels, weights, text_size, chunk)
