"""Jobs in processes that are killed in the middle of them."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

CALLS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree", "tempfile.mkdtemp")
"""What Python says of itself when it is about to touch a file (`sys.addaudithook`)."""


def killed_before(number: int, job: Callable[[], None]) -> bool:
    """Run a job in a process of its own that is killed before its n-th change of a file; whether it came to that."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    count = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        changes = event in CALLS and not (event == "open" and args[1] in ("r", "rb", None))
        count += changes
        if changes and count == number:
            os.kill(os.getpid(), 9)

    sys.addaudithook(hook)
    with suppress(BaseException):
        job()
        os._exit(0)
    os._exit(1)


def each_kill(job: Callable[[], None], then: Callable[[], None], most: int = 60) -> int:
    """Kill a job before its first, second, … change, until one ends; what is left is looked at every time."""
    for number in range(1, most):
        if not killed_before(number, job):
            then()
            return number - 1
        then()
    raise AssertionError(f"the job changes files more than {most} times")
