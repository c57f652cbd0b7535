# What type checkers read in place of record.py.
from collections import deque as deque
from enum import Enum as Enum
from math import inf as inf
from typing import Generic as Generic
from typing import NamedTuple as NamedTuple
from typing import TypeVar

T = TypeVar("T")
