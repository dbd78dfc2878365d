/* Names of the directory resolver: what is taken, and that no link leads out, with openat2 and
 * on kernels that lack it. */
#include "adapters/adapter.h"
#include "base/file.h"
#include "tests/adapters/base_table.h"
#include "tests/adapters/tensor_files.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *data_dir;

START_TEST(names)
{
    static const char *const good[] = {"a", "A-1_b.c", "x..y", "0", "v1.2"};
    static const char *const bad[] = {"",    ".",   "..",   ".hidden",  "a/b",  "../a",
                                      "a b", "a\n", "a%2f", "\303\244", "a\\b", "a:b",
                                      "~a",  "a*",  "/a",   "a/",       "a\x7f"};
    char longest[130];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(lodge_adapter_name_ok(good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!lodge_adapter_name_ok(bad[i]), "%s", bad[i]);
    memset(longest, 'a', sizeof longest);
    longest[129] = 0;
    ck_assert(!lodge_adapter_name_ok(longest));
    longest[128] = 0;
    ck_assert(lodge_adapter_name_ok(longest));
}
END_TEST

/* openat2 answers as on a kernel that does not know it. */
static void forbid_openat2(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    ck_assert(syscall(SYS_openat2, -1, "x", NULL, 0) == -1 && errno == ENOSYS);
}

static int open_name(int root, const char *name, char path[64])
{
    struct lodge_error e = {0};
    int fd = -1;
    int err = lodge_adapter_open_name(root, name, &fd, path, &e);
    ck_assert_msg(err == e.code, "%s", e.text);
    ck_assert(!err == (fd >= 0));
    if (fd >= 0)
        close(fd);
    return err;
}

static void link_in(const struct folder *f, const char *name, const char *to)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    ck_assert_int_eq(symlink(to, path), 0);
}

START_TEST(nothing_leads_out_of_the_root)
{
    struct folder f;
    char path[256], at[64];
    if (_i)
        forbid_openat2();
    folder_make(&f);
    folder_write_text(&f, "file", "x");
    snprintf(path, sizeof path, "%s/pipe", f.path);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    link_in(&f, "inside", "file");
    link_in(&f, "up", "../");
    link_in(&f, "up2", "../../etc/passwd");
    link_in(&f, "absolute", "/etc");
    link_in(&f, "magic", "/proc/self/cwd");
    link_in(&f, "loop", "loop");
    link_in(&f, "dangling", "nowhere");
    int root = open(f.path, O_RDONLY | O_DIRECTORY);
    ck_assert_int_ge(root, 0);
    ck_assert_int_eq(open_name(root, "file", at), 0);
    ck_assert(strncmp(at, "/proc/self/fd/", 14) == 0);
    ck_assert_int_eq(open_name(root, "inside", at), _i ? LODGE_ERR_NOT_FOUND : 0);
    static const char *const out[] = {"up",   "up2",      "absolute", "magic",
                                      "loop", "dangling", "nowhere",  "pipe"};
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        ck_assert_msg(open_name(root, out[i], at) == LODGE_ERR_NOT_FOUND, "%s", out[i]);
    ck_assert_int_eq(open_name(root, "..", at), LODGE_ERR_INVALID);
    ck_assert_int_eq(open_name(root, "up/etc", at), LODGE_ERR_INVALID);
    close(root);
    folder_remove(&f);
}
END_TEST

static const struct base_shape shape = {.d_model = 36,
                                        .d_ff = 72,
                                        .n_layers = 2,
                                        .n_heads = 3,
                                        .n_kv_heads = 3,
                                        .head_dim = 12,
                                        .n_vocab = 259};

static int read_at(const char *path, struct lodge_error *e)
{
    struct base_table base;
    struct lodge_adapter *a = NULL;
    base_table_init(&base, &shape);
    *e = (struct lodge_error){0};
    int err = lodge_adapter_read(path, "x", &base.base, NULL, &a, e);
    lodge_adapter_destroy(a);
    base_table_finish(&base);
    return err;
}

static void copy(const char *file, const struct folder *to)
{
    char *data = NULL;
    size_t n;
    struct lodge_error e;
    char *from = lodge_path_join(data_dir, file);
    ck_assert_msg(!lodge_file_read(from, 1 << 20, &data, &n, &e), "%s", e.text);
    folder_write(to, strrchr(file, '/') + 1, data, n);
    free(from);
    free(data);
}

/* A directory that was opened by name, whose tensors are a link to another place: refused; for
 * an operator's path it is followed. */
START_TEST(files_of_a_named_adapter_stay_in_it)
{
    struct folder f, other;
    struct lodge_error e;
    char path[256], name[64], at[64];
    if (_i)
        forbid_openat2();
    folder_make(&f);
    folder_make(&other);
    copy("plain/adapter_config.json", &f);
    copy("plain/adapter_model.safetensors", &other);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", other.path);
    link_in(&f, "adapter_model.safetensors", path);
    ck_assert_msg(!read_at(f.path, &e), "%s", e.text);
    int fd = -1, root = open("/tmp", O_RDONLY | O_DIRECTORY);
    snprintf(name, sizeof name, "%s", f.path + strlen("/tmp/"));
    ck_assert_msg(!lodge_adapter_open_name(root, name, &fd, at, &e), "%s", e.text);
    ck_assert_int_eq(read_at(at, &e), LODGE_ERR_FORMAT);
    ck_assert_msg(strstr(e.text, "adapter_model.safetensors") && strstr(e.text, "leads out"), "%s",
                  e.text);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", f.path);
    unlink(path);
    copy("plain/adapter_model.safetensors", &f);
    ck_assert_msg(!read_at(at, &e), "%s", e.text);
    close(fd);
    close(root);
    folder_remove(&f);
    folder_remove(&other);
}
END_TEST

START_TEST(a_named_gguf_file_is_read)
{
    struct lodge_error e;
    char at[64];
    int fd = -1, root = open(data_dir, O_RDONLY | O_DIRECTORY);
    ck_assert_msg(!lodge_adapter_open_name(root, "plain.gguf", &fd, at, &e), "%s", e.text);
    ck_assert_msg(!read_at(at, &e), "%s", e.text);
    close(fd);
    close(root);
}
END_TEST

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    data_dir = argc > 1 ? argv[1] : "";
    Suite *s = suite_create("names of adapters");
    TCase *t = tcase_create("all");
    tcase_add_test(t, names);
    tcase_add_loop_test(t, nothing_leads_out_of_the_root, 0, 2);
    tcase_add_loop_test(t, files_of_a_named_adapter_stay_in_it, 0, 2);
    tcase_add_test(t, a_named_gguf_file_is_read);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
