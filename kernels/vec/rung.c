/* A rung's table entries. */
#include "kernels/vec/vec.h"

void RUNG_FILL(struct lodge_cpu_kernels *k)
{
    k->name = RUNG_NAME;
    RUNG(float)(k);
    RUNG(int8)(k);
    RUNG(rows)(k);
    RUNG(logits)(k);
    RUNG(attention_bf16)(k);
    RUNG(attention_int8)(k);
    RUNG(attention_merge)(k);
    RUNG(lora)(k);
}
