#include "tests/adapters/tensor_files.h"

#include "base/buf.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    abort();
}

static void fill(struct tensor *t)
{
    uint32_t state = 2166136261u;
    for (const char *c = t->name; *c; c++)
        state = (state ^ (uint8_t)*c) * 16777619u;
    free(t->values);
    t->values = calloc(t->n_values + 1, sizeof *t->values);
    if (!t->values)
        fail("calloc");
    for (size_t i = 0; i < t->n_values; i++) {
        state = state * 1664525u + 1013904223u;
        t->values[i] = (float)(int32_t)(state >> 8 & 0xFFFF) / 65536.0f - 0.5f;
    }
}

void tensor_resize(struct tensor *t, uint32_t n_rows, uint32_t n_cols)
{
    t->n_dims = n_cols ? 2 : 1;
    t->dims[0] = n_rows;
    t->dims[1] = n_cols;
    t->n_values = (size_t)n_rows * (n_cols ? n_cols : 1);
    fill(t);
}

struct tensor *tensors_add(struct tensors *t, const char *name, uint32_t n_rows, uint32_t n_cols)
{
    if (t->n == MAX_TENSORS)
        fail("too many tensors");
    struct tensor *out = &t->all[t->n++];
    *out = (struct tensor){.dtype = "F32"};
    snprintf(out->name, sizeof out->name, "%s", name);
    tensor_resize(out, n_rows, n_cols);
    return out;
}

struct tensor *tensors_find(struct tensors *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->all[i].name, name) == 0)
            return &t->all[i];
    return NULL;
}

void tensors_drop(struct tensors *t, const char *name)
{
    struct tensor *one = tensors_find(t, name);
    if (!one)
        fail(name);
    free(one->values);
    *one = t->all[--t->n];
}

void tensors_finish(struct tensors *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->all[i].values);
    t->n = 0;
}

char *tensors_bytes(const struct tensors *t, size_t *n)
{
    struct lodge_buf head, data;
    lodge_buf_init(&head, 1 << 24);
    lodge_buf_init(&data, 1 << 24);
    lodge_buf_append(&head, "\0\0\0\0\0\0\0\0{", 9);
    for (size_t i = 0; i < t->n; i++) {
        const struct tensor *one = &t->all[i];
        size_t each = strcmp(one->dtype, "F32") == 0 || strcmp(one->dtype, "I32") == 0 ? 4 : 2;
        size_t begin = data.n;
        lodge_buf_append(&data, one->values, one->n_values * each);
        lodge_buf_printf(&head, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", one->name,
                         one->dtype);
        for (uint32_t d = 0; d < one->n_dims; d++)
            lodge_buf_printf(&head, "%s%u", d ? "," : "", one->dims[d]);
        lodge_buf_printf(&head, "],\"data_offsets\":[%zu,%zu]}", begin, data.n);
    }
    lodge_buf_puts(&head, "}");
    uint64_t len = head.n - 8;
    memcpy(head.data, &len, 8);
    if (data.n)
        lodge_buf_append(&head, data.data, data.n);
    if (head.failed || data.failed)
        fail("buffer");
    lodge_buf_finish(&data);
    *n = head.n;
    return head.data;
}

void folder_make(struct folder *f)
{
    snprintf(f->path, sizeof f->path, "/tmp/lodge-adapter-XXXXXX");
    if (!mkdtemp(f->path))
        fail("mkdtemp");
}

void folder_write(const struct folder *f, const char *name, const void *data, size_t n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, n, file) != n || fclose(file) != 0)
        fail(path);
}

void folder_write_text(const struct folder *f, const char *name, const char *text)
{
    folder_write(f, name, text, strlen(text));
}

void folder_remove(struct folder *f)
{
    DIR *d = opendir(f->path);
    if (!d)
        fail(f->path);
    for (struct dirent *entry; (entry = readdir(d));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", f->path, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlink(path);
    }
    closedir(d);
    rmdir(f->path);
}
