"""Many pictures with one model: from a list to a folder, resumable, in this process or on several machines.

``items`` reads the list, ``folder`` knows what is done, ``painting`` makes one picture, ``in_process`` and ``on_ray``
hand pictures out, ``running`` ties them together. Only ``painting`` imports torch, and only ``on_ray`` imports Ray.
"""

from dit360_core.batching.running import Batch, Outcome

__all__ = ["Batch", "Outcome"]
