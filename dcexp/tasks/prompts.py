"""Prompts: the templates of a set, filled with its class names."""

from collections.abc import Sequence
from pathlib import Path


def filled(file: Path, templates: Sequence[str], classnames: Sequence[str]) -> list[list[str]]:
    """For each class its name in every template. Raises ValueError, naming the ``file``, for what is no template."""
    if not templates or not classnames:
        raise ValueError(f"{file}: {len(templates)} templates for {len(classnames)} classes; wanted some of both")
    for template in templates:
        try:
            sound = "\0" in template.format(c="\0")
        except (KeyError, IndexError, ValueError, AttributeError):
            sound = False
        if not sound:
            raise ValueError(f"{file}: {template!r}: wanted {{c}} where the class name goes, and no other braces")
    return [[template.format(c=classname) for template in templates] for classname in classnames]
