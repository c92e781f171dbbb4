"""Folders of files from the Hugging Face Hub: huggingface_hub fetches them, every file is compared with the listing."""

import errno
import fcntl
import functools
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

log = logging.getLogger(__name__)

NOT_DATA = re.compile(r"(?i)\.py$|(^|/)(readme[^/]*|\.gitattributes)$")  # code is never fetched, so never run
BLOCK = 1 << 22
ABANDONED = 600  # seconds after which nobody writes to a half file any more


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a folder of files is to be had: dataset repository ``repo`` of the Hugging Face Hub at ``revision``.

    ``revision`` is a commit, or its first seven digits or more; empty: the newest. ``folder`` is where the files go.
    """

    repo: str
    revision: str = ""
    folder: Path

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([0-9a-f]{7,40})?", self.revision):
            raise ValueError(f"revision {self.revision!r} of {self.repo}: wanted 7 to 40 digits 0-9a-f, or nothing")

    @property
    def command(self) -> str:
        """The shell command that fetches the folder too; ``hf`` knows a commit by its whole name alone."""
        command = f"hf download {self.repo} --repo-type dataset --local-dir {self.folder}"
        commit = " --revision " if len(self.revision) == 40 else "  # wanted: commit "
        return command + (commit + self.revision if self.revision else "")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """The folder of ``origin`` holds ``files`` files of ``bytes`` in all as of ``commit``; ``came``: fetched now."""

    origin: Origin
    commit: str
    files: int
    bytes: int
    came: int


class Unavailable(OSError):
    """What ``origin`` names could not be had, for ``reason``; not ``answered``: the hub itself could not be reached."""

    def __init__(self, origin: Origin, reason: str, answered: bool = True) -> None:
        super().__init__(f"{origin.repo}: {reason}\nOn a machine where it can be had:\n  {origin.command}")
        self.origin, self.reason, self.answered = origin, reason, answered


def fetch_origin(origin: Origin) -> Fetched:
    """Fetch what is not in ``origin.folder`` yet, or is there but is another file; no code, no README.

    Raises :class:`Unavailable` when anything is missing or wrong in the end.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _explained(api, origin):
        commit, files = _listing(api, origin)
    exact = replace(origin, revision=commit)
    with _explained(api, exact), _alone(origin.folder):
        missing = [file for file in files if not _is_there(origin.folder, file)]
        needed, free = _bytes(missing), shutil.disk_usage(origin.folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are to come, {free:,} are free in {origin.folder}")
        for file in missing:
            with _explained(api, exact, f"{file.rfilename}: "):
                _fetch(api, exact, file)
    return Fetched(origin=origin, commit=commit, files=len(files), bytes=_bytes(files), came=len(missing))


def _listing(api: "HfApi", origin: Origin) -> tuple[str, list["RepoSibling"]]:
    """The whole name of the commit, and its files but for code and what is about the repository."""
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT as SECONDS

    exact = origin.revision if len(origin.revision) == 40 else None
    info = api.dataset_info(origin.repo, revision=exact, files_metadata=True, timeout=SECONDS)
    if not str(info.sha).startswith(origin.revision):
        commits = [commit.commit_id for commit in api.list_repo_commits(origin.repo, repo_type="dataset")]
        found = [commit for commit in commits if commit.startswith(origin.revision)]
        if len(found) != 1:
            raise ValueError(f"{len(found)} of its {len(commits)} commits begin with {origin.revision}: {commits[:9]}")
        info = api.dataset_info(origin.repo, revision=found[0], files_metadata=True, timeout=SECONDS)
    files = info.siblings or []
    for name in (file.rfilename for file in files):
        if "\\" in name or {"", ".", "..", ".cache"} & set(name.split("/")):
            raise ValueError(f"it holds {name!r}, which is not the name of a file within a folder; nothing was fetched")
    return str(info.sha), [file for file in files if not NOT_DATA.search(file.rfilename)]


def _bytes(files: list["RepoSibling"]) -> int:
    return sum(file.size or 0 for file in files)


def _is_there(folder: Path, file: "RepoSibling") -> bool:
    """True when the file is there and right; one that is not is set aside, as it may be somebody's own."""
    path = folder / file.rfilename
    if not path.exists():
        return False
    if fault := _fault(path, file):
        log.warning("%s %s: set aside as %s.wrong, and fetched anew", path, fault, path.name)
        path.replace(path.with_name(f"{path.name}.wrong"))
    return not fault


def _fetch(api: "HfApi", origin: Origin, file: "RepoSibling") -> None:
    name, commit, folder = file.rfilename, origin.revision, origin.folder
    for _ in range(2):
        api.hf_hub_download(origin.repo, name, repo_type="dataset", revision=commit, local_dir=folder)
        if not (fault := _fault(folder / name, file)):
            return
        log.warning("%s %s: removed", folder / name, fault)
        (folder / name).unlink(missing_ok=True)
    raise ValueError(f"what comes {fault}")


def _fault(path: Path, file: "RepoSibling") -> str:
    """In what the file at ``path`` is another one than the listed ``file``; empty when it is the same."""
    from rich.console import Console
    from rich.progress import wrap_file

    if (size := path.stat().st_size) != file.size:
        return f"has {size} bytes, not {file.size}"
    wanted = file.lfs.sha256 if file.lfs else file.blob_id
    digest = hashlib.sha256() if file.lfs else hashlib.sha1(b"blob %d\0" % size)  # as git names it
    screen, what = Console(stderr=True), f"check {path.parent.name}/{path.name}"
    shown = functools.partial(wrap_file, console=screen, transient=True, disable=not screen.is_terminal)
    with path.open("rb") as plain, shown(plain, size, description=what) as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return "" if digest.hexdigest() == wanted else f"has {digest.name} {digest.hexdigest()}, not {wanted}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time. Halves that killed ones left are removed: huggingface_hub would not go on from them."""
    (folder / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
    with (folder / ".cache" / "dcexp.lock").open("ab") as lock:
        with suppress(OSError):  # not every file system has locks; without one, what comes twice is right twice
            fcntl.flock(lock, fcntl.LOCK_EX)
        for half in (folder / ".cache" / "huggingface").rglob("*.incomplete"):
            with suppress(FileNotFoundError):
                if time.time() - half.stat().st_mtime > ABANDONED:
                    half.unlink()
        yield


@contextmanager
def _explained(api: "HfApi", origin: Origin, what: str = "") -> Iterator[None]:
    """Turn whatever goes wrong into :class:`Unavailable`."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:  # huggingface_hub lets through what its HTTP and Xet libraries raise
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        silent = isinstance(cause, ConnectionError) or type(cause).__module__.startswith("httpx")
        raise Unavailable(origin, what + _reason(cause, api.endpoint), answered=not silent) from error


def _reason(error: BaseException, endpoint: str) -> str:
    from huggingface_hub import errors as hub

    text = " ".join(str(error).split())
    match error:
        case hub.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE forbids asking for it: unset it"
        case hub.GatedRepoError():
            return "its owner wants to be asked first: do that on its page, then set HF_TOKEN"
        case hub.RepositoryNotFoundError():
            return f"{endpoint} has no such dataset, or it is private and HF_TOKEN does not open it"
        case hub.RevisionNotFoundError():
            return f"{endpoint} has no such commit of it"
        case hub.HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"HF_TOKEN does not open it ({text})"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"the disk is full ({text})"
    if type(error).__module__.startswith("httpx"):
        return f"no connection to {endpoint} ({type(error).__name__}: {text}); see HTTPS_PROXY, HF_ENDPOINT"
    return text if type(error) in (ValueError, OSError) else f"{type(error).__name__}: {text}"
