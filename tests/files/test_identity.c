/* The identity of a model's files: the same as long as nothing is written, another after any change
 * that keeps name, size and time of modification. Usage: test_identity FOLDER_OF_MODELS */
#include "base/file.h"
#include "engine/files/model_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition, what)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s: %s\n", what, #condition);                                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void copy(const char *from, const char *to)
{
    char *data;
    size_t n;
    CHECK(lodge_file_read(from, (size_t)64 << 20, &data, &n, NULL) == 0, from);
    FILE *f = fopen(to, "we");
    CHECK(f && fwrite(data, 1, n, f) == n && fclose(f) == 0, to);
    free(data);
}

static struct lodge_digest identity(const struct lodge_model_file *m)
{
    struct lodge_digest fingerprint, out;
    lodge_model_fingerprint(m, &fingerprint);
    lodge_model_identity(m, &fingerprint, &out);
    return out;
}

static struct lodge_digest identity_of(const char *path)
{
    struct lodge_model_file *m = NULL;
    CHECK(lodge_model_open(path, 0, &m, NULL) == 0, path);
    struct lodge_digest d = identity(m);
    lodge_model_close(m);
    return d;
}

static bool same(struct lodge_digest a, struct lodge_digest b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

/* Writes the last byte again as it is, and puts the time back. */
static void touch(const char *path)
{
    struct stat st;
    uint8_t byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fstat(fd, &st) == 0, path);
    CHECK(pread(fd, &byte, 1, st.st_size - 1) == 1 && pwrite(fd, &byte, 1, st.st_size - 1) == 1,
          path);
    CHECK(futimens(fd, (struct timespec[2]){st.st_atim, st.st_mtim}) == 0, path);
    close(fd);
}

/* Another file of the same bytes, size and time in the place of this one. */
static void replace(const char *path)
{
    char other[300];
    struct stat st;
    snprintf(other, sizeof other, "%s.other", path);
    copy(path, other);
    CHECK(stat(path, &st) == 0, path);
    CHECK(utimensat(AT_FDCWD, other, (struct timespec[2]){st.st_atim, st.st_mtim}, 0) == 0, path);
    CHECK(rename(other, path) == 0, path);
}

/* `weights` is a file of the model, or the model. */
static void check(const char *model, const char *weights)
{
    struct lodge_model_file *m = NULL;
    struct lodge_digest first = identity_of(model);
    CHECK(same(identity_of(model), first), "opened twice");
    CHECK(lodge_model_open(model, 0, &m, NULL) == 0, model);
    CHECK(same(identity(m), first), "while it is open");
    usleep(50000); /* more than the clock of a file system counts by */
    touch(weights);
    CHECK(!same(identity(m), first), "written to while it is open");
    struct lodge_digest second = identity(m);
    lodge_model_close(m);
    CHECK(same(identity_of(model), second), "opened after the change");
    CHECK(lodge_model_open(model, 0, &m, NULL) == 0, model);
    usleep(50000);
    replace(weights);
    CHECK(!same(identity(m), second), "replaced while it is open: the old file has lost its name");
    lodge_model_close(m);
    struct lodge_digest third = identity_of(model);
    CHECK(!same(third, second) && !same(third, first), "replaced");
    unlink(weights);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    char dir[] = "/tmp/lodge-identity-XXXXXX", from[300], to[300], gguf[300];
    CHECK(argc == 2 && mkdtemp(dir), "usage: test_identity FOLDER_OF_MODELS");
    snprintf(from, sizeof from, "%.200s/llama2-f32.gguf", argv[1]);
    snprintf(gguf, sizeof gguf, "%s/model.gguf", dir);
    copy(from, gguf);
    check(gguf, gguf);
    for (int i = 0; i < 3; i++) {
        snprintf(from, sizeof from, "%.200s/llama2-f32/%s", argv[1], names[i]);
        snprintf(to, sizeof to, "%s/%s", dir, names[i]);
        if (lodge_file_exists(from))
            copy(from, to);
    }
    snprintf(to, sizeof to, "%s/model.safetensors", dir);
    check(dir, to);
    for (int i = 0; i < 3; i++) {
        snprintf(to, sizeof to, "%s/%s", dir, names[i]);
        unlink(to);
    }
    CHECK(rmdir(dir) == 0, dir);
    return 0;
}
