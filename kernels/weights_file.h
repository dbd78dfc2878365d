/* The weights cache: a file of packed weights, so that the next start reads what this one made.
 *
 * The engine names a directory and the model's identity; what the bytes mean is the backend's
 * business, which names their layout in a key. A file is used only where all of the key is equal.
 *
 *   offset  bytes  field (numbers in the writing machine's byte order)
 *   0       8      magic "LODGE-PW"
 *   8       4      0x01020304: another order is another file
 *   12      4      version of this format
 *   16      8      name of the checksum, "XXH64"
 *   24      32     layout: backend and rung, zero-padded
 *   56      4      version of the layout
 *   60      4      bytes of a block: 4 MiB
 *   64      8      n_bytes of packed weights
 *   72      8      checksum of the plan's shapes (lodge_weights_plan_sum)
 *   80      32     identity of the model's bytes
 *   112     8      checksum of the table
 *   120     8      checksum of the 120 bytes before
 *   128            table: a checksum for each block
 *   F              n_bytes, the end of the file; F is the end of the table rounded up to 4096
 *
 * Every size follows from the key: nothing that the file says is used to allocate or to seek.
 *
 * Checksums are XXH64 (base/checksum.h): 64 bits, faster than files are read. They are there to
 * find damage: a file cut short, a bad sector, a block that was never written. Whoever may write to
 * the directory can make a file that passes, as he could change a model; it is the operator's.
 *
 * Writing: to NAME.tmp under a lock (flock), header last, fsync, then rename. So a reader sees a
 * whole file or none, whenever the writer dies; of several processes one writes, and what a dead
 * one left is written over.
 */
#ifndef LODGE_KERNELS_WEIGHTS_FILE_H
#define LODGE_KERNELS_WEIGHTS_FILE_H

#include "base/hash.h"
#include "kernels/plan.h"

#include <stdatomic.h>
#include <stdbool.h>

#define LODGE_WEIGHTS_BLOCK ((size_t)4 << 20)
#define LODGE_WEIGHTS_NAME_MAX 160

/* Where a device may keep packed weights. Copied by model_load; what it points to, and the
 * directory, stay until the device is closed. */
struct lodge_weights_cache {
    int dir;                           /* open directory */
    char name[LODGE_WEIGHTS_NAME_MAX]; /* of the file; one model's alone */
    struct lodge_digest model;         /* identity of the bytes behind the plan's tensors */
    /* Whether they are still those that `model` names; asked before a file gets its name. */
    bool (*unchanged)(void *cookie);
    /* What became of the file. */
    void (*say)(void *cookie, bool warning, const char *text);
    /* Once: all weights are there, from the file or from the model. All three are called from any
     * thread, before or after model_load returns, and not after the device is closed. */
    void (*ready)(void *cookie);
    void *cookie;
};

/* All that packed bytes depend on, beside the model. */
struct lodge_weights_key {
    char layout[32]; /* "cpu avx512" */
    uint32_t layout_version;
    uint64_t plan_sum;
    size_t n_bytes; /* > 0 */
};

struct lodge_weights_file {
    int fd;
    size_t first; /* offset of the weights */
    size_t n_bytes, n_blocks;
    uint64_t *sums;
};

/* Checksum of formats, shapes, row orders and twins of all linears, in order. */
uint64_t lodge_weights_plan_sum(const struct lodge_plan *p);
/* Bytes before the weights, whole pages; the file has n_bytes more. */
size_t lodge_weights_header_bytes(size_t n_bytes);
/* Whether `bytes` (n of them, from the beginning of a file of file_bytes) are the header of a whole
 * file of this key. NOT_FOUND: a sound header of something else. FORMAT: damaged, cut short, or
 * none of ours; the text says which. */
int lodge_weights_header_check(const struct lodge_digest *model, const struct lodge_weights_key *k,
                               const uint8_t *bytes, size_t n, uint64_t file_bytes,
                               struct lodge_error *e);

/* Opens and checks the cache's file. Errors as above, NOT_FOUND also when there is none; IO,
 * NOMEM. A file that is of no use (FORMAT, or another key) is deleted. */
int lodge_weights_file_open(const struct lodge_weights_cache *c, const struct lodge_weights_key *k,
                            struct lodge_weights_file *out, struct lodge_error *e);
void lodge_weights_file_close(struct lodge_weights_file *f);
/* Deletes the file, if it is still the one that is open. */
void lodge_weights_file_remove(const struct lodge_weights_cache *c,
                               const struct lodge_weights_file *f);
/* Reads block i into its place in `weights` and checks it; FORMAT (damaged, cut short) or IO with
 * the block's place; AGAIN soon after *stop is set. Any thread. */
int lodge_weights_file_read(const struct lodge_weights_file *f, size_t i, uint8_t *weights,
                            const atomic_bool *stop, struct lodge_error *e);
/* Writes a new file in the place of any old one; ends early when *stop is set. AGAIN: stopped, or
 * another process is writing it. INVALID: the model has changed meanwhile. IO: no room, no
 * permission. After an error nothing of it is left. */
int lodge_weights_file_write(const struct lodge_weights_cache *c, const struct lodge_weights_key *k,
                             const uint8_t *weights, const atomic_bool *stop,
                             struct lodge_error *e);

#endif
