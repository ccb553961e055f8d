"""Numbers of settings by what they count, each between bounds beyond which nothing sensible lies.

A typing error such as 1e20 for 1e2 is then refused where it stands and not by what it breaks. Whether a value
fits the memory of a machine is another question (`costs/memory.py`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ByteSize, Field

Seed = Annotated[int, Field(ge=0, le=2**64 - 1)]
"""What torch and numpy take as a seed."""
Count = Annotated[int, Field(ge=1, le=10**9)]
"""Entries, pairs, classes, steps, epochs: at least one."""
CountOrNone = Annotated[int, Field(ge=0, le=10**9)]
"""The same, or 0."""
Width = Annotated[int, Field(ge=1, le=2**20)]
"""Length of a vector, or of a layer."""
Processes = Annotated[int, Field(ge=1, le=10**5)]
"""Ranks, nodes, stages or jobs at a time."""
Cores = Annotated[int, Field(ge=1, le=4096)]
"""CPU cores or threads of a process."""
Tries = Annotated[int, Field(ge=0, le=10**5)]
"""How often something may start again."""
Seconds = Annotated[int, Field(ge=1, le=10**7)]
"""Waiting times; four months at most."""
Minutes = Annotated[int, Field(ge=1, le=10**6)]
"""Time limits; two years at most."""
Bytes = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Sizes of files."""
Memory = Annotated[ByteSize, Field(gt=0, le=2**50)]
"""Memory of a process."""
Gibibytes = Annotated[float, Field(ge=0.001, le=10**6)]
"""Memory of a node."""
Factor = Annotated[float, Field(ge=0, le=1e6)]
"""Weights, deviations, times in seconds."""
Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
"""What something is divided or multiplied by."""
Figure = Annotated[float, Field(ge=-1e9, le=1e9)]
"""Results as they were published."""
