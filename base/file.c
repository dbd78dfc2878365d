#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_regular(const char *path, size_t *n_bytes, struct lodge_error *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int code = errno == ENOENT || errno == ENOTDIR ? LODGE_ERR_NOT_FOUND : LODGE_ERR_IO;
        return lodge_fail(e, code, "%s: cannot open: %s", path, strerror(errno));
    }
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: not a regular file", path);
    }
    *n_bytes = (size_t)st.st_size;
    return fd;
}

int lodge_map_open(const char *path, struct lodge_map *out, struct lodge_error *e)
{
    size_t n = 0;
    int fd = open_regular(path, &n, e);
    if (fd < 0)
        return fd;
    *out = (struct lodge_map){.n_bytes = n};
    if (n) {
        void *p = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            int saved = errno;
            close(fd);
            return lodge_fail(e, LODGE_ERR_NOMEM, "%s: cannot map %zu bytes into memory: %s", path,
                              n, strerror(saved));
        }
        out->data = p;
        out->fd = fd;
    } else {
        close(fd);
    }
    return 0;
}

void lodge_map_close(struct lodge_map *m)
{
    if (m && m->data) {
        munmap((void *)(uintptr_t)m->data, m->n_bytes);
        close(m->fd);
    }
    if (m)
        *m = (struct lodge_map){0};
}

static uint64_t ns_of(struct timespec t)
{
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct lodge_file_stamp lodge_map_stamp(const struct lodge_map *m)
{
    struct stat st;
    if (!m->data || fstat(m->fd, &st))
        return (struct lodge_file_stamp){0};
    return (struct lodge_file_stamp){.inode = st.st_ino,
                                     .n_bytes = (uint64_t)st.st_size,
                                     .changed_ns = ns_of(st.st_mtim),
                                     .inode_changed_ns = ns_of(st.st_ctim)};
}

static ssize_t read_all(int fd, char *out, size_t n)
{
    size_t got = 0;
    while (got < n) {
        ssize_t r = read(fd, out + got, n - got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return r < 0 ? -1 : (ssize_t)got;
        got += (size_t)r;
    }
    return (ssize_t)got;
}

int lodge_file_read(const char *path, size_t cap_bytes, char **out, size_t *n_bytes,
                    struct lodge_error *e)
{
    size_t n = 0;
    int fd = open_regular(path, &n, e);
    if (fd < 0)
        return fd;
    if (n > cap_bytes) {
        close(fd);
        return lodge_fail(e, LODGE_ERR_LIMIT, "%s: %zu bytes, more than the %zu allowed here", path,
                          n, cap_bytes);
    }
    char *text = malloc(n + 1);
    ssize_t got = text ? read_all(fd, text, n) : -1;
    close(fd);
    if (got < 0) {
        free(text);
        return lodge_fail(e, text ? LODGE_ERR_IO : LODGE_ERR_NOMEM, "%s: cannot read", path);
    }
    text[got] = 0;
    *out = text;
    *n_bytes = (size_t)got;
    return 0;
}

bool lodge_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool lodge_dir_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *lodge_path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir) + strlen(name) + 2;
    char *p = malloc(n);
    if (p)
        snprintf(p, n, "%s/%s", dir, name);
    return p;
}
