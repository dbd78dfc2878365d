#include "kernels/weights_file.h"

#include "base/checksum.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMAT_VERSION 1u
#define BYTE_ORDER_MARK 0x01020304u

struct header {
    char magic[8];
    uint32_t byte_order, version;
    char checksum[8], layout[32];
    uint32_t layout_version, block_bytes;
    uint64_t n_bytes, plan_sum;
    uint8_t model[32];
    uint64_t table_sum, header_sum;
};
_Static_assert(sizeof(struct header) == 128, "no padding: it is written as it is");
#define SUMMED_BYTES offsetof(struct header, header_sum)
/* Up to here it says how to read the file; what follows says whose weights these are. */
#define COMMON_BYTES offsetof(struct header, layout)

static size_t block_count(size_t n_bytes)
{
    return n_bytes / LODGE_WEIGHTS_BLOCK + (n_bytes % LODGE_WEIGHTS_BLOCK != 0);
}

static size_t block_size(size_t n_bytes, size_t i)
{
    size_t left = n_bytes - i * LODGE_WEIGHTS_BLOCK;
    return left < LODGE_WEIGHTS_BLOCK ? left : LODGE_WEIGHTS_BLOCK;
}

size_t lodge_weights_header_bytes(size_t n_bytes)
{
    size_t n = sizeof(struct header) + block_count(n_bytes) * sizeof(uint64_t);
    return (n + 4095) / 4096 * 4096;
}

uint64_t lodge_weights_plan_sum(const struct lodge_plan *p)
{
    uint64_t sum = p->n_linears;
    for (uint32_t i = 0; i < p->n_linears; i++) {
        const struct lodge_linear *l = &p->linears[i];
        const uint32_t all[] = {l->format,
                                l->n_rows,
                                l->n_cols,
                                l->order,
                                l->head_dim,
                                l->site,
                                (uint32_t)l->layer,
                                p->tensors[i].scale_rows,
                                p->tensors[i].scale_cols,
                                (uint32_t)lodge_plan_twin(p, i)};
        sum = lodge_xxh64(all, sizeof all, sum);
    }
    return sum;
}

static void fill_header(struct header *h, const struct lodge_digest *model,
                        const struct lodge_weights_key *k, uint64_t table_sum)
{
    *h = (struct header){.magic = {'L', 'O', 'D', 'G', 'E', '-', 'P', 'W'},
                         .byte_order = BYTE_ORDER_MARK,
                         .version = FORMAT_VERSION,
                         .checksum = "XXH64",
                         .layout_version = k->layout_version,
                         .block_bytes = LODGE_WEIGHTS_BLOCK,
                         .n_bytes = k->n_bytes,
                         .plan_sum = k->plan_sum,
                         .table_sum = table_sum};
    memcpy(h->layout, k->layout, sizeof h->layout);
    memcpy(h->model, model->bytes, sizeof h->model);
    h->header_sum = lodge_xxh64(h, SUMMED_BYTES, 0);
}

int lodge_weights_header_check(const struct lodge_digest *model, const struct lodge_weights_key *k,
                               const uint8_t *bytes, size_t n, uint64_t file_bytes,
                               struct lodge_error *e)
{
    struct header h, want;
    if (n < sizeof h)
        return lodge_fail(e, LODGE_ERR_FORMAT, "the header is cut short");
    memcpy(&h, bytes, sizeof h);
    fill_header(&want, model, k, h.table_sum);
    if (memcmp(h.magic, want.magic, sizeof h.magic) != 0)
        return lodge_fail(e, LODGE_ERR_FORMAT, "not a file of packed weights");
    if (h.header_sum != lodge_xxh64(bytes, SUMMED_BYTES, 0))
        return lodge_fail(e, LODGE_ERR_FORMAT, "the header is damaged");
    if (memcmp(&h, &want, COMMON_BYTES) != 0)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "of another version or byte order");
    if (memcmp(&h, &want, SUMMED_BYTES) != 0)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "of another model, instruction set or layout");
    size_t first = lodge_weights_header_bytes(k->n_bytes);
    if (n < first || file_bytes != (uint64_t)first + k->n_bytes)
        return lodge_fail(e, LODGE_ERR_FORMAT, "%llu bytes long instead of %llu",
                          (unsigned long long)file_bytes,
                          (unsigned long long)first + (unsigned long long)k->n_bytes);
    if (lodge_xxh64(bytes + sizeof h, block_count(k->n_bytes) * sizeof(uint64_t), 0) != h.table_sum)
        return lodge_fail(e, LODGE_ERR_FORMAT, "its table of checksums is damaged");
    return 0;
}

/* ---- reading ---- */

/* So much is read before the next look at `stop`: whoever stops does not wait for a whole block of
 * a slow disk. */
#define PIECE_BYTES ((size_t)1 << 20)

/* False with errno, 0 for the end of the file. */
static bool read_at(int fd, void *to, size_t n, size_t at)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = pread(fd, (uint8_t *)to + got, n - got, (off_t)(at + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0) {
            errno = r ? errno : 0;
            return false;
        }
        got += (size_t)r;
    }
    return true;
}

static int read_header(const struct lodge_weights_cache *c, const struct lodge_weights_key *k,
                       struct lodge_weights_file *f, struct lodge_error *e)
{
    struct stat st;
    if (fstat(f->fd, &st) || !S_ISREG(st.st_mode))
        return lodge_fail(e, LODGE_ERR_IO, "not a regular file");
    size_t n = (uint64_t)st.st_size < f->first ? (size_t)st.st_size : f->first;
    uint8_t *bytes = malloc(f->first);
    f->sums = malloc(f->n_blocks * sizeof *f->sums);
    int err = 0;
    if (!bytes || !f->sums)
        err = lodge_fail(e, LODGE_ERR_NOMEM, "no memory for its header");
    else if (!read_at(f->fd, bytes, n, 0))
        err = lodge_fail(e, LODGE_ERR_IO, "cannot read: %s", strerror(errno));
    else
        err = lodge_weights_header_check(&c->model, k, bytes, n, (uint64_t)st.st_size, e);
    if (!err)
        memcpy(f->sums, bytes + sizeof(struct header), f->n_blocks * sizeof *f->sums);
    free(bytes);
    return err;
}

int lodge_weights_file_open(const struct lodge_weights_cache *c, const struct lodge_weights_key *k,
                            struct lodge_weights_file *out, struct lodge_error *e)
{
    *out = (struct lodge_weights_file){
        .fd = openat(c->dir, c->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK),
        .first = lodge_weights_header_bytes(k->n_bytes),
        .n_bytes = k->n_bytes,
        .n_blocks = block_count(k->n_bytes)};
    if (out->fd < 0 && errno == ENOENT)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "%s: not there yet", c->name);
    if (out->fd < 0)
        return lodge_fail(e, LODGE_ERR_IO, "%s: cannot open: %s", c->name, strerror(errno));
    int err = read_header(c, k, out, e);
    if (!err)
        return 0;
    lodge_error_prefix(e, "%s", c->name);
    if (err == LODGE_ERR_FORMAT || err == LODGE_ERR_NOT_FOUND)
        lodge_weights_file_remove(c, out);
    lodge_weights_file_close(out);
    return err;
}

void lodge_weights_file_close(struct lodge_weights_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    free(f->sums);
    *f = (struct lodge_weights_file){.fd = -1};
}

static bool same_file(int dir, const char *name, int fd)
{
    struct stat a, b;
    return fstatat(dir, name, &a, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &b) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

void lodge_weights_file_remove(const struct lodge_weights_cache *c,
                               const struct lodge_weights_file *f)
{
    if (same_file(c->dir, c->name, f->fd))
        unlinkat(c->dir, c->name, 0);
}

int lodge_weights_file_read(const struct lodge_weights_file *f, size_t i, uint8_t *weights,
                            const atomic_bool *stop, struct lodge_error *e)
{
    size_t at = i * LODGE_WEIGHTS_BLOCK, n = block_size(f->n_bytes, i);
    for (size_t got = 0, piece; got < n; got += piece) {
        piece = n - got < PIECE_BYTES ? n - got : PIECE_BYTES;
        if (atomic_load(stop))
            return lodge_fail(e, LODGE_ERR_AGAIN, "stopped");
        if (!read_at(f->fd, weights + at + got, piece, f->first + at + got))
            return lodge_fail(e, errno ? LODGE_ERR_IO : LODGE_ERR_FORMAT,
                              "cannot read at byte %zu: %s", f->first + at,
                              errno ? strerror(errno) : "the file was cut short");
    }
    if (lodge_xxh64(weights + at, n, 0) != f->sums[i])
        return lodge_fail(e, LODGE_ERR_FORMAT, "damaged between bytes %zu and %zu", f->first + at,
                          f->first + at + n);
    return 0;
}

/* ---- writing ---- */

struct writer {
    const struct lodge_weights_cache *c;
    const struct lodge_weights_key *k;
    char temporary[LODGE_WEIGHTS_NAME_MAX + 8];
    int fd;
    struct lodge_error *e;
};

static int failed(const struct writer *w, const char *what)
{
    return lodge_fail(w->e, LODGE_ERR_IO, "%s: cannot %s: %s", w->temporary, what, strerror(errno));
}

static int write_at(const struct writer *w, const void *from, size_t n, size_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t r = pwrite(w->fd, (const uint8_t *)from + done, n - done, (off_t)(at + done));
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return failed(w, "write");
        done += (size_t)r;
    }
    return 0;
}

/* The lock is gone with its process. Whoever waited for a file that has got its name meanwhile
 * holds one that is not the temporary any more. */
static int begin(struct writer *w)
{
    w->fd = openat(w->c->dir, w->temporary, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (w->fd < 0)
        return failed(w, "create");
    if (flock(w->fd, LOCK_EX | LOCK_NB) || !same_file(w->c->dir, w->temporary, w->fd)) {
        close(w->fd);
        return lodge_fail(w->e, LODGE_ERR_AGAIN, "%s: another process writes it", w->temporary);
    }
    return 0;
}

/* A full disk is found before anything is written, where the file system can say so. */
static int make_room(const struct writer *w)
{
    size_t n = lodge_weights_header_bytes(w->k->n_bytes) + w->k->n_bytes;
    if (ftruncate(w->fd, 0))
        return failed(w, "write");
    if (fallocate(w->fd, 0, 0, (off_t)n) && errno != EOPNOTSUPP && errno != ENOSYS)
        return failed(w, "make room");
    return 0;
}

/* Each block goes to the disk while the next is written, so that no other's fsync meets gigabytes
 * that wait. */
static int write_blocks(const struct writer *w, const uint8_t *weights, const atomic_bool *stop,
                        uint64_t *sums)
{
    size_t n_bytes = w->k->n_bytes, first = lodge_weights_header_bytes(n_bytes);
    for (size_t i = 0; i < block_count(n_bytes); i++) {
        size_t at = i * LODGE_WEIGHTS_BLOCK, n = block_size(n_bytes, i);
        if (atomic_load(stop))
            return lodge_fail(w->e, LODGE_ERR_AGAIN, "stopped");
        sums[i] = lodge_xxh64(weights + at, n, 0);
        int err = write_at(w, weights + at, n, first + at);
        if (err)
            return err;
        sync_file_range(w->fd, (off_t)(first + at), (off_t)n, SYNC_FILE_RANGE_WRITE);
        if (i)
            sync_file_range(w->fd, (off_t)(first + at - LODGE_WEIGHTS_BLOCK), LODGE_WEIGHTS_BLOCK,
                            SYNC_FILE_RANGE_WAIT_BEFORE);
    }
    return 0;
}

static int write_header(const struct writer *w, const uint64_t *sums)
{
    size_t n = block_count(w->k->n_bytes) * sizeof *sums;
    struct header h;
    fill_header(&h, &w->c->model, w->k, lodge_xxh64(sums, n, 0));
    int err = write_at(w, sums, n, sizeof h);
    return err ? err : write_at(w, &h, sizeof h, 0);
}

static int give_name(const struct writer *w)
{
    if (fsync(w->fd))
        return failed(w, "write");
    if (!w->c->unchanged(w->c->cookie))
        return lodge_fail(w->e, LODGE_ERR_INVALID, "the model's files have changed");
    if (renameat(w->c->dir, w->temporary, w->c->dir, w->c->name))
        return failed(w, "rename");
    fsync(w->c->dir);
    return 0;
}

int lodge_weights_file_write(const struct lodge_weights_cache *c, const struct lodge_weights_key *k,
                             const uint8_t *weights, const atomic_bool *stop, struct lodge_error *e)
{
    struct writer w = {.c = c, .k = k, .e = e};
    snprintf(w.temporary, sizeof w.temporary, "%s.tmp", c->name);
    uint64_t *sums = calloc(block_count(k->n_bytes), sizeof *sums);
    if (!sums)
        return lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory", w.temporary);
    int err = begin(&w);
    if (err) {
        free(sums);
        return err;
    }
    err = make_room(&w);
    if (!err)
        err = write_blocks(&w, weights, stop, sums);
    if (!err)
        err = write_header(&w, sums);
    if (!err)
        err = give_name(&w);
    if (err)
        unlinkat(c->dir, w.temporary, 0);
    close(w.fd);
    free(sums);
    return err;
}
