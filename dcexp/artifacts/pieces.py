"""Read many pieces of files to where they are wanted, with as few calls as can be."""

import os
from collections.abc import Iterable, Iterator, Sequence

from dcexp.artifacts.cloud import CloudFile, file_system
from dcexp.artifacts.entries import Tars
from dcexp.artifacts.place import RangeReader

Piece = tuple[int, memoryview]  # offset in a file, and where its bytes shall go
_BETWEEN = memoryview(bytearray(1 << 16))  # where bytes go that nobody wants
_AT_ONCE = 512  # pieces of one call
_ENOUGH = 1 << 20  # bytes of one request, about: more come sooner by several at once


def read_pieces(tars: Tars, wanted: Iterable[tuple[int, Sequence[Piece]]]) -> None:
    """Read the pieces of tar after tar. Pieces in ascending order, near each other, take one call.

    What lies in an object store is asked for all at once. Raises OSError when a file ends too early.
    """
    remote: list[tuple[CloudFile, Sequence[Piece]]] = []
    for number, pieces in wanted:
        file = tars[number]
        if isinstance(file, CloudFile):
            remote.append((file, pieces))
        else:
            _read_local(file, pieces)
    if remote:
        _read_remote(remote)


def _read_local(file: RangeReader, pieces: Sequence[Piece]) -> None:
    start = at = pieces[0][0] if pieces else 0
    views: list[memoryview] = []
    for offset, view in pieces:
        if not 0 <= offset - at <= len(_BETWEEN) or len(views) >= _AT_ONCE:
            _scatter(file, views, start)
            start, views = offset, []
        elif offset > at:
            views.append(_BETWEEN[: offset - at])
        views.append(view)
        at = offset + len(view)
    _scatter(file, views, start)


def _scatter(file: RangeReader, views: list[memoryview], start: int) -> None:
    if not views:
        return
    if os.preadv(file.fileno(), views, start) == sum(map(len, views)):
        return
    for view in views:  # one call reads 2 GiB at most
        if file.fill(view, start) < len(view):
            raise OSError(f"{file.place} has become shorter while it was read")
        start += len(view)


def _read_remote(remote: Sequence[tuple[CloudFile, Sequence[Piece]]]) -> None:
    files, _ = file_system(remote[0][0].place)
    ranges = list(_ranges(remote))
    contents = files.cat_ranges(
        [file.path for file, _ in ranges],
        [pieces[0][0] for _, pieces in ranges],
        [_end(pieces[-1]) for _, pieces in ranges],
        on_error="return",
    )
    for (file, pieces), content in zip(ranges, contents, strict=True):
        if isinstance(content, Exception):
            raise OSError(f"{file.place} cannot be read: {type(content).__name__}: {content}") from content
        start = pieces[0][0]
        if len(content) != (wanted := _end(pieces[-1]) - start):
            raise OSError(f"{file.place} has changed while it was read: {len(content):,} bytes for {wanted:,}")
        for offset, view in pieces:
            view[:] = content[offset - start : offset - start + len(view)]


def _ranges(remote: Iterable[tuple[CloudFile, Sequence[Piece]]]) -> Iterator[tuple[CloudFile, list[Piece]]]:
    """Pieces of one file in ascending order and near each other: what one request asks for."""
    of: CloudFile | None = None
    near: list[Piece] = []
    for file, piece in ((file, piece) for file, pieces in remote for piece in pieces if len(piece[1])):
        apart = file is not of or not 0 <= piece[0] - _end(near[-1]) <= len(_BETWEEN)
        if of and near and (apart or _end(near[-1]) - near[0][0] >= _ENOUGH):
            yield of, near
            near = []
        of = file
        near.append(piece)
    if of and near:
        yield of, near


def _end(piece: Piece) -> int:
    return piece[0] + len(piece[1])
