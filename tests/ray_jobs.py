"""Jobs that the workers of a Ray cluster import."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidur.errors import InputError


def noted(job: tuple[str, int, Callable[[Any], Any], Any]) -> Any:
    """Write this process's id into `FOLDER/NUMBER.pid`, then run a function on a job."""
    folder, number, function, argument = job
    with (Path(folder) / f"{number}.pid").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return function(argument)


def square_slowly(number: int) -> int:
    time.sleep(0.4)
    return number**2


def refuse_three(number: int) -> int:
    if number == 3:
        raise InputError("three is not allowed")
    return 1 // number


def die_at_one(number: int) -> int:
    if number == 1:
        os._exit(1)
    return number
