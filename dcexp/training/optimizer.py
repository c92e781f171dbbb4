"""AdamW as open_clip sets it up, with the rule for weight decay written down here and owned by dcexp."""

from typing import TYPE_CHECKING, Any

from dcexp.scale import Recipe

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import AdamW

UNDECAYED = ("bn", "ln", "bias", "logit_scale")


def parameter_groups(clip: "nn.Module", weight_decay: float) -> list[dict[str, Any]]:
    """Two groups in the order of ``named_parameters``: without weight decay, then with.

    Undecayed are tensors of fewer than two dimensions and those whose name in the CLIP module contains one of
    ``UNDECAYED`` (open_clip 2.16.1 to 3.3.0; later versions decay fewer). Names are matched as substrings, so
    they must be those of the CLIP module itself, not of a wrapper.
    """
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": 0.0}, {"params": [], "weight_decay": weight_decay}]
    for name, parameter in clip.named_parameters():
        undecayed = parameter.ndim < 2 or any(word in name for word in UNDECAYED)
        groups[0 if undecayed else 1]["params"].append(parameter)
    return groups


def adamw(clip: "nn.Module", recipe: Recipe) -> "AdamW":
    """The optimizer of the recipe over the parameters of ``clip``."""
    from torch.optim import AdamW

    groups = parameter_groups(clip, recipe.weight_decay)
    return AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps)
