"""`python -m finetuneflow` is `finetuneflow`."""

from __future__ import annotations

from finetuneflow.cli.app import main

if __name__ == "__main__":
    main()
