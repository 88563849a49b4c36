/* Built by the test: an extension module that calls what no library has. */
#include <Python.h>

void _ZN3c104cuda9SetDeviceEa(signed char device);

PyMODINIT_FUNC PyInit_flash_attn_2_cuda(void) {
    _ZN3c104cuda9SetDeviceEa(0);
    return 0;
}
