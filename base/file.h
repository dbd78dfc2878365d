/* Files: read-only mappings and whole-file reads. Thread safety: a mapping is immutable. */
#ifndef LODGE_BASE_FILE_H
#define LODGE_BASE_FILE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct lodge_map {
    const uint8_t *data; /* NULL for an empty file */
    size_t n_bytes;
    int fd; /* of the file, while there is data */
};

/* Maps a regular file read-only. Errors name the path and the reason: NOT_FOUND, FORMAT (not a
 * regular file), IO, NOMEM. Caller ends it by lodge_map_close. */
int lodge_map_open(const char *path, struct lodge_map *out, struct lodge_error *e);
void lodge_map_close(struct lodge_map *m);

/* What tells a file's content from what it was before, and from another file's, without reading
 * it. Times are of content and of the inode: the second cannot be set back, so it also tells a
 * copy over the file that kept the time of the first. */
struct lodge_file_stamp {
    uint64_t inode, n_bytes, changed_ns, inode_changed_ns;
};
/* Of a mapped file as it is now, whatever its path names meanwhile; zeros for an empty mapping. */
struct lodge_file_stamp lodge_map_stamp(const struct lodge_map *m);

/* Reads a whole file of at most `cap_bytes` into malloc'ed memory with a zero after the last
 * byte; the caller frees *out. Errors as above, and LIMIT when the file is larger. */
int lodge_file_read(const char *path, size_t cap_bytes, char **out, size_t *n_bytes,
                    struct lodge_error *e);
bool lodge_file_exists(const char *path);
bool lodge_dir_exists(const char *path);
/* "dir/name" in malloc'ed memory, NULL without memory. */
char *lodge_path_join(const char *dir, const char *name);

#endif
