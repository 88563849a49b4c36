"""One record of ``numpy.save``, whose fields are the tensors: at first its header is read, and numbers are mapped."""

from dit360_core.models.family import Described
from dit360_core.plugins import ModelError, WeightsFormat, hookimpl

FORMS = {"<f8": "F64", "<f4": "F32", "<f2": "F16"}


class Record:
    def __init__(self, file):
        self.file, self.unused, self.metadata, self.tensors = file, {}, {}, {}
        for name, (dtype, _) in (self.mapped().dtype.fields or {}).items():
            form, known = FORMS.get(dtype.base.str, dtype.base.str), dtype.base.str in FORMS
            self.tensors[name] = Described(form=form, shape=dtype.shape, bytes=dtype.itemsize, known=known)

    def mapped(self):
        import numpy

        try:  # NumPy reads short headers unasked, and a thousand tensors have a long one
            return numpy.load(self.file, mmap_mode="c", max_header_size=2**20).reshape(())
        except Exception as error:
            raise ModelError(f"{self.file} is damaged, or no record of numpy.save; write it anew.") from error

    def read(self, name):
        import torch

        return torch.from_numpy(self.mapped()[name])


@hookimpl
def dit360_formats():
    yield WeightsFormat(name="npy", api=1, suffixes=(".npy",), load=lambda: Record)
