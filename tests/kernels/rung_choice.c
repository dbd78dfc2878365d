/* Which instruction-set level a CPU gets: prints the best one, or the one named, or why there is
 * none (exit code 4, as of the program). usage: rung_choice [LEVEL] */
#include "kernels/cpu/kernels.h"

#include <stdio.h>

int main(int n_args, char **args)
{
    struct lodge_cpu_kernels k;
    struct lodge_error e = {0};
    int failed = lodge_cpu_kernels_init(&k, n_args > 1 ? args[1] : NULL, &e);
    printf("%s\n", failed ? e.text : k.name);
    return failed ? 4 : 0;
}
