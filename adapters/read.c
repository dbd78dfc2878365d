/* The entry: files, the order of checks, the adapter as a whole. */
#include "adapters/internal.h"
#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_CONFIG_BYTES ((uint64_t)4 << 20)
#define MAX_TEMPLATE_BYTES ((uint64_t)4 << 20)
#define MAX_TOKENIZER_CONFIG_BYTES ((uint64_t)64 << 20)
#define MAX_TEXT 1024u
#define DEFAULT_FILE_BYTES ((uint64_t)16 << 30)

/* ---- helpers of all parts ---- */

void lodge_adapter_warn(struct lodge_adapter *a, const char *fmt, ...)
{
    size_t n = strlen(a->warning);
    if (n && n + 2 < sizeof a->warning) {
        memcpy(a->warning + n, "; ", 3);
        n += 2;
    }
    va_list args;
    va_start(args, fmt);
    vsnprintf(a->warning + n, sizeof a->warning - n, fmt, args);
    va_end(args);
}

int lodge_adapter_no_memory(const struct lodge_adapter_reading *r)
{
    return lodge_fail(r->e, LODGE_ERR_NOMEM, "%s: no memory for the adapter", r->tensors_where);
}

/* Modules of the base for an error text: all of the first layer, and those outside the layers. */
static void list_modules(const struct lodge_adapter_base *base, bool gguf, char *out, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < base->n_modules; i++) {
        const struct lodge_adapter_module *m = &base->modules[i];
        const char *name = gguf ? m->gguf : m->hf;
        if (!name || m->layer > 0 || at + strlen(name) + 3 > n)
            continue;
        at += (size_t)snprintf(out + at, n - at, "%s%s", at ? ", " : "", name);
    }
}

int lodge_adapter_refuse_module(const struct lodge_adapter_reading *r, bool gguf,
                                const char *tensor, const char *module)
{
    char known[400];
    list_modules(r->base, gguf, known, sizeof known);
    bool head = strcmp(module, gguf ? "output" : "lm_head") == 0;
    return lodge_fail(
        r->e, LODGE_ERR_FORMAT,
        "%s: tensor '%.150s' is for module '%.120s', which base '%s' (%u layers) does not "
        "have%s; it has %s",
        r->tensors_where, tensor, module, r->base->name, r->base->n_layers,
        head ? " (its head is tied to the table of embeddings)" : "", known);
}

const struct lodge_adapter_module *lodge_adapter_find_module(const struct lodge_adapter_base *base,
                                                             bool gguf, const char *name, size_t n)
{
    for (uint32_t i = 0; i < base->n_modules; i++) {
        const char *of = gguf ? base->modules[i].gguf : base->modules[i].hf;
        if (of && strlen(of) == n && memcmp(of, name, n) == 0)
            return &base->modules[i];
    }
    return NULL;
}

/* Names and texts of files get into error texts, logs and replies: what is no printable UTF-8
 * becomes '?'. */
static void clean(char *text)
{
    size_t n = text ? strlen(text) : 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int len = lodge_utf8_decode((const uint8_t *)text + i, n - i, &cp);
        if (len <= 0 || cp < 0x20 || cp == 0x7F)
            text[i] = '?';
        i += len > 0 ? (size_t)len : 1;
    }
}

char *lodge_adapter_keep_text(struct lodge_adapter *a, const char *text, size_t n)
{
    char *out = lodge_arena_strndup(&a->_arena, text, n < MAX_TEXT ? n : MAX_TEXT);
    clean(out);
    return out;
}

/* ---- files ---- */

/* What is read of an adapter. Contents are copied, not mapped: a file that is cut while a mapping
 * of it is read kills the process. */
struct place {
    int fd;
    bool directory;
    bool confined;    /* links of the directory may not lead out of it */
    const char *path; /* as texts call it */
    const struct lodge_adapter_limits *limits;
    struct lodge_error *e;
};

struct content {
    char *data; /* malloc'ed or of the spares, a zero follows; NULL: not there */
    size_t n;
    char *where;                 /* malloc'ed */
    struct lodge_spares *spares; /* to be taken from; NULL: none */
    size_t size;
};

static void bytes_finish(const struct lodge_adapter_bytes *b)
{
    if (b->spares)
        lodge_spares_give(b->spares, b->at, b->size);
    else
        free(b->at);
}

/* Its bytes, which the caller takes over. */
static struct lodge_adapter_bytes take_bytes(struct content *c)
{
    struct lodge_adapter_bytes b = {(uint8_t *)c->data, c->size, c->spares};
    c->data = NULL;
    return b;
}

static void content_finish(struct content *c)
{
    const struct lodge_adapter_bytes b = take_bytes(c);
    bytes_finish(&b);
    free(c->where);
    *c = (struct content){0};
}

static int place_open(struct place *p, const char *path, const char *name,
                      const struct lodge_adapter_limits *limits, struct lodge_error *e)
{
    static const char by_descriptor[] = "/proc/self/fd/";
    bool confined = strncmp(path, by_descriptor, sizeof by_descriptor - 1) == 0;
    *p = (struct place){
        .path = confined ? name : path, .confined = confined, .limits = limits, .e = e};
    p->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (p->fd >= 0 && fstat(p->fd, &st) == 0 && (S_ISDIR(st.st_mode) || S_ISREG(st.st_mode))) {
        p->directory = S_ISDIR(st.st_mode);
        return 0;
    }
    int code = errno == ENOENT || errno == ENOTDIR ? LODGE_ERR_NOT_FOUND : LODGE_ERR_IO;
    if (p->fd < 0)
        return lodge_fail(e, code, "%s: cannot open: %s", path, strerror(errno));
    close(p->fd);
    return lodge_fail(e, LODGE_ERR_FORMAT,
                      "%s: expected a PEFT directory or a GGUF file, found neither", path);
}

static int read_descriptor(const struct place *p, int fd, uint64_t cap, struct content *out)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return lodge_fail(p->e, LODGE_ERR_FORMAT, "%s: not a regular file", out->where);
    uint64_t size = (uint64_t)st.st_size;
    if (size > cap)
        return lodge_fail(p->e, LODGE_ERR_LIMIT, "%s: %llu bytes, more than the %llu allowed here",
                          out->where, (unsigned long long)size, (unsigned long long)cap);
    out->size = (size_t)size + 1;
    out->data = out->spares ? (char *)lodge_spares_take(out->spares, out->size) : malloc(out->size);
    if (!out->data)
        return lodge_fail(p->e, LODGE_ERR_NOMEM, "%s: no memory for %llu bytes", out->where,
                          (unsigned long long)size);
    while (out->n < size) {
        ssize_t got = pread(fd, out->data + out->n, size - out->n, (off_t)out->n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lodge_fail(p->e, LODGE_ERR_IO, "%s: cannot read: %s", out->where,
                              strerror(errno));
        if (got == 0)
            break;
        out->n += (size_t)got;
    }
    out->data[out->n] = 0;
    return 0;
}

/* Reads `file` of the directory; NOT_FOUND without a text when it is not there. On error nothing
 * is left in *out but `where`, for the caller's text. */
static int read_inside(const struct place *p, const char *file, uint64_t cap, struct content *out)
{
    out->where = lodge_path_join(p->path, file);
    if (!out->where)
        return lodge_fail(p->e, LODGE_ERR_NOMEM, "%s: no memory", p->path);
    int fd = p->confined ? lodge_adapter_open_beneath(p->fd, file)
                         : openat(p->fd, file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int reason = p->confined ? -fd : errno;
    if (fd < 0 && (reason == ENOENT || reason == ENOTDIR))
        return LODGE_ERR_NOT_FOUND;
    if (fd < 0 && (reason == EXDEV || reason == ELOOP))
        return lodge_fail(p->e, LODGE_ERR_FORMAT,
                          "%s: a link that leads out of the adapter's directory; put the file "
                          "there itself",
                          out->where);
    if (fd < 0)
        return lodge_fail(p->e, LODGE_ERR_IO, "%s: cannot open: %s", out->where, strerror(reason));
    int err = read_descriptor(p, fd, cap, out);
    close(fd);
    return err;
}

static bool is_inside(const struct place *p, const char *file)
{
    struct stat st;
    return fstatat(p->fd, file, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- chat template ---- */

/* The template of a tokenizer_config.json: a string, or a list of named ones. */
static const char *template_of(const json_t *root)
{
    const json_t *t = lodge_json_member(root, "chat_template");
    if (json_is_string(t))
        return json_string_value(t);
    for (size_t i = 0; i < json_array_size(t); i++) {
        const json_t *one = json_array_get(t, i);
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(one, "template"));
    }
    return NULL;
}

static int template_from_config(const struct place *p, char **out)
{
    struct content c = {0};
    json_t *root = NULL;
    int err = read_inside(p, "tokenizer_config.json", MAX_TOKENIZER_CONFIG_BYTES, &c);
    if (!err)
        err = lodge_json_load(c.data, c.n, &lodge_json_file_limits, c.where, &root, p->e);
    const char *text = err ? NULL : template_of(root);
    if (text) {
        *out = strdup(text);
        if (!*out)
            err = lodge_fail(p->e, LODGE_ERR_NOMEM, "%s: no memory", c.where);
    }
    json_decref(root);
    content_finish(&c);
    return err == LODGE_ERR_NOT_FOUND ? 0 : err;
}

/* *out is malloc'ed, or NULL when the directory has none. */
static int read_template(const struct place *p, char **out)
{
    struct content c = {0};
    int err = read_inside(p, "chat_template.jinja", MAX_TEMPLATE_BYTES, &c);
    if (!err && (memchr(c.data, 0, c.n) || !lodge_utf8_valid((const uint8_t *)c.data, c.n)))
        err = lodge_fail(p->e, LODGE_ERR_FORMAT, "%s: not UTF-8 text", c.where);
    if (!err) {
        *out = c.data;
        c.data = NULL;
    }
    content_finish(&c);
    return err == LODGE_ERR_NOT_FOUND ? template_from_config(p, out) : err;
}

/* ---- one reading ---- */

static int run_checks(struct lodge_adapter_reading *r, const struct lodge_adapter_file *config,
                      const struct lodge_adapter_file *tensors, const char *chat_template)
{
    struct lodge_adapter *a = r->adapter;
    int err =
        config ? lodge_adapter_from_peft(r, config, tensors) : lodge_adapter_from_gguf(r, tensors);
    if (!err)
        err = lodge_adapter_check_entries(r);
    struct lodge_adapter_record *records = NULL;
    if (!err)
        err = lodge_adapter_make_targets(r, &records);
    if (!err && chat_template) {
        a->chat_template = lodge_arena_strndup(&a->_arena, chat_template, strlen(chat_template));
        if (!a->chat_template)
            err = lodge_fail(r->e, LODGE_ERR_NOMEM, "no memory for a chat template");
    }
    return err ? err : lodge_adapter_make_digest(r, records);
}

int lodge_adapter_read_bytes(const struct lodge_adapter_file *config,
                             const struct lodge_adapter_file *tensors, const char *chat_template,
                             const struct lodge_adapter_base *base,
                             const struct lodge_adapter_limits *limits, struct lodge_adapter **out,
                             struct lodge_error *e)
{
    struct lodge_adapter *a = calloc(1, sizeof *a);
    if (!a)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for an adapter");
    lodge_arena_init(&a->_arena, 0);
    struct lodge_adapter_reading r = {
        .base = base, .adapter = a, .tensors_where = tensors->where, .e = e};
    if (limits)
        r.limits = *limits;
    if (!r.limits.max_rank || r.limits.max_rank > LODGE_MAX_RANK)
        r.limits.max_rank = LODGE_MAX_RANK;
    lodge_arena_init(&r.scratch, 0);
    int err = run_checks(&r, config, tensors, chat_template);
    lodge_arena_finish(&r.scratch);
    clean(a->warning);
    if (err && e)
        clean(e->text);
    if (err)
        lodge_adapter_destroy(a);
    else
        *out = a;
    return err;
}

/* What to say when a directory has a file missing. */
static int refuse_missing(const struct place *p, const char *file)
{
    if (is_inside(p, "adapter_model.bin"))
        return lodge_fail(p->e, LODGE_ERR_UNSUPPORTED,
                          "%s: has adapter_model.bin, a pickle that may hold code; save it as "
                          "adapter_model.safetensors (save_pretrained does so by default)",
                          p->path);
    return lodge_fail(p->e, LODGE_ERR_NOT_FOUND,
                      "%s: %s is not there; expected a directory that save_pretrained of PEFT "
                      "wrote, or a GGUF adapter file",
                      p->path, file);
}

static int read_directory(const struct place *p, const struct lodge_adapter_base *base,
                          uint64_t cap, struct lodge_adapter **out)
{
    static const char config_name[] = "adapter_config.json";
    static const char tensors_name[] = "adapter_model.safetensors";
    struct content config = {0}, tensors = {.spares = p->limits->spares};
    char *chat_template = NULL;
    int err = read_inside(p, config_name, MAX_CONFIG_BYTES, &config);
    if (err == LODGE_ERR_NOT_FOUND)
        err = refuse_missing(p, config_name);
    if (!err) {
        err = read_inside(p, tensors_name, cap, &tensors);
        if (err == LODGE_ERR_NOT_FOUND)
            err = refuse_missing(p, tensors_name);
    }
    if (!err)
        err = read_template(p, &chat_template);
    if (!err) {
        struct lodge_adapter_file c = {{config.data, config.n}, config.where};
        struct lodge_adapter_file t = {{tensors.data, tensors.n}, tensors.where};
        err = lodge_adapter_read_bytes(&c, &t, chat_template, base, p->limits, out, p->e);
        if (!err)
            (*out)->_bytes = take_bytes(&tensors);
    }
    free(chat_template);
    content_finish(&config);
    content_finish(&tensors);
    return err;
}

static int read_file(const struct place *p, const struct lodge_adapter_base *base, uint64_t cap,
                     struct lodge_adapter **out)
{
    struct content c = {.where = strdup(p->path), .spares = p->limits->spares};
    char magic[4] = "";
    int err = c.where ? 0 : lodge_fail(p->e, LODGE_ERR_NOMEM, "%s: no memory", p->path);
    if (!err && (pread(p->fd, magic, 4, 0) != 4 || memcmp(magic, "GGUF", 4) != 0))
        err = lodge_fail(p->e, LODGE_ERR_FORMAT,
                         "%s: not a GGUF file; give a GGUF adapter, or the directory that holds "
                         "adapter_config.json",
                         p->path);
    if (!err)
        err = read_descriptor(p, p->fd, cap, &c);
    if (!err) {
        struct lodge_adapter_file f = {{c.data, c.n}, c.where};
        err = lodge_adapter_read_bytes(NULL, &f, NULL, base, p->limits, out, p->e);
        if (!err)
            (*out)->_bytes = take_bytes(&c);
    }
    content_finish(&c);
    return err;
}

int lodge_adapter_read(const char *path, const char *name, const struct lodge_adapter_base *base,
                       const struct lodge_adapter_limits *limits, struct lodge_adapter **out,
                       struct lodge_error *e)
{
    struct place p;
    static const struct lodge_adapter_limits none;
    limits = limits ? limits : &none;
    uint64_t cap = limits->max_file_bytes ? limits->max_file_bytes : DEFAULT_FILE_BYTES;
    int err = place_open(&p, path, name, limits, e);
    if (!err) {
        err = p.directory ? read_directory(&p, base, cap, out) : read_file(&p, base, cap, out);
        close(p.fd);
    }
    if (err)
        lodge_error_prefix(e, "adapter \"%s\" rejected", name);
    if (err && e)
        clean(e->text); /* paths may be anything, too */
    return err;
}

void lodge_adapter_destroy(struct lodge_adapter *a)
{
    if (!a)
        return;
    lodge_arena_finish(&a->_arena);
    bytes_finish(&a->_bytes);
    free(a);
}
