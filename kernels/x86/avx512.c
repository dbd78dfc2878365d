/* The AVX-512 rungs' table entries. */
#include "kernels/x86/avx512.h"

#ifdef __AVX512BF16__
void lodge_kernels_fill_avx512(struct lodge_cpu_kernels *k)
#else
void lodge_kernels_fill_avx512_vnni(struct lodge_cpu_kernels *k)
#endif
{
    k->name = RUNG_NAME;
    RUNG(float)(k);
    RUNG(int8)(k);
    RUNG(rows)(k);
    RUNG(attention)(k);
}
