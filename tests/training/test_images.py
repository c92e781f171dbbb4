"""The two halves of open_clip's image transform for training do what the whole does, to the bit."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import dcexp.model
from dcexp.training.images import halves

MODELS = ("ViT-B-32", "ViT-tiny-8")
MODES = ("RGB", "L", "CMYK", "P", "RGBA", "1")
SIZES = [(40, 36), (224, 224), (1, 1), (2, 3), (1, 300), (300, 1), (17, 611), (320, 200)]  # width, height


@pytest.fixture(scope="module", params=MODELS)
def transform(request):
    """What a model is trained with."""
    open_clip.add_model_config(Path(dcexp.model.__file__).with_name("models"))
    # Without its weights a model is made at once.
    return open_clip.create_model_and_transforms(request.param, device="meta")[1]


def picture(size, mode, seed=0):
    """A gradient with noise on it, every value from 0 to 255 in it where there is room."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    noise = np.random.default_rng((width, height, seed)).integers(0, 56, (height, width, 3))
    pixels = np.stack([x, y, 200 - x], axis=-1) + noise
    image = Image.fromarray(pixels.astype(np.uint8))
    return (image.quantize(16) if mode == "P" else image.convert(mode)).convert("RGB")


def whole_and_halves(transform, image, seed):
    """The tensor that the transform makes of an image, what the halves make of it, and torch's generator after each."""
    crop, normalize = halves(transform)
    torch.manual_seed(seed)
    whole, state = transform(image), torch.get_rng_state()
    torch.manual_seed(seed)
    pixels = crop(image)
    assert pixels.dtype == np.uint8
    return whole, normalize(torch.tensor(pixels)[None])[0], state, torch.get_rng_state()


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_the_halves_do_what_the_whole_does(transform, size):
    for seed, mode in enumerate(MODES):
        whole, both, state, state_of_both = whole_and_halves(transform, picture(size, mode), seed)
        assert whole.dtype == both.dtype == torch.float32 and torch.equal(whole, both), mode
        assert torch.equal(state, state_of_both), mode


def test_every_value_of_a_pixel_is_normalized_alike(transform):
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    rest = transform.transforms[-2:]
    whole = rest[1](rest[0](Image.fromarray(values)))
    assert torch.equal(halves(transform)[1](torch.from_numpy(values)[None])[0], whole)


def test_a_batch_is_normalized_as_its_images_are(transform):
    crop, normalize = halves(transform)
    torch.manual_seed(0)
    images = torch.from_numpy(np.stack([crop(picture((50, 40), "RGB", seed)) for seed in range(5)]))
    batch = normalize(images)
    assert batch.is_contiguous() and torch.equal(batch, torch.cat([normalize(image[None]) for image in images]))


JITTER = {"color_jitter": (0.1, 0.1, 0.1, 0.1), "color_jitter_prob": 0.5}
OTHERS = {
    "of evaluation": (False, {}, "Resize"),
    "with jitter": (True, JITTER, "color_jitter"),
    "with gray": (True, {"gray_scale_prob": 0.2}, "gray_scale"),
}


@pytest.mark.filterwarnings("ignore:Unused augmentation")
@pytest.mark.parametrize("name", OTHERS)
def test_a_transform_of_other_stages_is_refused_by_their_names(name):
    is_train, augmentation, stage = OTHERS[name]
    transform = open_clip.image_transform(32, is_train=is_train, aug_cfg=augmentation)
    with pytest.raises(AssertionError, match=rf"open_clip's transform is made of \[.*'{stage}'.*\]; known are"):
        halves(transform)
