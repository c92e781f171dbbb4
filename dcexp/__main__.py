"""``python -m dcexp``."""

from dcexp.cli import main

if __name__ == "__main__":
    main()
