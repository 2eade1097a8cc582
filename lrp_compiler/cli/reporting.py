"""Results on stdout: as JSON for machines, else as text or as a table."""

import argparse
import json
import sys
from typing import Any


def report(arguments: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Print a result, or what there is to say of it."""
    print(json.dumps(result, indent=2) if arguments.json else text)


def report_table(arguments: argparse.Namespace, result: Any, **options: Any) -> None:
    """Print what knows itself as data and as a table."""
    if arguments.json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    from rich.console import Console

    # A pipe has no width; 80 columns would cut the names of nodes.
    Console(width=None if sys.stdout.isatty() else 200).print(result.table(**options))
