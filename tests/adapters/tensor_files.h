/* Files for tests of adapters: a private folder, and safetensors from a list of tensors. */
#ifndef LODGE_TESTS_ADAPTERS_TENSOR_FILES_H
#define LODGE_TESTS_ADAPTERS_TENSOR_FILES_H

#include <stddef.h>
#include <stdint.h>

#define MAX_TENSORS 64

struct tensor {
    char name[160];
    char dtype[8]; /* "F32", ... */
    uint32_t n_dims;
    uint32_t dims[3];
    float *values; /* malloc'ed; stored as fp32 whatever dtype says, if it has 4 bytes, else cut */
    size_t n_values;
};

struct tensors {
    struct tensor all[MAX_TENSORS];
    size_t n;
};

/* Values are drawn by the name: the same name has the same values. */
struct tensor *tensors_add(struct tensors *t, const char *name, uint32_t n_rows, uint32_t n_cols);
struct tensor *tensors_find(struct tensors *t, const char *name);
void tensors_drop(struct tensors *t, const char *name);
/* New dimensions (n_cols 0: a vector), new values. */
void tensor_resize(struct tensor *t, uint32_t n_rows, uint32_t n_cols);
void tensors_finish(struct tensors *t);
/* The bytes of a safetensors file; malloc'ed. */
char *tensors_bytes(const struct tensors *t, size_t *n);

struct folder {
    char path[64];
};

void folder_make(struct folder *f);
void folder_remove(struct folder *f); /* with its files, not folders in it */
void folder_write(const struct folder *f, const char *name, const void *data, size_t n);
void folder_write_text(const struct folder *f, const char *name, const char *text);

#endif
