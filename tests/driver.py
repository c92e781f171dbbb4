"""Run the command line and kill this process at an exact moment: ``driver.py KIND NTH words…``.

The NTH file that gets its final name while an artifact of KIND is made is the last thing this process does (the first
is the store's own note on the attempt). Workers would be other processes, so give ``engine.workers=1``.
"""

import os
import signal
import sys
from pathlib import Path

from dcexp import store
from dcexp.cli import main


def kill_at(kind: str, nth: int) -> None:
    seen = {"kind": "", "renames": 0}
    make, replace = store.Store._make, Path.replace

    def watched_make(self, step, *rest):
        seen["kind"] = step.kind
        return make(self, step, *rest)

    def watched_replace(self, target):
        if seen["kind"] == kind:
            seen["renames"] += 1
            if seen["renames"] == nth:
                if nth % 2:
                    replace(self, target)  # odd: die just after the file got its name; even: just before
                os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    store.Store._make = watched_make  # type: ignore[method-assign]
    Path.replace = watched_replace  # type: ignore[method-assign]


if __name__ == "__main__":
    kill_at(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["dcexp", *sys.argv[3:]]
    main()
