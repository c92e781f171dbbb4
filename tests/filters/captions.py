"""Captions for the tests of text filters: of several languages and lengths, and with all that Unicode can do."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from dcexp.filters.rows import Rows

WEB = [
    "A black dog runs across the beach with a stick in its mouth",
    "Red leather handbag, size M | free shipping",
    "Ein schwarzer Hund läuft mit einem Stock im Maul über den Strand",
    "Un chien noir court sur la plage avec un bâton dans la gueule",
    "Un perro negro corre por la playa con un palo en la boca",
    "Чёрная собака бежит по пляжу с палкой в зубах",
    "黒い犬が棒をくわえて浜辺を走っている",
    "一只黑狗叼着棍子在沙滩上奔跑",
    "كلب أسود يجري على الشاطئ وفي فمه عصا",
    "검은 개가 막대기를 물고 해변을 달린다",
    "IMG_20190214_1234.JPG",
    "DSC00012",
    "Photo",
    "sunset 🌅 over the 🏔️",
    "line one\nline two",
    "tab\tand\r\nreturn\x0b\x0c",
    "no\u00a0break\u2003em\u3000wide\u200bzero",
    "a\x00b \x1c c\x85d",
    "</s> bonjour le monde </s>",
    "walking dogs, TENCHES and women's axes",
    "__label__en",
    "",
    " ",
    "\n",
    "x",
]

SEPARATORS = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u3000\x00\ufeff"
anything = st.text(max_size=20) | st.text(alphabet=SEPARATORS + "aé漢😀", max_size=20)


def rows_of(texts, slices=1, type=pa.string):
    """The rows of a part that has these captions, in several chunks."""
    array = pa.array(["not a caption", *texts], type())[1:]
    bounds = np.linspace(0, len(texts), slices + 1).astype(int)
    chunks = [array[start:end] for start, end in pairwise(bounds)]
    table = pa.table({"text": pa.chunked_array(chunks, type())})
    return Rows(part=None, number=0, table=table, where=np.ones(len(texts), bool))


def kept(stage, texts, **how):
    """What ``stage`` says of each caption."""
    mask = stage.keep(rows_of(texts, **how))
    assert mask.dtype == bool and mask.shape == (len(texts),)
    return mask.tolist()
