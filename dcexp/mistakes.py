"""How a mistake is said to whoever made it: one message that names what came, what exists and what to do."""

import difflib
import re
from pathlib import Path

FILTERS = ("of", "first", "then", "this", "without")  # the keys that hold a filter themselves


def is_wrong_argument(error: BaseException) -> bool:
    """True for a field that a class does not have or misses, given through ``+key=`` or ``~key``."""
    return isinstance(error, TypeError) and "__init__()" in str(error)


def message(error: BaseException, conf: Path) -> str:
    """What to show for ``error``; ``conf`` holds the option files, for keys that are nearly right."""
    text = str(error).strip()
    if is_wrong_argument(error):
        return text.replace(".__init__() got an unexpected keyword argument", " has no field").replace(
            ".__init__() missing", " misses"
        )
    if "Viable" in text or "mismatched input" in text or "extraneous input" in text:
        text += "\nA value with spaces, '~', '=' or accents wants quotes within quotes: 'source.root=\"/my path\"'"
    elif "is not in struct" in text:
        key = text.partition("full_key: ")[2].partition("\n")[0]
        text = f"no key {key!r} here{_near(key, conf)} To see what there is, add: --cfg job"
    elif "Missing mandatory value" in text:
        key = text.partition("full_key: ")[2].partition("\n")[0]
        is_filter = key.rpartition(".")[2] in FILTERS
        text = f"{key} has no value yet; give one: " + (f"+filter@{key}=clip_score" if is_filter else f"{key}=…")
    return text or repr(error)


def _near(key: str, conf: Path) -> str:
    """The key of any option that is spelt nearly like ``key``, as a question."""
    group, _, name = key.rpartition(".")
    words = re.findall(r"^\s*(\w+):", "\n".join(p.read_text() for p in conf.rglob("*.yaml")), flags=re.MULTILINE)
    near = difflib.get_close_matches(name, set(words), n=1)
    return f"; did you mean '{group}.{near[0]}'?" if near and group and near[0] != name else "."
