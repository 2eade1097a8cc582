"""`python -m lrp_compiler`: the command line."""

from .cli import main

raise SystemExit(main())
