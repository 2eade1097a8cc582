"""`python -m lrp_compiler`: the command line."""

from lrp_compiler.cli import main

raise SystemExit(main())
