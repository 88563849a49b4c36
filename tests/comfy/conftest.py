"""What several files of nodes' tests need."""

import pytest
from called_nodes import TINY, run


@pytest.fixture(scope="module")
def pipe():
    """The embedded model, as DiT360 Loader hands it on."""
    return run("DiT360Loader", **TINY)[0]


@pytest.fixture(scope="module")
def words(pipe):
    """A prompt that DiT360 Text Encode has read."""
    return run("DiT360TextEncode", dit360_pipe=pipe, prompt="a meadow", negative_prompt="", max_length=0)[0]
