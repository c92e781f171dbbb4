"""A shard as upstream's resharder would write it: raw bytes out of the tars of the pool, under new names."""

import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO

import numpy as np
import numpy.typing as npt

from dcexp.artifacts.entries import Entries, Tars
from dcexp.artifacts.files import DIGESTS, digest_kind
from dcexp.artifacts.headers import LARGEST_SIZE, LONGEST_NAME, blocks_of, header, headers
from dcexp.artifacts.pieces import Piece, read_pieces
from dcexp.artifacts.place import whole_place
from dcexp.artifacts.plain import BLOCK, Bytes
from dcexp.artifacts.uid import DIGITS, format_uid, uid_digits

CHUNK = (1 << 20) // BLOCK  # blocks that are put together in memory
_LARGE = (32 << 20) // BLOCK  # a sample of more blocks goes through memory piece by piece
Ints = npt.NDArray[np.int64]


class _Output:
    """A file that is written and hashed at once."""

    def __init__(self, file: IO[bytes], place: str) -> None:
        self._file, self.size, self._kind = file, 0, digest_kind(place)
        self._digest = DIGESTS[self._kind]()

    def write(self, content: memoryview | bytes) -> None:
        self._digest.update(content)
        self._file.write(content)
        self.size += len(content)

    @property
    def entry(self) -> dict[str, int | str]:
        return {"bytes": self.size, self._kind: self._digest.hexdigest()}


def write_tarball(place: str, parts: Iterable[tuple[Entries, Mapping[int, bytes]]]) -> dict[str, int | str]:
    """Write the samples of some parts as ``<uid>-<copy>.<suffix>``, members by suffix, to the tar at ``place``.

    Members that stand in the mapping (by position) have that content, the others what is in the tar they lie in. The
    bytes depend on names and contents alone: no times, no owners. Returns size and digest of the file.
    """
    with whole_place(place) as file:
        output = _Output(file, place)
        for entries, contents in parts:
            with Tars(entries) as tars:
                tars.open_at_once(entries.tars.tolist())
                _write_part(output, _Layout(entries, contents), tars)
        output.write(bytes(2 * BLOCK + -(output.size + 2 * BLOCK) % tarfile.RECORDSIZE))
    return output.entry


def _write_part(output: _Output, layout: "_Layout", tars: Tars) -> None:
    buffer = np.empty((min(max(CHUNK, layout.largest), _LARGE), BLOCK), np.uint8)
    for first, last in layout.chunks():
        if layout.ends[last - 1] - layout.begin(first) > len(buffer):
            layout.stream(first, tars, output, buffer)
        else:
            output.write(layout.filled(first, last, tars, buffer))


class _Layout:
    """Where everything goes: every member has its header, then its content, both in whole blocks of the tar."""

    def __init__(self, entries: Entries, contents: Mapping[int, bytes]) -> None:
        self._entries, self._contents = entries, contents
        counts = entries.ends - entries.starts
        of = np.repeat(np.arange(len(entries)), counts)
        self._order = np.lexsort((entries.suffixes, of))  # members by suffix within each sample, as webdataset writes
        self._of, self._names = of, _names(entries, of)
        self._odd = (self._names[:, LONGEST_NAME:].any(axis=1)) | (entries.sizes > LARGEST_SIZE)
        self._head_blocks = np.ones(len(of), np.int64)
        for i in np.flatnonzero(self._odd).tolist():
            self._head_blocks[i] = len(self._odd_header(i)) // BLOCK
        blocks = self._head_blocks + blocks_of(entries.sizes)
        self._at = np.empty(len(of), np.int64)
        self._at[self._order] = np.cumsum(blocks[self._order]) - blocks[self._order]
        self.ends = np.cumsum(np.bincount(of, weights=blocks, minlength=len(entries)).astype(np.int64))

    def begin(self, sample: int) -> int:
        """The block at which a sample begins."""
        return int(self.ends[sample - 1]) if sample else 0

    @property
    def largest(self) -> int:
        """Blocks of the largest sample."""
        return int(np.diff(self.ends, prepend=0).max(initial=0))

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Samples, first and last (exclusive), that are put together in memory."""
        first = 0
        while first < len(self.ends):
            fitting = int(np.searchsorted(self.ends, self.begin(first) + CHUNK, side="right"))
            yield first, max(fitting, first + 1)
            first = max(fitting, first + 1)

    def filled(self, first: int, last: int, tars: Tars, buffer: Bytes) -> memoryview:
        """The blocks of some samples, in ``buffer``."""
        entries = self._entries
        begin, mine = self.begin(first), slice(int(entries.starts[first]), int(entries.ends[last - 1]))
        at, sizes = self._at[mine] - begin, entries.sizes[mine]
        buffer[at] = headers(self._names[mine, :LONGEST_NAME], np.minimum(sizes, LARGEST_SIZE))
        for i in np.flatnonzero(self._odd[mine]).tolist():
            head = np.frombuffer(self._odd_header(mine.start + i), np.uint8).reshape(-1, BLOCK)
            buffer[at[i] : at[i] + len(head)] = head
        contents = at + self._head_blocks[mine]
        partly = sizes % BLOCK > 0
        buffer[(contents + sizes // BLOCK)[partly]] = 0  # what the content does not fill of its last block
        memory = buffer.reshape(-1).data
        read_pieces(tars, self._pieces(first, last, contents * BLOCK, memory))
        return memory[: (int(self.ends[last - 1]) - begin) * BLOCK]

    def _pieces(self, first: int, last: int, to: Ints, memory: memoryview) -> Iterator[tuple[int, Sequence[Piece]]]:
        """What is to be read of the tars, and to where in ``memory``, sample by sample."""
        entries, base = self._entries, int(self._entries.starts[first])
        mine = slice(base, int(entries.ends[last - 1]))
        views = [
            memory[start:stop] for start, stop in zip(to.tolist(), (to + entries.sizes[mine]).tolist(), strict=True)
        ]
        pieces: list[Piece | None] = list(zip(entries.offsets[mine].tolist(), views, strict=True))
        for i in self._contents.keys() & set(range(mine.start, mine.stop)) if self._contents else ():
            views[i - base][:] = self._contents[i]
            pieces[i - base] = None
        start = 0
        for tar, stop in zip(
            entries.tars[first:last].tolist(), (entries.ends[first:last] - base).tolist(), strict=True
        ):
            yield tar, [piece for piece in pieces[start:stop] if piece]
            start = stop

    def stream(self, sample: int, tars: Tars, output: _Output, buffer: Bytes) -> None:
        """Write one large sample through ``buffer``, piece by piece."""
        entries = self._entries
        file, memory = tars[int(entries.tars[sample])], buffer.reshape(-1).data
        for i in self._order[entries.starts[sample] : entries.ends[sample]].tolist():
            size, offset = int(entries.sizes[i]), int(entries.offsets[i])
            odd = self._odd[i]
            output.write(
                self._odd_header(i)
                if odd
                else headers(self._names[i : i + 1, :LONGEST_NAME], entries.sizes[i : i + 1]).tobytes()
            )
            if i in self._contents:
                output.write(self._contents[i])
            for start in range(0, 0 if i in self._contents else size, len(memory)):
                piece = memory[: min(len(memory), size - start)]
                if file.fill(piece, offset + start) < len(piece):
                    raise OSError(f"{file.place} has become shorter while it was read")
                output.write(piece)
            output.write(bytes(-size % BLOCK))

    def _odd_header(self, i: int) -> bytes:
        entries, sample = self._entries, self._of[i]
        name = f"{format_uid(entries.uids[sample])}-{entries.copies[sample]}.{entries.names[entries.suffixes[i]]}"
        return header(name, int(entries.sizes[i]))


def _names(entries: Entries, of: Ints) -> Bytes:
    """The names of all members, shape (members, longest), ending in zeros; longer ones are cut behind LONGEST_NAME."""
    kinds, which = np.unique(
        entries.copies[of].astype(np.int64) * len(entries.names) + entries.suffixes, return_inverse=True
    )
    copies, suffixes = np.divmod(kinds, len(entries.names))
    tails = [
        f"-{copy}.{entries.names[suffix]}".encode("utf-8", "surrogateescape")[: LONGEST_NAME + 1 - DIGITS]
        for copy, suffix in zip(copies.tolist(), suffixes.tolist(), strict=True)
    ]
    width = max(map(len, tails), default=0)
    table = np.frombuffer(b"".join(tail.ljust(width, b"\0") for tail in tails), np.uint8).reshape(len(tails), width)
    return np.concatenate([uid_digits(entries.uids)[of], table[which]], axis=1)
