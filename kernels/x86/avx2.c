/* The AVX2 rung: the reference operations compiled for AVX2 and FMA, so that each fmaf is one
 * instruction and loops vectorise; the bits are the reference's own. */
#define lodge_kernels_fill_ref lodge_kernels_fill_avx2_base
#include "kernels/ref/ref.c"
#undef lodge_kernels_fill_ref

void lodge_kernels_fill_avx2(struct lodge_cpu_kernels *k)
{
    lodge_kernels_fill_avx2_base(k);
    k->name = "avx2";
}
