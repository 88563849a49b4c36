"""A library that is installed and cannot be imported is one sentence, wherever it is first asked for."""

import pytest
from command_line import python

_BROKEN = """
import importlib.abc, sys

class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            raise ImportError("libfoo.so: cannot open shared object")

# As if it had never been imported, nor anything of ours: to start with nothing costs seconds.
for name in [name for name in sys.modules if name == {module!r} or name.startswith("dit360")]:
    del sys.modules[name]
for library in [found for found in sys.modules.values() if type(found).__name__ == "_LazyModule"]:
    for name, value in list(vars(library).items()):
        if getattr(value, "__module__", None) == {module!r}:
            delattr(library, name)
sys.meta_path.insert(0, Broken())
from dit360_core.cli import main
sys.argv = ["dit360", *{arguments!r}]
main()
"""


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["generate", "a castle", "-o", "x.png"], "diffusers.models.transformers.transformer_flux"),
        (["plan"], "transformers.models.t5.modeling_t5"),
    ],
    ids=["generate", "plan"],
)
def test_it_is_named_with_the_cause(tmp_path, arguments, module):
    done = python(_BROKEN.format(module=module, arguments=arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "diffusers or transformers cannot be imported here (" in done.stderr
    assert "libfoo.so" in done.stderr
    assert "Traceback" not in done.stderr
