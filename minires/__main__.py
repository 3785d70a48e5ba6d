"""``python -m minires`` is ``minires``."""

from .cli import main

raise SystemExit(main())
