"""Reading test tars: every image or an error that names it, however the tar is damaged."""

import io
import tarfile

import pytest

from dcexp.tasks.examples import count_examples, examples
from tests.tasks.sets import encoded, picture, samples, write_tar


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    path = tmp_path_factory.mktemp("tars") / "0.tar"
    write_tar(path, samples(9))
    return path


def read(path, classes=7):
    return [(e.image, e.label) for e in examples(path, classes)]


def test_images_and_labels_come_as_written(tar):
    wanted = [(next(v for k, v in s.items() if k != "cls"), int(s["cls"])) for s in samples(9)]
    assert read(tar) == wanted
    assert count_examples(tar) == 9


def test_the_picture_is_rgb_and_not_turned(tmp_path):
    from PIL import Image

    grey = Image.new("L", (30, 20), 100)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me": upstream does not
    buffer = io.BytesIO()
    grey.save(buffer, "JPEG", exif=exif)
    write_tar(tmp_path / "0.tar", [{"jpg": buffer.getvalue(), "cls": b" 3\n"}])
    (example,) = examples(tmp_path / "0.tar", 7)
    assert example.decode().mode == "RGB" and example.decode().size == (30, 20) and example.label == 3


def test_of_several_images_the_first_in_upstreams_order_counts(tmp_path):
    import numpy as np

    image = picture(np.random.default_rng(0), "RGB")
    sample = {"jpg": encoded(image, "jpg"), "cls": b"0", "webp": encoded(image, "webp"), "json": b"{}"}
    write_tar(tmp_path / "0.tar", [sample])
    assert read(tmp_path / "0.tar") == [(sample["webp"], 0)]


def test_a_tar_cut_anywhere_gives_all_or_an_error_with_its_name(tar, tmp_path):
    whole, all_of_it = tar.read_bytes(), read(tar)
    cut = tmp_path / "cut.tar"
    errors = 0
    for size in range(0, len(whole), 333):
        cut.write_bytes(whole[:size])
        for reader, wanted in ((read, all_of_it), (count_examples, 9)):
            try:
                assert reader(cut) == wanted, size
            except ValueError as error:
                errors += 1
                assert str(cut) in str(error)
    end = whole.rstrip(b"\0")
    assert errors >= 2 * (len(end) // 333)


def test_a_damaged_header_in_the_middle_is_not_the_end(tar, tmp_path):
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as archive:
        member = archive.getmembers()[7]
    data[member.offset + 148] ^= 0xFF  # its checksum
    (tmp_path / "0.tar").write_bytes(data)
    for reader in (read, count_examples):
        with pytest.raises(ValueError, match=r"0\.tar is truncated or damaged after s0000003"):
            reader(tmp_path / "0.tar")


@pytest.mark.parametrize(
    "sample, said",
    [
        ({"cls": b"1"}, r"s0000001: wanted an image .* found \.cls"),
        ({"png": b"x"}, r"s0000001: wanted an image .* and a label .* found \.png"),
        ({"png": b"x", "cls": b"7"}, r"s0000001\.cls: wanted the position of a class, 0 to 6, got b'7'"),
        ({"png": b"x", "cls": b"-1"}, r"s0000001\.cls: .* got b'-1'"),
        ({"png": b"x", "cls": b"cat"}, r"s0000001\.cls: .* got b'cat'"),
    ],
)
def test_a_sample_that_lacks_something_is_named(sample, said, tmp_path):
    write_tar(tmp_path / "0.tar", [samples(1)[0], sample])
    with pytest.raises(ValueError, match=said):
        read(tmp_path / "0.tar")


def test_a_member_that_occurs_twice_is_refused(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.png", "a.cls", "a.cls"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(ValueError, match=r"a\.cls occurs twice"):
        read(tmp_path / "0.tar")


def test_names_with_folders_and_several_dots_are_split_as_webdataset_does(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("v1.2/s0.png", "v1.2/s0.cls", "v1.2/s0.meta.json", "v1.2/s1.cls", "v1.2/s1.JPG"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"1"))
    assert [e.place.split(": ")[1] for e in examples(tmp_path / "0.tar", 2)] == ["v1.2/s0", "v1.2/s1"]


@pytest.mark.parametrize("image", [b"", b"not an image", "truncated"])
def test_an_unreadable_image_is_an_error_that_names_it(image, tmp_path):
    whole = next(v for k, v in samples(1)[0].items() if k != "cls")
    content = whole[: len(whole) // 2] if image == "truncated" else image
    write_tar(tmp_path / "0.tar", [{"jpg": content, "cls": b"0"}])
    (example,) = examples(tmp_path / "0.tar", 1)
    with pytest.raises(ValueError, match=r"0\.tar: s0000000: not a readable image"):
        example.decode()
