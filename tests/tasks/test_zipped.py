"""Pictures in zip files: found whatever the size of the archive, never by a crash in a damaged one."""

import shutil
import zipfile

from hypothesis import given, settings
from hypothesis import strategies as st

from dcexp.tasks.zipped import zipped
from tests.tasks.caption_files import write_zip


def test_a_zip_file_may_be_larger_than_four_gigabytes(tmp_path):
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.seek(5 << 30)  # a hole
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/b.png", b"here")
            with archive.open("c.png", "w", force_zip64=True) as member:
                member.write(b"there")
    spots = zipped(tmp_path, "large.zip", {"b.png": "row 1", "c.png": "row 2"})
    assert [spots[name].size for name in ("b.png", "c.png")] == [4, 5]
    with path.open("rb") as file:
        for name, content in (("b.png", b"here"), ("c.png", b"there")):
            assert spots[name].offset > 5 << 30
            file.seek(spots[name].offset)
            assert file.read(spots[name].size) == content


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_zip_file_is_a_clear_error_or_still_readable(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("zip")
    write_zip(folder / "a.zip", {"x/a.jpg": b"0123456789", "x/b.jpg": b"b" * 20}, zipfile.ZIP_DEFLATED)
    content = bytearray((folder / "a.zip").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.zip").write_bytes(content)
    try:
        spot = zipped(folder, "a.zip", {"a.jpg": "row 1"})["a.jpg"]
    except ValueError as error:
        assert str(folder / "a.zip") in str(error)
    else:
        assert 0 <= spot.offset <= spot.offset + spot.size <= len(content)
    shutil.rmtree(folder)
