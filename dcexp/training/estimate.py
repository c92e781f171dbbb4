"""What a training costs, before it runs."""

from dcexp.scale import Scale

# Multiply-adds of one forward pass of image and caption: arXiv:2304.14108, Table 14, over the samples seen.
FORWARD = {"ViT-B-32": 9.5e16 / 12.8e6, "ViT-B-16": 2.6e19 / 1.28e9, "ViT-L-14": 1.1e21 / 12.8e9}
# Of such multiply-adds, a training did this many a second on an A100, backward passes aside: small in about 4 hours on
# one, xlarge in 81 hours on 512 (section 3.1) are 6.6e12 and 7.4e12.
A100 = 7e12


def gpu_hours(scale: Scale, accumulate: int | str) -> float:
    """About how many hours an A100 would train; 0 for a model that nothing is published of.

    Accumulation takes a second forward pass: four thirds of the time. What ``auto`` comes to is not known yet.
    """
    passes = 1 if accumulate in (1, "auto") else 4 / 3
    return passes * scale.steps * scale.recipe.batch_size * FORWARD.get(scale.recipe.model, 0) / A100 / 3600
