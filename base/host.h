/* What the machine and its control groups (versions 1 and 2) leave to this process, as Linux tells.
 *
 * Files are read below `root`, which is "" but in tests. A limit of a group holds for the groups in
 * it, so all those above the process count. */
#ifndef LODGE_BASE_HOST_H
#define LODGE_BASE_HOST_H

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

/* Of what the affinity mask `allowed` has. Where a file is missing each CPU counts as a core of its
 * own and all as equally fast. */
void lodge_host_cpus(const char *root, const cpu_set_t *allowed, struct lodge_cpus *out);

/* Bytes that can be taken without swapping: what the machine has left, or less where a group is
 * limited; cached files count as left, since they give way. 0 when nothing is known. */
uint64_t lodge_host_memory(const char *root);

#endif
