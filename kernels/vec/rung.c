/* A rung's table entries. One that adds instructions to another (RUNG_BELOW) has the other's, but
 * for kernels that use them: those of integer sums (ADDS_DOTS) or of bf16 (ADDS_BF16), and what
 * packs activations for either. */
#include "kernels/vec/vec.h"

void RUNG_FILL(struct lodge_cpu_kernels *k)
{
#ifdef RUNG_BELOW
    RUNG_BELOW(k);
#else
    RUNG(logits)(k);
    RUNG(attention_merge)(k);
#endif
    k->name = RUNG_NAME;
    RUNG(rows)(k);
#ifndef ADDS_BF16
    RUNG(int8)(k);
    RUNG(attention_int8)(k);
#endif
#ifndef ADDS_DOTS
    RUNG(float)(k);
    RUNG(attention_bf16)(k);
    RUNG(lora)(k);
#endif
}
