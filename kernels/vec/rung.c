/* A rung's table entries. */
#include "kernels/vec/vec.h"

void RUNG_FILL(struct lodge_cpu_kernels *k)
{
    k->name = RUNG_NAME;
    RUNG(float)(k);
    RUNG(int8)(k);
    RUNG(rows)(k);
    RUNG(logits)(k);
    RUNG(attention)(k);
    RUNG(lora)(k);
}
