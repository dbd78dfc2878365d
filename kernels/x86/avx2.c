/* The AVX2 rung's table entries. */
#include "kernels/x86/avx2.h"

void lodge_kernels_fill_avx2(struct lodge_cpu_kernels *k)
{
    k->name = "avx2";
    lodge_avx2_float(k);
    lodge_avx2_int8(k);
    lodge_avx2_rows(k);
    lodge_avx2_attention(k);
}
