import open_clip
import pytest
import torch

from dcexp.scale import PUBLISHED, Recipe
from dcexp.training.optimizer import adamw, parameter_groups


@pytest.fixture(scope="module")
def meta_model():
    def build(name):
        with torch.device("meta"):
            return open_clip.create_model(name, device="meta")

    return build


@pytest.mark.parametrize(
    ("name", "undecayed", "decayed", "undecayed_numbers", "numbers"),
    [
        ("ViT-B-32", 200, 102, 204_545, 151_277_313),
        ("ViT-B-16", 200, 102, 204_545, 149_620_737),
        ("ViT-L-14", 296, 150, 445_953, 427_616_513),
    ],
)
def test_groups_of_the_published_models(meta_model, name, undecayed, decayed, undecayed_numbers, numbers):
    without, with_decay = (g["params"] for g in parameter_groups(meta_model(name), 0.2))
    assert (len(without), len(with_decay)) == (undecayed, decayed)
    assert sum(p.numel() for p in without) == undecayed_numbers
    assert sum(p.numel() for p in [*without, *with_decay]) == numbers


def test_positional_embeddings_are_decayed_and_class_embedding_is_not(meta_model):
    clip = meta_model("ViT-B-32")
    without, with_decay = ({id(p) for p in g["params"]} for g in parameter_groups(clip, 0.2))
    names = dict(clip.named_parameters())
    assert {id(names[n]) for n in ("positional_embedding", "visual.positional_embedding", "visual.proj")} <= with_decay
    assert {id(names[n]) for n in ("visual.class_embedding", "logit_scale", "ln_final.weight")} <= without


def test_adamw_has_the_numbers_of_the_recipe(meta_model):
    recipe = Recipe(**PUBLISHED["xlarge"]["recipe"])
    groups = adamw(meta_model("ViT-B-32"), recipe).param_groups
    assert [g["weight_decay"] for g in groups] == [0.0, 0.2]
    assert all(g["betas"] == (0.9, 0.95) and g["eps"] == 1e-6 and g["lr"] == 1e-3 for g in groups)
