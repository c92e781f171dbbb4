"""An attempt that is stopped at one of its files, or while it cleans up."""

from contextlib import suppress

from dcexp.artifacts import files


class Stopped(BaseException):
    """What a kill is to the process that it hits, as far as files are concerned: nothing after it happens."""


def stopped_at(monkeypatch, nth, build):
    """What ``build`` makes, or None where it needs ``nth`` files or more and is stopped at that one."""
    seen, real = [], files.Path.replace

    def replace(self, target):
        seen.append(target)
        if len(seen) >= nth:
            raise Stopped
        return real(self, target)

    with monkeypatch.context() as patch, suppress(Stopped):
        patch.setattr(files.Path, "replace", replace)
        return build()


def stopped_cleaning_up(monkeypatch, build, spared=()):
    """Stop ``build`` when it has deleted every other file of the first folder that it deletes, but for some names.

    Returns whether it deleted any.
    """
    real = files.shutil.rmtree

    def half(folder, ignore_errors=False):
        if folder.name.removesuffix(".gone") in spared:
            real(folder, ignore_errors)
        elif folder.is_dir():
            for path in sorted(folder.glob("*"))[::2]:
                path.unlink()
            raise Stopped

    with monkeypatch.context() as patch, suppress(Stopped):
        patch.setattr(files.shutil, "rmtree", half)
        build()
        return False
    return True
