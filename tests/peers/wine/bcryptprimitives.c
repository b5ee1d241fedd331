/* Wine 8 lacks bcryptprimitives.dll, whose one function Rust's standard library takes its
 * randomness from. This is that function for tests, on top of the generator that Wine has. */
#include <stddef.h>

#define WINAPI __stdcall

/* advapi32: RtlGenRandom under the name it is exported by */
__declspec(dllimport) unsigned char WINAPI SystemFunction036(void *buffer, unsigned long bytes);

__declspec(dllexport) int WINAPI ProcessPrng(unsigned char *buffer, size_t bytes)
{
    while (bytes > 0) {
        unsigned long part = bytes > 0x10000 ? 0x10000 : (unsigned long)bytes;
        if (!SystemFunction036(buffer, part))
            return 0;
        buffer += part;
        bytes -= part;
    }
    return 1;
}
