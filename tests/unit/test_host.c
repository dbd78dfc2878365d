/* What is left to a process: trees of files as Linux has them on machines of several kinds. */
#include "base/host.h"

#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64];
static cpu_set_t allowed;
static struct lodge_cpus got;

static void make_root(void)
{
    snprintf(root, sizeof root, "/tmp/lodge-host-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    CPU_ZERO(&allowed);
}

static void remove_root(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    ck_assert_int_eq(system(command), 0);
}

/* Writes `text` to the file root/path, with its folders. */
static void put(const char *text, const char *path, ...)
{
    char full[512];
    int n = snprintf(full, sizeof full, "%s", root);
    va_list args;
    va_start(args, path);
    vsnprintf(full + n, sizeof full - (size_t)n, path, args);
    va_end(args);
    for (char *at = full + n + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        ck_assert(mkdir(full, 0700) == 0 || errno == EEXIST);
        *at = '/';
    }
    FILE *f = fopen(full, "w");
    ck_assert_ptr_nonnull(f);
    fprintf(f, "%s\n", text);
    fclose(f);
}

static void put_siblings(int cpu, const char *list)
{
    put(list, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
}

static void allow(int from, int to)
{
    for (int c = from; c <= to; c++)
        CPU_SET(c, &allowed);
}

/* The cores must be these, as text. */
static void expect(const char *cores, unsigned quota)
{
    char text[512] = "";
    lodge_host_cpus(root, &allowed, &got);
    for (unsigned i = 0; i < got.n_cores; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", i ? " " : "", got.cpu[i]);
    ck_assert_str_eq(text, cores);
    ck_assert_uint_eq(got.quota, quota);
}

START_TEST(without_files_each_is_a_core)
{
    expect("0", 0); /* nothing allowed: the caller's */
    allow(2, 4);
    expect("2 3 4", 0);
}
END_TEST

START_TEST(threads_of_a_core_count_once)
{
    for (int c = 0; c < 8; c++) /* neighbours */
        put_siblings(c, (const char *[]){"0-1", "2-3", "4-5", "6-7"}[c / 2]);
    allow(0, 7);
    expect("0 2 4 6", 0);
    CPU_CLR(2, &allowed);
    CPU_CLR(4, &allowed);
    CPU_CLR(5, &allowed);
    expect("0 3 6", 0);
    for (int c = 0; c < 8; c++) /* second threads behind all first ones */
        put_siblings(c, (const char *[]){"0,4", "1,5", "2,6", "3,7"}[c % 4]);
    allow(0, 7);
    expect("0 1 2 3", 0);
    for (int c = 0; c < 8; c++) /* four a core, and a list that ends in a range */
        put_siblings(c, c % 2 ? "1,3,5-7" : "0,2,4,6");
    expect("0 1", 0);
}
END_TEST

/* Intel: performance cores with two threads, then efficient cores, half as fast. */
static void make_hybrid(int n_fast, int n_efficient)
{
    char list[32];
    for (int c = 0; c < 2 * n_fast + n_efficient; c++) {
        bool fast = c < 2 * n_fast;
        snprintf(list, sizeof list, "%d-%d", fast ? c & ~1 : c, fast ? c | 1 : c);
        put_siblings(c, list);
    }
    snprintf(list, sizeof list, "%d-%d", 2 * n_fast, 2 * n_fast + n_efficient - 1);
    put(list, "/sys/devices/cpu_atom/cpus");
    CPU_ZERO(&allowed);
    allow(0, 2 * n_fast + n_efficient - 1);
}

START_TEST(slow_cores_work_if_they_are_many)
{
    make_hybrid(6, 4);
    expect("0 2 4 6 8 10", 0);
    make_hybrid(2, 8);
    expect("0 2 4 5 6 7 8 9 10 11", 0);
    CPU_ZERO(&allowed);
    allow(4, 11);
    expect("4 5 6 7 8 9 10 11", 0);
}
END_TEST

START_TEST(capacities_tell_speed)
{
    allow(0, 7);
    for (int c = 0; c < 8; c++) /* a fastest one, three fast, four slow, as in a phone */
        put(c == 7  ? "1024"
            : c > 3 ? "900"
                    : "300",
            "/sys/devices/system/cpu/cpu%d/cpu_capacity", c);
    expect("4 5 6 7", 0);
    for (int c = 0; c < 8; c++)
        put("1024", "/sys/devices/system/cpu/cpu%d/cpu_capacity", c);
    expect("0 1 2 3 4 5 6 7", 0);
    put("nonsense", "/sys/devices/system/cpu/cpu3/cpu_capacity");
    expect("0 1 2 3 4 5 6 7", 0);
}
END_TEST

START_TEST(quotas_of_version_2)
{
    allow(0, 7);
    put("0::/a.slice/b", "/proc/self/cgroup");
    put("max 100000", "/sys/fs/cgroup/a.slice/b/cpu.max");
    expect("0 1 2 3 4 5 6 7", 0);
    put("450000 100000", "/sys/fs/cgroup/a.slice/b/cpu.max");
    expect("0 1 2 3 4 5 6 7", 5);
    put("200000 100000", "/sys/fs/cgroup/a.slice/cpu.max"); /* of a group above */
    expect("0 1 2 3 4 5 6 7", 2);
    put("0::/", "/proc/self/cgroup"); /* a container */
    expect("0 1 2 3 4 5 6 7", 0);
    put("50000 100000", "/sys/fs/cgroup/cpu.max");
    expect("0 1 2 3 4 5 6 7", 1);
}
END_TEST

START_TEST(quotas_of_version_1)
{
    allow(0, 3);
    put("5:cpuset:/x\n4:cpu,cpuacct:/docker/x\n0::/", "/proc/self/cgroup");
    expect("0 1 2 3", 0);
    put("-1", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    put("100000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    expect("0 1 2 3", 0);
    put("300000", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    expect("0 1 2 3", 3);
    put("nonsense\n::\n:", "/proc/self/cgroup");
    expect("0 1 2 3", 0);
}
END_TEST

static void expect_memory(uint64_t bytes)
{
    ck_assert_uint_eq(lodge_host_memory(root), bytes);
}

START_TEST(memory_of_version_2)
{
    expect_memory(0);
    put("MemTotal: 900 kB\nMemFree: 1 kB\nMemAvailable:   800 kB", "/proc/meminfo");
    expect_memory(800 << 10);
    put("0::/pods/one", "/proc/self/cgroup");
    put("max", "/sys/fs/cgroup/pods/one/memory.max");
    put("1000", "/sys/fs/cgroup/pods/one/memory.current");
    expect_memory(800 << 10);
    put("500000", "/sys/fs/cgroup/pods/memory.max");
    put("100000", "/sys/fs/cgroup/pods/memory.current");
    expect_memory(400000);
    /* All of it used, but by files that were read. */
    put("300000", "/sys/fs/cgroup/pods/one/memory.max");
    put("300000", "/sys/fs/cgroup/pods/one/memory.current");
    put("anon 20000\nfile 280000\nshmem 30000\ninactive_file 150000\nactive_file 100000",
        "/sys/fs/cgroup/pods/one/memory.stat");
    expect_memory(250000);
    put("310000", "/sys/fs/cgroup/pods/one/memory.current"); /* more than allowed */
    put("anon 310000", "/sys/fs/cgroup/pods/one/memory.stat");
    expect_memory(0);
}
END_TEST

START_TEST(memory_of_version_1)
{
    put("MemAvailable: 4000 kB", "/proc/meminfo");
    put("9:memory:/docker/abc\n0::/", "/proc/self/cgroup");
    put("9223372036854771712", "/sys/fs/cgroup/memory/memory.limit_in_bytes");
    put("5000000", "/sys/fs/cgroup/memory/memory.usage_in_bytes");
    expect_memory(4000 << 10);
    put("2000000", "/sys/fs/cgroup/memory/memory.limit_in_bytes");
    put("1500000", "/sys/fs/cgroup/memory/memory.usage_in_bytes");
    put("total_inactive_file 1000000\ninactive_file 7", "/sys/fs/cgroup/memory/memory.stat");
    expect_memory(1500000);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("host");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, make_root, remove_root);
    tcase_add_test(t, without_files_each_is_a_core);
    tcase_add_test(t, threads_of_a_core_count_once);
    tcase_add_test(t, slow_cores_work_if_they_are_many);
    tcase_add_test(t, capacities_tell_speed);
    tcase_add_test(t, quotas_of_version_2);
    tcase_add_test(t, quotas_of_version_1);
    tcase_add_test(t, memory_of_version_2);
    tcase_add_test(t, memory_of_version_1);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
