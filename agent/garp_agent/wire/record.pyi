# What type checkers read in place of record.py.
from typing import Generic as Generic
from typing import NamedTuple as NamedTuple
from typing import TypeVar

T = TypeVar("T")
