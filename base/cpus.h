/* Which CPUs the workers of a process run on, as Linux tells: affinity mask, hardware threads of a
 * core, cores of different speed, quota of control groups (versions 1 and 2). */
#ifndef LODGE_BASE_CPUS_H
#define LODGE_BASE_CPUS_H

#include <sched.h>
#include <stdint.h>

struct lodge_cpus {
    /* One CPU of each core that should work, rising; a phase of a step ends when its slowest worker
     * has done an equal share, so where cores differ it is those that give most that way: the k
     * fastest, whose slowest has speed s, for the greatest k s. */
    int cpu[CPU_SETSIZE];
    unsigned n_cores; /* at least 1 */
    /* As many as the quota pays for, rounded up; 0: there is no quota. */
    unsigned quota;
};

/* Of what `allowed` has; files are read below `root`, "" but in tests. Where a file is missing each
 * CPU counts as a core of its own and all as equally fast. */
void lodge_cpus_find(const char *root, const cpu_set_t *allowed, struct lodge_cpus *out);

#endif
