#include "base/host.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYS_CPU "/sys/devices/system/cpu/cpu"
#define USUAL_CAPACITY 1024 /* of the fastest, by the kernel's definition */

struct core {
    int cpu;
    long capacity;
};

static FILE *open_below(const char *root, const char *dir, const char *name)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s%s/%s", root, dir, name);
    return n > 0 && n < (int)sizeof path ? fopen(path, "re") : NULL;
}

/* The first numbers of a file; -1 for what is not there. */
static void read_numbers(FILE *f, long long *a, long long *b)
{
    *a = *b = -1;
    if (f && fscanf(f, "%lld %lld", a, b) < 1)
        *a = -1;
    if (f)
        fclose(f);
}

/* The CPUs of a list like "0-3,8"; none where there is no such file. */
static void read_list(FILE *f, cpu_set_t *out)
{
    int a, b;
    CPU_ZERO(out);
    while (f && fscanf(f, "%d", &a) == 1) {
        char sep = 0;
        b = a;
        if (fscanf(f, "%c", &sep) == 1 && sep == '-' && fscanf(f, "%d%c", &b, &sep) < 1)
            b = a;
        for (int c = a > 0 ? a : 0; c <= b && c < CPU_SETSIZE; c++)
            CPU_SET(c, out);
    }
    if (f)
        fclose(f);
}

/* ---- cores ---- */

/* Is it the first of its core's hardware threads among those allowed? */
static bool leads(const char *root, int cpu, const cpu_set_t *allowed)
{
    char dir[64];
    cpu_set_t siblings;
    snprintf(dir, sizeof dir, SYS_CPU "%d/topology", cpu);
    read_list(open_below(root, dir, "thread_siblings_list"), &siblings);
    CPU_AND(&siblings, &siblings, allowed);
    for (int c = 0; c < cpu; c++)
        if (CPU_ISSET(c, &siblings))
            return false;
    return true;
}

/* Kernels that tell no capacity on x86 name the efficient cores of Intel's hybrids, whose vector
 * units are half as wide. */
static long capacity_of(const char *root, int cpu, const cpu_set_t *efficient)
{
    char dir[64];
    long long capacity, none;
    snprintf(dir, sizeof dir, SYS_CPU "%d", cpu);
    read_numbers(open_below(root, dir, "cpu_capacity"), &capacity, &none);
    if (capacity <= 0 || capacity > USUAL_CAPACITY)
        capacity = USUAL_CAPACITY;
    if (CPU_ISSET(cpu, efficient) && capacity > USUAL_CAPACITY / 2)
        capacity = USUAL_CAPACITY / 2;
    return (long)capacity;
}

static int fastest_first(const void *a, const void *b)
{
    const struct core *x = a, *y = b;
    return x->capacity != y->capacity ? (x->capacity < y->capacity ? 1 : -1)
                                      : (x->cpu > y->cpu) - (x->cpu < y->cpu);
}

static int by_number(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static void choose(struct core *cores, unsigned n, struct lodge_cpus *out)
{
    long most = 0;
    qsort(cores, n, sizeof *cores, fastest_first);
    for (unsigned k = 1; k <= n; k++)
        if (k * cores[k - 1].capacity >= most) {
            most = k * cores[k - 1].capacity;
            out->n_cores = k;
        }
    for (unsigned i = 0; i < out->n_cores; i++)
        out->cpu[i] = cores[i].cpu;
    qsort(out->cpu, out->n_cores, sizeof *out->cpu, by_number);
}

/* ---- control groups ---- */

/* A group: the folder of its files, by version. */
typedef void group_fn(const char *root, const char *dir, bool v2, void *out);

/* A line "number:controllers:path" of /proc/self/cgroup: calls fn for the group and all above it.
 * In a container the path may be the host's, but what is mounted begins at the container's. */
static void groups_of_line(const char *root, char *line, const char *controller, group_fn *fn,
                           void *out)
{
    char *list = strchr(line, ':'), *path = list ? strchr(++list, ':') : NULL;
    char dir[4096];
    if (!path)
        return;
    *path++ = 0;
    path[strcspn(path, "\n")] = 0;
    const bool v2 = !*list;
    bool more = v2;
    for (char *name; (name = strsep(&list, ","));)
        more = more || strcmp(name, controller) == 0;
    while (more) {
        char *end = strrchr(path, '/');
        snprintf(dir, sizeof dir, "/sys/fs/cgroup/%s%s", v2 ? "" : controller, path);
        fn(root, dir, v2, out);
        more = end != NULL;
        if (more)
            *end = 0;
    }
}

static void each_group(const char *root, const char *controller, group_fn *fn, void *out)
{
    char line[4096];
    FILE *f = open_below(root, "/proc/self", "cgroup");
    while (f && fgets(line, sizeof line, f))
        groups_of_line(root, line, controller, fn, out);
    if (f)
        fclose(f);
}

/* "quota period" or "max period" of version 2, two files of version 1. */
static void take_quota(const char *root, const char *dir, bool v2, void *out)
{
    unsigned *least = out;
    long long quota, period, none;
    read_numbers(open_below(root, dir, v2 ? "cpu.max" : "cpu.cfs_quota_us"), &quota, &period);
    if (!v2)
        read_numbers(open_below(root, dir, "cpu.cfs_period_us"), &period, &none);
    if (quota <= 0 || period <= 0 || quota / period >= CPU_SETSIZE)
        return;
    unsigned n = (unsigned)((quota + period - 1) / period);
    if (!*least || n < *least)
        *least = n;
}

void lodge_host_cpus(const char *root, const cpu_set_t *allowed, struct lodge_cpus *out)
{
    struct core cores[CPU_SETSIZE];
    cpu_set_t efficient;
    unsigned n = 0;
    *out = (struct lodge_cpus){.n_cores = 1};
    read_list(open_below(root, "/sys/devices/cpu_atom", "cpus"), &efficient);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, allowed) && leads(root, cpu, allowed))
            cores[n++] = (struct core){cpu, capacity_of(root, cpu, &efficient)};
    if (n > 0)
        choose(cores, n, out);
    each_group(root, "cpu", take_quota, &out->quota);
}

/* ---- memory ---- */

/* Sum of the numbers of lines "name number" with one of two names. */
static uint64_t sum_of_lines(FILE *f, const char *name, const char *other)
{
    char line[256], key[64];
    unsigned long long n, sum = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%63s %llu", key, &n) == 2 &&
            (strcmp(key, name) == 0 || strcmp(key, other) == 0))
            sum += n;
    if (f)
        fclose(f);
    return sum;
}

/* What a group uses has the pages of files in it that were read: those give way. */
static void take_memory(const char *root, const char *dir, bool v2, void *out)
{
    uint64_t *least = out;
    long long limit, used, none;
    read_numbers(open_below(root, dir, v2 ? "memory.max" : "memory.limit_in_bytes"), &limit, &none);
    read_numbers(open_below(root, dir, v2 ? "memory.current" : "memory.usage_in_bytes"), &used,
                 &none);
    if (limit < 0 || used < 0)
        return;
    FILE *stat = open_below(root, dir, "memory.stat");
    uint64_t files = v2 ? sum_of_lines(stat, "active_file", "inactive_file")
                        : sum_of_lines(stat, "total_active_file", "total_inactive_file");
    uint64_t taken = files < (uint64_t)used ? (uint64_t)used - files : 0;
    uint64_t left = taken < (uint64_t)limit ? (uint64_t)limit - taken : 0;
    if (left < *least)
        *least = left;
}

uint64_t lodge_host_memory(const char *root)
{
    uint64_t left =
        sum_of_lines(open_below(root, "/proc", "meminfo"), "MemAvailable:", "MemAvailable:") * 1024;
    each_group(root, "memory", take_memory, &left);
    return left;
}
