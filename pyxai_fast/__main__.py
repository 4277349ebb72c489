"""``python -m pyxai_fast`` is the command line."""

from pyxai_fast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
