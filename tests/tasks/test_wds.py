"""Reading test tars: every image or an error that names it, however the tar is damaged."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dcexp.artifacts.pictures import Pictures
from dcexp.tasks.wds import integers, label, picture_columns
from dcexp.tasks.wds import samples as samples_of
from tests.tasks.sets import encoded, picture, samples, write_tar


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    path = tmp_path_factory.mktemp("tars") / "0.tar"
    write_tar(path, samples(9))
    return path


def pictures(path):
    return Pictures.of(path.parent, picture_columns(path.name, samples_of(path, ("cls",))))


def read(path):
    found = pictures(path)
    labels = [label(sample, path) for sample in samples_of(path, ("cls",))]
    return [(found.encoded(i), labels[i]) for i in range(len(found))]


def test_images_and_labels_come_as_written(tar):
    wanted = [(next(v for k, v in s.items() if k != "cls"), int(s["cls"])) for s in samples(9)]
    assert read(tar) == wanted


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_header_is_read(form, tmp_path):
    name = "folder/" * 20 + "s0"
    with tarfile.open(tmp_path / "0.tar", "w", format=form) as archive:
        for extension, content in (("jpg", b"image"), ("cls", b"3")):
            member = tarfile.TarInfo(f"{name}.{extension}")
            member.size, member.mtime = len(content), 1.5 if form == tarfile.PAX_FORMAT else 1
            archive.addfile(member, io.BytesIO(content))
    assert read(tmp_path / "0.tar") == [(b"image", 3)]
    assert pictures(tmp_path / "0.tar").place(0) == f"{tmp_path / '0.tar'}: {name}"


def test_the_picture_is_not_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me": upstream does not
    buffer = io.BytesIO()
    Image.new("L", (30, 20), 100).save(buffer, "JPEG", exif=exif)
    write_tar(tmp_path / "0.tar", [{"jpg": buffer.getvalue(), "cls": b" 3\n"}])
    image = pictures(tmp_path / "0.tar").image(0)
    assert image.mode == "L" and image.size == (30, 20) and read(tmp_path / "0.tar")[0][1] == 3


def test_of_several_images_the_first_in_upstreams_order_counts(tmp_path):
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
        try:
            assert read(cut) == all_of_it, size
        except ValueError as error:
            errors += 1
            assert str(cut) in str(error)
    assert errors >= len(whole.rstrip(b"\0")) // 333


def test_a_damaged_header_in_the_middle_is_not_the_end(tar, tmp_path):
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as archive:
        member = archive.getmembers()[7]
    data[member.offset + 148] ^= 0xFF  # its checksum
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"0\.tar is truncated or damaged .bad header at byte [\d,]+.; download it"):
        read(tmp_path / "0.tar")


@pytest.mark.parametrize(
    "sample, said",
    [
        ({"cls": b"1"}, r"s0000001: wanted an image .* found \.cls"),
        ({"png": b"x"}, r"s0000001: wanted an image .* and a \.cls, found \.png"),
        ({"png": b"x", "cls": b"-1"}, r"s0000001\.cls: wanted the position of a class, got b'-1'"),
        ({"png": b"x", "cls": b"cat"}, r"s0000001\.cls: .* got b'cat'"),
        ({"png": b"x", "cls": b"9" * 5000}, r"s0000001\.cls: .* got b'9{40}'"),
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
    assert pictures(tmp_path / "0.tar").names == ["v1.2/s0", "v1.2/s1"]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, ">i8"])
def test_integers_are_read_in_any_type(dtype, tmp_path):
    write_tar(tmp_path / "0.tar", [{"png": b"x", "npy": npy(np.array([3, 0, 7], dtype))}])
    (sample,) = samples_of(tmp_path / "0.tar", ("npy",))
    assert integers(sample, tmp_path / "0.tar") == [3, 0, 7]


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "not a readable array"),
        (npy(np.array([1, 2]))[:-3], "not a readable array"),
        (npy(np.array([print])), "not a readable array .*[Oo]bject arrays cannot"),  # never unpickled
        (npy(np.array([1.5])), r"wanted a vector of integers below 2\*\*63, got float64 \(1,\)"),
        (npy(np.array([[1]])), r"wanted a vector of integers below 2\*\*63, got int64 \(1, 1\)"),
        (npy(np.array([2**63], np.uint64)), r"wanted a vector of integers below 2\*\*63, got uint64"),
        (b"PK\x03\x04 a zip", "not a readable array of numbers .it begins with b'PK"),
        (npy(np.array([1])).replace(b"(1,)", b"(9" + b"9" * 9 + b",)")[:128], "not a readable array"),
        (npy(np.array([1])).replace(b"{'descr'", b"{'de(cr'"), "not a readable array"),
    ],
)
def test_what_is_no_vector_of_integers_is_refused(content, said, tmp_path):
    write_tar(tmp_path / "0.tar", [{"png": b"x", "npy": content}])
    (sample,) = samples_of(tmp_path / "0.tar", ("npy",))
    with pytest.raises(ValueError, match=rf"s0000000\.npy: {said}"):
        integers(sample, tmp_path / "0.tar")


@pytest.mark.parametrize("image", [b"", b"not an image", "truncated"])
def test_an_unreadable_image_is_an_error_that_names_it(image, tmp_path):
    whole = next(v for k, v in samples(1)[0].items() if k != "cls")
    content = whole[: len(whole) // 2] if image == "truncated" else image
    write_tar(tmp_path / "0.tar", [{"jpg": content, "cls": b"0"}])
    with pytest.raises(ValueError, match=r"0\.tar: s0000000: not a readable image"):
        pictures(tmp_path / "0.tar").image(0)


def test_an_image_beyond_the_end_of_its_file_is_an_error(tar, tmp_path):
    found = pictures(tar)
    short = tmp_path / "0.tar"
    short.write_bytes(tar.read_bytes()[:600])
    cut = Pictures.of(tmp_path, {**found.columns(), "file": ["0.tar"] * 9})
    with pytest.raises(ValueError, match=r"0\.tar: s0000008: the file ends before it"):
        cut.encoded(8)
