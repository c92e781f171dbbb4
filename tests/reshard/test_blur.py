"""The face blur: against a slow implementation of its formula, and bit for bit where nothing may change."""

import io
import json
import math
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base

from dcexp.reshard.blur import blurred, soften, with_boxes

FACE = [0.3, 0.25, 0.6, 0.75]
WHOLE = [0.0, 0.0, 1.0, 1.0]
CORNER = st.floats(-0.4, 1.4, allow_nan=False)


def noise(height, width, *channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(file, kind, **options)
    return file.getvalue()


def opened(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def decoded(content, mode="RGB"):
    return np.asarray(opened(content).convert(mode))


def plain_gaussian(values, sigma):
    """Separable, with an explicit kernel; the border mirrored without repeating the last pixel."""
    radius = math.ceil(4 * sigma)
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        around = [(radius, radius) if axis == each else (0, 0) for each in range(values.ndim)]
        padded = np.pad(values, around, mode="reflect")
        size = values.shape[axis]
        values = sum(k * np.take(padded, range(i, i + size), axis) for i, k in enumerate(kernel))
    return values


def plain_mask(height, width, boxes):
    mask, longest = np.zeros((height, width)), 0
    for box in boxes:
        left, right = (int(x * width) for x in sorted(box[::2]))
        top, bottom = (int(y * height) for y in sorted(box[1::2]))
        side = max(right - left, bottom - top)
        longest = max(longest, side)
        for y in range(height - 1):
            for x in range(width - 1):
                inside_x = int(left - 0.1 * side) <= x < int(right + 0.1 * side)
                inside_y = int(top - 0.1 * side) <= y < int(bottom + 0.1 * side)
                mask[y, x] = max(mask[y, x], inside_x and inside_y)
    return plain_gaussian(mask, 0.1 * longest) if longest else mask, 0.1 * longest


def plain(pixels, boxes):
    """The formula over the whole image in float64, not rounded; and the blurred mask."""
    mask, sigma = plain_mask(*pixels.shape[:2], boxes)
    image = pixels.astype(np.float64)
    weight = mask.reshape(*mask.shape, *[1] * (image.ndim - 2))
    return image * (1 - weight) + (plain_gaussian(image, sigma) if sigma else image) * weight, mask


def overlaps(box):
    (left, right), (top, bottom) = sorted(box[::2]), sorted(box[1::2])
    return left < right and top < bottom and right > 0 and bottom > 0 and left < 1 and top < 1


boxes_in_sight = st.lists(st.lists(CORNER, min_size=4, max_size=4).filter(overlaps), max_size=4)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([(), (3,), (4,)]))


@settings(deadline=None, max_examples=150)
@given(shapes, boxes_in_sight, st.integers(0, 9))
@example((40, 30, (3,)), [WHOLE], 0)
@example((1, 40, (3,)), [[0.2, 0, 0.5, 1]], 0)
@example((30, 40, (3,)), [[0, 0, 0.1, 0.1], [0.9, 0.9, 1, 1]], 0)  # two regions, far from each other
@example((30, 40, (3,)), [[-0.9, -0.9, 1.9, 1.9]], 0)  # the kernel is larger than the image
def test_it_is_the_formula_and_touches_nothing_else(shape, boxes, seed):
    height, width, channels = shape
    pixels = noise(height, width, *channels, seed=seed)
    result = soften(pixels, boxes)
    wanted, mask = plain(pixels, boxes)
    assert result.shape == pixels.shape and result.dtype == np.uint8
    assert np.abs(result - wanted).max() <= 0.51  # rounded, and not cut off
    assert np.array_equal(result[mask == 0], pixels[mask == 0])


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.sampled_from(["L", "RGB", "RGBA"]), boxes_in_sight)
def test_out_of_reach_the_file_decodes_to_the_same_pixels(kind, mode, boxes):
    mode = "RGB" if (kind, mode) == ("JPEG", "RGBA") else mode
    source = encoded(noise(36, 48, *{"L": (), "RGB": (3,), "RGBA": (4,)}[mode]), kind)
    shown = "RGBA" if mode == "RGBA" else "RGB"
    before, after = decoded(source, shown), decoded(blurred(source, boxes), shown)
    wanted, mask = plain(before, boxes)
    assert np.abs(after - wanted).max() <= 0.51
    assert np.array_equal(after[mask == 0], before[mask == 0])


def test_colours_under_transparency_survive():
    pixels = noise(20, 20, 4)
    pixels[..., 3] = 0
    assert np.array_equal(decoded(blurred(encoded(pixels), []), "RGBA"), pixels)


@pytest.mark.parametrize(("mode", "kind"), [("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG")])
def test_other_modes_become_rgb_or_rgba(mode, kind):
    image = Image.fromarray(noise(24, 24, 3))
    source = encoded((image.convert("L") if mode in ("1", "LA") else image).convert(mode), kind)
    assert opened(source).mode == mode
    shown = "RGBA" if mode == "LA" else "RGB"
    assert np.array_equal(decoded(blurred(source, []), shown), decoded(source, shown))
    assert not np.array_equal(decoded(blurred(source, [FACE]), shown), decoded(source, shown))


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_becomes_alpha(mode):
    image = Image.fromarray(noise(24, 24, 3)).convert(mode)
    image.putpixel((0, 0), 0)
    source = encoded(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    after = decoded(blurred(source, []), "RGBA")
    assert after[0, 0, 3] == 0 and np.array_equal(after, decoded(source, "RGBA"))


def test_16_bits_become_their_upper_8():
    pixels = np.random.default_rng(0).integers(0, 2**16, (20, 20), dtype=np.uint16)
    after = decoded(blurred(encoded(pixels), []))
    assert np.array_equal(after, np.repeat((pixels // 256)[..., None], 3, axis=2))


def laplacian_variance(grey):
    grey = grey.astype(np.float64)
    inner = grey[1:-1, 1:-1]
    return np.var(grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner)


@pytest.mark.parametrize("box", [FACE, [0.6, 0.75, 0.3, 0.25], [-0.2, -0.2, 0.3, 0.4], [0.7, 0.5, 1.3, 1.2]])
def test_detail_is_gone_in_every_face(box):
    source = encoded(noise(120, 160, 3), "JPEG", quality=95)
    (left, right), (top, bottom) = sorted(box[::2]), sorted(box[1::2])
    face = np.s_[max(int(top * 120), 0) : int(bottom * 120), max(int(left * 160), 0) : int(right * 160)]
    before, after = decoded(source, "L")[face], decoded(blurred(source, [box]), "L")[face]
    assert laplacian_variance(after) < 0.02 * laplacian_variance(before)


@pytest.mark.parametrize(("share", "kept"), [(2, 0.01), (4, 0.25), (10, 0.80)])
def test_how_much_of_a_face_shows_beside_a_larger_one(share, kept):
    pixels, side, at = np.zeros((1000, 1000), np.uint8), 200 // share, 0.75
    pixels[750, 750] = 255
    small = [at - side / 2000, at - side / 2000, at + side / 2000, at + side / 2000]
    assert soften(pixels, [[0.1, 0.1, 0.3, 0.3], small])[750, 750] / 255 == pytest.approx(kept, abs=0.01)


def test_the_order_of_boxes_and_who_shares_a_region_do_not_matter():
    pixels = noise(90, 120, 3)
    boxes = [[0.05, 0.05, 0.15, 0.2], [0.8, 0.8, 0.95, 0.9], [0.1, 0.1, 0.2, 0.3]]
    assert np.array_equal(soften(pixels, boxes), soften(pixels, boxes[::-1]))
    far, near = soften(pixels, boxes[:2]), soften(pixels, [*boxes[:2], [0.45, 0.4, 0.55, 0.6]])
    assert np.array_equal(far[:25, :30], near[:25, :30])


@pytest.mark.parametrize("box", [[0.5, 0.2, 0.5, 0.9], [0.2, 0.5, 0.9, 0.5], [1.0, 0.1, 1.0, 0.2]])
def test_boxes_without_area_are_passed_over(box):
    pixels = noise(40, 40, 3)
    assert np.array_equal(soften(pixels, [box]), pixels)
    assert np.array_equal(soften(pixels, [FACE, box]), soften(pixels, [FACE]))


def test_the_bytes_are_lossless_webp_and_always_the_same():
    source = encoded(noise(60, 80, 3), "JPEG")
    result = blurred(source, [FACE])
    assert result[:4] == b"RIFF" and result[8:16] == b"WEBPVP8L"
    assert result == blurred(source, [FACE]) == blurred(source, [np.array(FACE)])


def profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(**more):
    tags = Image.Exif()
    tags[Base.Orientation], tags[Base.Make] = 6, "Canon"
    tags.get_ifd(IFD.Exif).update({Base.DateTimeOriginal: "2020:01:02 03:04:05"} | more)
    return tags


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_and_profile_are_kept_and_the_picture_is_not_turned(kind):
    source = encoded(noise(30, 50, 3), kind, exif=exif(), icc_profile=profile())
    result = opened(blurred(source, [FACE]))
    assert result.size == (50, 30)
    assert result.info["icc_profile"] == profile()
    kept = result.getexif()
    assert (kept[Base.Orientation], kept[Base.Make]) == (6, "Canon")
    assert kept.get_ifd(IFD.Exif) == {Base.DateTimeOriginal: "2020:01:02 03:04:05"}


def test_no_second_picture_of_the_face_stays_in_the_exif():
    thumbnail = encoded(noise(8, 8, 3), "JPEG")
    tags = exif()
    tags.get_ifd(IFD.Exif)[Base.MakerNote] = b"PREVIEW " * 9
    source = encoded(noise(30, 50, 3), "JPEG", exif=with_thumbnail(tags.tobytes(), thumbnail))
    assert thumbnail in source and opened(source).getexif().get_ifd(IFD.IFD1)
    result = blurred(source, [FACE])
    assert thumbnail not in result and b"PREVIEW" not in result
    assert opened(result).getexif()[Base.Orientation] == 6


def with_thumbnail(tags, thumbnail):
    """``tags`` (big endian) followed by a second directory that points at ``thumbnail``."""
    head, body = tags[:6], bytearray(tags[6:])
    assert body[:2] == b"MM"
    first = int.from_bytes(body[4:8], "big")
    link = first + 2 + 12 * int.from_bytes(body[first : first + 2], "big")
    body[link : link + 4] = len(body).to_bytes(4, "big")
    directory = struct.pack(">H HHLL HHLL L", 2, 0x201, 4, 1, len(body) + 30, 0x202, 4, 1, len(thumbnail), 0)
    return head + bytes(body) + directory + thumbnail


@pytest.mark.parametrize("tags", [b"nonsense", b"II*\0", b"MM\0*\0\0\0\x08\0\xff"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason_to_refuse_an_image(kind, tags):
    source = encoded(noise(30, 50, 3), kind, exif=b"Exif\0\0" + tags)
    assert opened(blurred(source, [FACE])).getexif().get(Base.Orientation, 1) == 1


@pytest.mark.filterwarnings("ignore:Metadata Warning")
def test_damaged_tags_do_not_cost_the_orientation():
    broken = bytearray(exif().tobytes())
    at = broken.index(struct.pack(">HH", Base.Make, 2))
    broken[at + 2 : at + 4] = struct.pack(">H", 11)  # its letters become floats, which Pillow reads but cannot write
    source = encoded(noise(30, 50, 3), "JPEG", exif=bytes(broken))
    assert opened(blurred(source, [FACE])).getexif()[Base.Orientation] == 6


def test_the_profile_of_inks_does_not_go_with_rgb():
    image = Image.fromarray(noise(24, 24, 3)).convert("CMYK")
    source = encoded(image, "JPEG", icc_profile=profile())
    assert "icc_profile" in opened(source).info and "icc_profile" not in opened(blurred(source, [FACE])).info


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no format that Pillow knows"),
        (b"not an image", "no format that Pillow knows"),
        (encoded(noise(60, 60, 3), "JPEG")[:900], "cannot be decoded"),
        (encoded(noise(60, 60, 3), "PNG")[:900], "cannot be decoded"),
        (encoded(np.ones((8, 8), np.int32), "TIFF"), "32 bits a pixel"),
        (encoded(np.ones((1, 16384), np.uint8)), "WebP limit of 16383"),
    ],
)
def test_images_that_cannot_be_used_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        blurred(content, [WHOLE])


NOT_FOUR = [[], [0.1, 0.2, 0.3], [0, 0, 1, 1, 1], [0, 0, 1, math.nan], [0, 0, math.inf, 1], [0, 0, 1, None], None, 0.5]
NOT_FOUR += ["0011", ["0", "0", "1", "1"]]
OUTSIDE = [
    [1.1, 0.2, 1.4, 0.5],
    [-0.3, 0, 0, 1],
    [0, -0.5, 1, -0.1],
    [0.2, 1, 0.3, 1.5],
    [0, 0, 80, 60],
    [90, 50, 90, 50],
]


@pytest.mark.parametrize("box", NOT_FOUR)
def test_boxes_that_are_not_four_finite_numbers_are_refused(box):
    with pytest.raises(ValueError, match="not four finite numbers"):
        blurred(encoded(noise(20, 20, 3)), [FACE, box])
    with pytest.raises(ValueError, match="not four finite numbers"):
        with_boxes(b"{}", [FACE, box])


@pytest.mark.parametrize("box", OUTSIDE)
def test_boxes_that_are_not_in_the_image_are_refused(box):
    with pytest.raises(ValueError, match="is not in the image: wanted corners relative to the image"):
        blurred(encoded(noise(20, 20, 3)), [FACE, box])


def test_boxes_join_the_json():
    info = r'{"uid": "00ff", "caption": "caf\u00e9", "n": 12345678901234567890, "exif": {"b": 1, "a": null}}'
    boxes = [np.array([0.1, 0.25, 1, 2]), (np.float32(0.5), 0, 1, 1)]
    result = with_boxes(info.encode(), boxes)
    assert result.decode() == info[:-1] + ', "face_bboxes": [[0.1, 0.25, 1.0, 2.0], [0.5, 0.0, 1.0, 1.0]]}'
    assert list(json.loads(with_boxes(result, []))) == ["uid", "caption", "n", "exif", "face_bboxes"]
    assert json.loads(with_boxes(result, []))["face_bboxes"] == []


@pytest.mark.parametrize("info", [b"[]", b"1", b"null", b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(info):
    with pytest.raises(ValueError, match="the json of an image with faces"):
        with_boxes(info, [FACE])
