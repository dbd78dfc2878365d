/* The weights cache: whatever became of the file, a step gives the same bits as without one.
 * Weights that must come from the file are read from a plan whose tensors are zero. The plan is 44
 * MiB, so that blocks of 4 MiB begin and end inside of linears. */
#include "base/checksum.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/panel.h"
#include "kernels/ref/math.h"
#include "tests/kernels/slow_file.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define D 512u
#define FF 2048u
#define VOCAB 8192u
#define LAYERS 3u
#define N_LINEARS (LAYERS * 7 + 2)
#define N_TOPS 20u
#define FILE_NAME "model.packed"

static uint64_t state = 20261128;

static uint32_t rnd(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* How often something is tried: less under sanitizers. */
static int rounds(int n)
{
    return getenv("LODGE_TEST_SHORT") ? (n + 2) / 3 : n;
}

/* ---- a model ---- */

struct model {
    struct lodge_plan plan;
    struct lodge_linear linears[N_LINEARS];
    struct lodge_tensor tensors[N_LINEARS];
    struct lodge_op ops[LAYERS * 5 + 2];
    struct lodge_vector norm;
};

/* Of one test, until end_cache. */
static struct lodge_arena room;
static struct lodge_plan *plans[2];
static unsigned n_plans;

static void *make(size_t n)
{
    void *p = lodge_arena_alloc_aligned(&room, n, 64);
    ck_assert_ptr_nonnull(p);
    return memset(p, 0, n);
}

static void end_models(void)
{
    while (n_plans)
        lodge_arena_finish(&plans[--n_plans]->arena);
    lodge_arena_finish(&room);
}

static int32_t add_linear(struct model *m, enum lodge_site site, int32_t layer, uint32_t n_rows,
                          uint32_t n_cols)
{
    bool half = site == LODGE_SITE_GATE || site == LODGE_SITE_UP || layer == LODGE_NONE;
    uint32_t i = m->plan.n_linears++;
    size_t n = (size_t)n_rows * n_cols;
    m->linears[i] = (struct lodge_linear){.format = half ? LODGE_FMT_BF16 : LODGE_FMT_F32,
                                          .n_rows = n_rows,
                                          .n_cols = n_cols,
                                          .head_dim = 64,
                                          .site = site,
                                          .layer = layer};
    uint8_t *data = make(n * (half ? 2 : 4));
    for (size_t k = 0; k < n; k++) {
        float v = ((float)rnd() / 2147483648.0f - 0.5f) * 0.1f;
        uint16_t b = lodge_float_bf16(v);
        memcpy(data + k * (half ? 2 : 4), half ? (void *)&b : (void *)&v, half ? 2 : 4);
    }
    m->tensors[i].data = data;
    return (int32_t)i;
}

static void add_layer(struct model *m, uint32_t layer)
{
    static const struct lodge_norm none = {LODGE_NORM_RMS, LODGE_NONE, LODGE_NONE, 1e-5f};
    const struct lodge_norm norm = {LODGE_NORM_RMS, 0, LODGE_NONE, 1e-5f};
    struct lodge_op *op = m->ops + m->plan.n_ops;
    int32_t l = (int32_t)layer;
    m->plan.n_ops += 5;
    op[0] = (struct lodge_op){LODGE_OP_QKV, .qkv = {norm, .q_norm = none, .k_norm = none}};
    for (int i = 0; i < 3; i++) {
        op[0].qkv.linear[i] = add_linear(m, (enum lodge_site)(LODGE_SITE_Q + i), l, D, D);
        op[0].qkv.bias[i] = LODGE_NONE;
    }
    op[0].qkv.rope = LODGE_NONE;
    op[0].qkv.n_heads = op[0].qkv.n_kv_heads = 8;
    op[0].qkv.head_dim = 64;
    op[0].qkv.layer = layer;
    op[1] = (struct lodge_op){
        LODGE_OP_ATTN,
        .attn = {.n_heads = 8, .n_kv_heads = 8, .head_dim = 64, .scale = 0.125f, .layer = layer}};
    int32_t o = add_linear(m, LODGE_SITE_O, l, D, D);
    op[2] = (struct lodge_op){LODGE_OP_PROJ, .proj = {o, LODGE_NONE, none, 1}};
    int32_t gate = add_linear(m, LODGE_SITE_GATE, l, FF, D);
    int32_t up = add_linear(m, LODGE_SITE_UP, l, FF, D);
    op[3] = (struct lodge_op){LODGE_OP_GATE_UP,
                              .gate_up = {norm, gate, up, LODGE_NONE, LODGE_NONE, LODGE_ACT_SILU}};
    int32_t down = add_linear(m, LODGE_SITE_DOWN, l, D, FF);
    op[4] = (struct lodge_op){LODGE_OP_PROJ, .proj = {down, LODGE_NONE, none, 1}};
}

static void make_model(struct model *m)
{
    float *ones = make(D * sizeof *ones);
    *m = (struct model){.plan = {.d_model = D,
                                 .n_layers = LAYERS,
                                 .n_vocab = VOCAB,
                                 .n_vocab_text = VOCAB,
                                 .n_context = 64}};
    m->plan.linears = m->linears;
    m->plan.tensors = m->tensors;
    m->plan.ops = m->ops;
    m->plan.vectors = &m->norm;
    m->plan.n_vectors = 1;
    lodge_arena_init(&m->plan.arena, 0);
    plans[n_plans++] = &m->plan;
    for (uint32_t i = 0; i < D; i++)
        ones[i] = 1;
    m->norm = (struct lodge_vector){ones, D};
    int32_t table = add_linear(m, LODGE_SITE_EMBED, LODGE_NONE, VOCAB, D);
    m->ops[m->plan.n_ops++] = (struct lodge_op){LODGE_OP_EMBED, .embed = {table, 1}};
    for (uint32_t l = 0; l < LAYERS; l++)
        add_layer(m, l);
    /* A tied head. */
    uint32_t head = m->plan.n_linears++;
    m->linears[head] = m->linears[table];
    m->linears[head].site = LODGE_SITE_HEAD;
    m->tensors[head] = m->tensors[table];
    m->ops[m->plan.n_ops++] = (struct lodge_op){
        LODGE_OP_HEAD, .head = {{LODGE_NORM_RMS, 0, LODGE_NONE, 1e-5f}, (int32_t)head, 0, 1}};
    ck_assert_int_eq(lodge_plan_check(&m->plan, NULL), 0);
    ck_assert_int_eq(lodge_plan_group(&m->plan, LODGE_PAGE_TOKENS, 2, NULL), 0);
}

/* The same plan over tensors of zeros. */
static void make_empty(struct model *empty, const struct model *m)
{
    uint8_t *zeros = make((size_t)VOCAB * D * 4);
    *empty = *m;
    for (uint32_t i = 0; i < N_LINEARS; i++)
        empty->tensors[i].data = m->tensors[i].data == m->tensors[0].data ? zeros : zeros + i;
    empty->plan.linears = empty->linears;
    empty->plan.tensors = empty->tensors;
}

/* ---- a cache ---- */

struct cache {
    struct lodge_weights_cache c;
    char path[64];
    const char *isa; /* of the devices that start() opens */
    atomic_int warnings, written, ready;
    atomic_bool changed;
};

static bool unchanged(void *cookie)
{
    return !atomic_load(&((struct cache *)cookie)->changed);
}

static void say(void *cookie, bool warning, const char *text)
{
    struct cache *c = cookie;
    ck_assert_msg(*text != 0, "no text");
    atomic_fetch_add(&c->warnings, warning);
    atomic_fetch_add(&c->written, strstr(text, ": written") != NULL);
}

static void ready(void *cookie)
{
    atomic_fetch_add(&((struct cache *)cookie)->ready, 1);
}

static void make_cache(struct cache *c)
{
    const char *folder = getenv("TMPDIR");
    *c = (struct cache){
        .c = {.name = FILE_NAME, .unchanged = unchanged, .say = say, .ready = ready}};
    snprintf(c->path, sizeof c->path, "%.30s/lodge-cache-XXXXXX", folder ? folder : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(c->path));
    c->c.dir = open(c->path, O_RDONLY | O_DIRECTORY);
    ck_assert_int_ge(c->c.dir, 0);
    c->c.cookie = c;
    memset(&c->c.model, 7, sizeof c->c.model);
}

static int count_files(const struct cache *c)
{
    DIR *dir = opendir(c->path);
    int n = 0;
    for (struct dirent *d; (d = readdir(dir));)
        n += d->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void end_cache(struct cache *c)
{
    unlinkat(c->c.dir, FILE_NAME, 0);
    unlinkat(c->c.dir, FILE_NAME ".tmp", 0);
    close(c->c.dir);
    ck_assert_int_eq(rmdir(c->path), 0);
    end_models();
}

static void await(atomic_int *count, int n)
{
    for (int i = 0; i < 60000 && atomic_load(count) < n; i++)
        usleep(1000);
    ck_assert_int_ge(atomic_load(count), n);
}

/* ---- steps ---- */

struct answer {
    float hidden[D];
    struct lodge_sampled sample;
    struct lodge_top tops[N_TOPS];
};

static const struct lodge_backend *backend;

static struct lodge_device *open_device(const struct model *m, struct cache *c, unsigned n_threads,
                                        const char *isa)
{
    const struct lodge_device_config cfg = {.isa = isa,
                                            .n_threads = n_threads,
                                            .max_rows = 64,
                                            .max_slots = 4,
                                            .max_logit_rows = 4,
                                            .max_step_ranks = 1024};
    struct lodge_device *d = NULL;
    backend = lodge_backend_cpu();
    ck_assert_int_eq(backend->open(&cfg, &d, NULL), 0);
    ck_assert_int_eq(backend->model_load(d, &m->plan, c ? &c->c : NULL, NULL, NULL, NULL), 0);
    ck_assert_int_eq(backend->pool_create(d, 4, NULL), 0);
    return d;
}

static int submit(struct lodge_device *d, uint64_t *ticket)
{
    static const uint32_t tokens[] = {5, 4000, 8191, 17, 260}, pages[] = {0, 1, 2, 3};
    static const struct lodge_sampling greedy = {.top_p = 1, .typical_p = 1, .repetition = 1};
    static const struct lodge_row row = {.n_tokens = 5,
                                         .n_blocks = 1,
                                         .want = LODGE_WANT_SAMPLE | LODGE_WANT_HIDDEN,
                                         .n_top = N_TOPS,
                                         .want_logprob = true,
                                         .next_token = LODGE_NO_PAGE,
                                         .sampling = &greedy};
    static const struct lodge_step step = {
        .rows = &row, .n_rows = 1, .tokens = tokens, .n_tokens = 5, .pages = pages, .n_pages = 4};
    return backend->step_submit(d, &step, ticket);
}

static void ask(struct lodge_device *d, struct answer *out)
{
    struct lodge_step_result r;
    uint64_t ticket;
    ck_assert_int_eq(submit(d, &ticket), 0);
    ck_assert_int_eq(backend->step_poll(d, ticket, &r), 0);
    ck_assert_uint_eq(r.n_results, 1);
    memset(out, 0, sizeof *out);
    memcpy(out->hidden, r.hidden, sizeof out->hidden);
    out->sample = r.results[0].value;
    memcpy(out->tops, r.tops, sizeof out->tops);
}

static struct answer plain_answer(const struct model *m)
{
    struct answer a;
    struct lodge_device *d = open_device(m, NULL, 2, NULL);
    ask(d, &a);
    backend->close(d);
    ck_assert_msg(a.hidden[0] != 0 && a.tops[0].logprob != a.tops[1].logprob, "a model of nothing");
    return a;
}

static void check_answer(struct lodge_device *d, const struct answer *want, const char *what)
{
    struct answer got;
    ask(d, &got);
    ck_assert_msg(memcmp(&got, want, sizeof got) == 0, "%s: another answer", what);
}

/* One start: opens a device, and when its weights are there checks its answer (`want` may be NULL);
 * waits until `more`, a counter of the cache (or NULL), has grown by one, checks the answer again,
 * and closes. */
static void start_with(const struct model *m, struct cache *c, unsigned n_threads,
                       const struct answer *want, atomic_int *more, const char *what)
{
    int n_ready = atomic_load(&c->ready), n_more = more ? atomic_load(more) : 0;
    struct lodge_device *d = open_device(m, c, n_threads, c->isa);
    await(&c->ready, n_ready + 1);
    if (want)
        check_answer(d, want, what);
    if (more)
        await(more, n_more + 1);
    if (want && more)
        check_answer(d, want, what);
    backend->close(d);
    ck_assert_int_eq(atomic_load(&c->ready), n_ready + 1);
}

static void start(const struct model *m, struct cache *c, const struct answer *want,
                  atomic_int *more, const char *what)
{
    start_with(m, c, 2, want, more, what);
}

/* The file is there and sound: a plan of zeros gives the answer. */
static void check_cached(const struct model *empty, struct cache *c, const struct answer *want,
                         const char *what)
{
    int before = atomic_load(&c->warnings);
    start(empty, c, want, NULL, what);
    ck_assert_msg(atomic_load(&c->warnings) == before, "%s: a warning", what);
    ck_assert_msg(count_files(c) == 1, "%s: not one file", what);
}

/* ---- the tests ---- */

START_TEST(checksums)
{
    /* Made by the Python package xxhash 4.1.0 (the reference library). */
    static const struct {
        size_t n;
        uint64_t seed, sum;
    } known[] = {{0, 0, 0xEF46DB3751D8E999u},
                 {0, 7, 0x95F0626F6F0A4409u},
                 {1, 0, 0x1F25C8D0BC1F4BB6u},
                 {3, 5, 0xA4218281579DBC2Cu},
                 {4, 0, 0x9BB64B7D66EE9FDAu},
                 {7, 1, 0xD8B4A941715FEE31u},
                 {8, 0, 0xDAB99D95C6F90092u},
                 {12, 0, 0xD52E407833AF5133u},
                 {31, 2, 0x891E3ADD65D5E177u},
                 {32, 0, 0x23C3C17EF790FD97u},
                 {33, 9, 0x3D2B8606A6E21B67u},
                 {63, 0, 0x5E3E54B431C7493Cu},
                 {64, 9223372036854775813u, 0x5E5B42C5832F3C1Eu},
                 {100, 0, 0xA61F8D4C170FE531u},
                 {255, 3, 0x3582953261C616BEu},
                 {300, 0, 0x240004DBEE0BA6DCu}};
    uint8_t bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + 3);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        ck_assert_msg(lodge_xxh64(bytes, known[i].n, known[i].seed) == known[i].sum, "%zu bytes",
                      known[i].n);
    ck_assert_uint_eq(lodge_xxh64("abc", 3, 0), 0x44BC2CF5AD770999u);
}
END_TEST

/* Panels have digests of their own (check_rungs.c); this is which rows and linears go where. When
 * that is changed on purpose: raise LODGE_CPU_PANEL_VERSION, then the two numbers here. */
START_TEST(order_is_known)
{
    struct model m;
    state = 1;
    make_model(&m);
    m.linears[1].order = m.linears[2].order = LODGE_ROWS_PAIRS;
    struct lodge_device *d = open_device(&m, NULL, 2, "ref");
    ck_assert_int_eq(LODGE_CPU_PANEL_VERSION, 1);
    ck_assert_uint_eq(lodge_xxh64(d->weights, d->weight_bytes, 0), 0x2DDA3DB5329BF8B6u);
    backend->close(d);
    end_models();
}
END_TEST

START_TEST(same_bits)
{
    struct model m, empty;
    struct cache c;
    make_model(&m);
    make_empty(&empty, &m);
    make_cache(&c);
    const struct answer want = plain_answer(&m);
    start(&m, &c, &want, &c.written, "while it is written, and after");
    for (unsigned n_threads = 1; n_threads <= 4; n_threads++)
        start_with(&empty, &c, n_threads, &want, NULL, "from the file");
    ck_assert_int_eq(atomic_load(&c.warnings), 0);
    ck_assert_int_eq(atomic_load(&c.written), 1);
    ck_assert_int_eq(count_files(&c), 1);
    end_cache(&c);
}
END_TEST

static void flip(const struct cache *c, size_t at)
{
    uint8_t byte;
    int fd = openat(c->c.dir, FILE_NAME, O_RDWR);
    ck_assert_int_eq(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= (uint8_t)(1u << rnd() % 8);
    ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* Damaged, used all the same, told, deleted, written again. */
static void check_repair(const struct model *m, const struct model *empty, struct cache *c,
                         const struct answer *want, const char *what)
{
    int warnings = atomic_load(&c->warnings);
    start(m, c, want, &c->written, what);
    ck_assert_msg(atomic_load(&c->warnings) == warnings + 1, "%s: not one warning", what);
    check_cached(empty, c, want, what);
}

static size_t file_bytes(const struct cache *c)
{
    struct stat st;
    ck_assert_int_eq(fstatat(c->c.dir, FILE_NAME, &st, 0), 0);
    return (size_t)st.st_size;
}

START_TEST(damaged)
{
    struct model m, empty;
    struct cache c;
    char what[80];
    make_model(&m);
    make_empty(&empty, &m);
    make_cache(&c);
    const struct answer want = plain_answer(&m);
    start(&m, &c, NULL, &c.written, NULL);
    size_t size = file_bytes(&c),
           first = lodge_weights_header_bytes(lodge_cpu_packed_bytes(&m.plan));
    ck_assert_uint_eq(size, first + lodge_cpu_packed_bytes(&m.plan));
    /* Every field of the header, the table, and blocks: first and last bytes, and anywhere. */
    const size_t places[] = {0,
                             9,
                             13,
                             17,
                             30,
                             57,
                             62,
                             66,
                             75,
                             90,
                             115,
                             125,
                             130,
                             first,
                             first + LODGE_WEIGHTS_BLOCK - 1,
                             size - 1,
                             first + rnd() % (size - first),
                             first + rnd() % (size - first)};
    const size_t step = getenv("LODGE_TEST_SHORT") ? 5 : 1;
    for (size_t i = 0; i < sizeof places / sizeof *places; i += step) {
        snprintf(what, sizeof what, "damage at byte %zu", places[i]);
        flip(&c, places[i]);
        check_repair(&m, &empty, &c, &want, what);
    }
    /* Several at once, so that readers find them beside each other. */
    for (int i = 0; i < 20; i++)
        flip(&c, first + rnd() % (size - first));
    check_repair(&m, &empty, &c, &want, "damage everywhere");
    end_cache(&c);
}
END_TEST

START_TEST(cut_short)
{
    struct model m, empty;
    struct cache c;
    char what[80];
    make_model(&m);
    make_empty(&empty, &m);
    make_cache(&c);
    const struct answer want = plain_answer(&m);
    start(&m, &c, NULL, &c.written, NULL);
    size_t size = file_bytes(&c);
    const size_t lengths[] = {0,        1,       127, 128, 4095, 4096, 4096 + LODGE_WEIGHTS_BLOCK,
                              size - 1, size + 1};
    const size_t step = getenv("LODGE_TEST_SHORT") ? 3 : 1;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i += step) {
        int fd = openat(c.c.dir, FILE_NAME, O_RDWR);
        snprintf(what, sizeof what, "%zu bytes", lengths[i]);
        ck_assert_int_eq(ftruncate(fd, (off_t)lengths[i]), 0);
        close(fd);
        check_repair(&m, &empty, &c, &want, what);
    }
    end_cache(&c);
}
END_TEST

/* A file that is cut short, or damaged, after its header was checked. */
START_TEST(cut_while_read)
{
    struct model m;
    struct cache c;
    struct lodge_weights_file f;
    struct lodge_error e;
    make_model(&m);
    make_cache(&c);
    start(&m, &c, NULL, &c.written, NULL);
    struct lodge_weights_key k = {.layout_version = LODGE_CPU_PANEL_VERSION,
                                  .plan_sum = lodge_weights_plan_sum(&m.plan),
                                  .n_bytes = lodge_cpu_packed_bytes(&m.plan)};
    struct lodge_cpu_kernels kernels;
    uint8_t *to = make(k.n_bytes);
    atomic_bool stop = false;
    lodge_cpu_kernels_init(&kernels, NULL, NULL);
    snprintf(k.layout, sizeof k.layout, "cpu %s", kernels.name);
    ck_assert_int_eq(lodge_weights_file_open(&c.c, &k, &f, &e), 0);
    ck_assert_uint_ge(f.n_blocks, 8);
    for (size_t i = 0; i < f.n_blocks; i++)
        ck_assert_int_eq(lodge_weights_file_read(&f, i, to, &stop, &e), 0);
    int fd = openat(c.c.dir, FILE_NAME, O_RDWR);
    ck_assert_int_eq(ftruncate(fd, (off_t)(f.first + 3 * LODGE_WEIGHTS_BLOCK + 5)), 0);
    close(fd);
    for (size_t i = 0; i < f.n_blocks; i++)
        ck_assert_int_eq(lodge_weights_file_read(&f, i, to, &stop, &e),
                         i < 3 ? 0 : LODGE_ERR_FORMAT);
    atomic_store(&stop, true);
    ck_assert_int_eq(lodge_weights_file_read(&f, 0, to, &stop, &e), LODGE_ERR_AGAIN);
    /* Another process has put a good file in its place: that one stays. */
    ck_assert_int_eq(unlinkat(c.c.dir, FILE_NAME, 0), 0);
    start(&m, &c, NULL, &c.written, NULL);
    lodge_weights_file_remove(&c.c, &f);
    ck_assert_int_eq(count_files(&c), 1);
    lodge_weights_file_close(&f);
    end_cache(&c);
}
END_TEST

/* Whatever the key says otherwise, the file is another's: replaced, without a warning. */
START_TEST(another_key)
{
    struct model m, other, empty;
    struct cache c;
    make_model(&m);
    make_model(&other);
    make_cache(&c);
    start(&m, &c, NULL, &c.written, NULL);
    /* Another model of the same shapes. */
    const struct answer want = plain_answer(&other);
    c.c.model.bytes[31] ^= 1;
    start(&other, &c, &want, &c.written, "another model");
    make_empty(&empty, &other);
    check_cached(&empty, &c, &want, "another model");
    /* Another order of rows. */
    other.linears[1].order = LODGE_ROWS_PAIRS;
    const struct answer paired = plain_answer(&other);
    ck_assert_msg(memcmp(&paired, &want, sizeof want) != 0, "the order changes nothing");
    start(&other, &c, &paired, &c.written, "another order of rows");
    /* Another rung, whose panels differ, if there is one. */
    struct lodge_cpu_kernels best;
    lodge_cpu_kernels_init(&best, NULL, NULL);
    if (strcmp(best.name, "ref") != 0) {
        c.isa = "ref";
        start(&other, &c, NULL, &c.written, NULL);
        c.isa = NULL;
        start(&other, &c, &paired, &c.written, "another rung");
    }
    ck_assert_int_eq(atomic_load(&c.warnings), 0);
    ck_assert_int_eq(count_files(&c), 1);
    end_cache(&c);
}
END_TEST

START_TEST(model_changes_meanwhile)
{
    struct model m;
    struct cache c;
    make_model(&m);
    make_cache(&c);
    atomic_store(&c.changed, true);
    start(&m, &c, NULL, &c.warnings, NULL);
    ck_assert_int_eq(atomic_load(&c.written), 0);
    ck_assert_int_eq(count_files(&c), 0);
    end_cache(&c);
}
END_TEST

/* A limit of file sizes stands for a full disk: both fail in make_room or write. */
START_TEST(full_disk)
{
    struct model m;
    struct cache c;
    const struct rlimit small = {10 << 20, 10 << 20};
    make_model(&m);
    make_cache(&c);
    const struct answer want = plain_answer(&m);
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    start(&m, &c, &want, &c.warnings, "a full disk");
    ck_assert_int_eq(atomic_load(&c.written), 0);
    ck_assert_int_eq(count_files(&c), 0);
    end_cache(&c);
}
END_TEST

/* What is there is read; what is not cannot be written. */
START_TEST(read_only)
{
    struct model m, empty;
    struct cache c;
    make_model(&m);
    make_empty(&empty, &m);
    make_cache(&c);
    const struct answer want = plain_answer(&m);
    start(&m, &c, NULL, &c.written, NULL);
    ck_assert_int_eq(fchmod(c.c.dir, 0555), 0);
    int fd = openat(c.c.dir, FILE_NAME, O_RDONLY);
    ck_assert_int_eq(fchmod(fd, 0444), 0);
    close(fd);
    bool root = geteuid() == 0;
    if (root)
        ck_assert_int_eq(setresuid(65534, 65534, 0), 0);
    check_cached(&empty, &c, &want, "read only");
    memset(&c.c.model, 9, sizeof c.c.model);
    start(&m, &c, &want, &c.warnings, "read only, of another model");
    ck_assert_int_eq(atomic_load(&c.written), 1);
    if (root)
        ck_assert_int_eq(setresuid(0, 0, 0), 0);
    ck_assert_int_eq(fchmod(c.c.dir, 0755), 0);
    end_cache(&c);
}
END_TEST

/* ---- several processes ---- */

static pid_t start_process(const struct model *m, struct cache *c, const struct answer *want)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid)
        return pid;
    int before = atomic_load(&c->ready);
    struct lodge_device *d = open_device(m, c, 2, NULL);
    struct answer got;
    await(&c->ready, before + 1);
    ask(d, &got);
    bool same = memcmp(&got, want, sizeof got) == 0;
    for (int i = 0; i < 60000 && faccessat(c->c.dir, FILE_NAME, F_OK, 0); i++)
        usleep(1000);
    backend->close(d);
    _exit(same && !atomic_load(&c->warnings) ? 0 : 1);
}

START_TEST(two_at_once)
{
    struct model m, empty;
    struct cache c;
    make_model(&m);
    make_empty(&empty, &m);
    make_cache(&c);
    const struct answer want = plain_answer(&m);
    for (int round = 0; round < rounds(3); round++) {
        pid_t pids[3];
        for (int i = 0; i < 3; i++)
            pids[i] = start_process(&m, &c, &want);
        for (int i = 0; i < 3; i++) {
            int status;
            ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
            ck_assert_int_eq(status, 0);
        }
        check_cached(&empty, &c, &want, "several at once");
        unlinkat(c.c.dir, FILE_NAME, 0);
    }
    end_cache(&c);
}
END_TEST

/* Killed while the file is being written: none, or a whole one, and the next start makes one. */
START_TEST(killed_while_writing)
{
    struct model m, empty;
    struct cache c;
    int n_partial = 0;
    make_model(&m);
    make_empty(&empty, &m);
    make_cache(&c);
    const struct answer want = plain_answer(&m);
    for (int round = 0; round < rounds(10); round++) {
        int status;
        pid_t pid = start_process(&m, &c, &want);
        while (faccessat(c.c.dir, FILE_NAME ".tmp", F_OK, 0) &&
               faccessat(c.c.dir, FILE_NAME, F_OK, 0))
            usleep(100);
        usleep(round ? rnd() % 20000 : 0);
        kill(pid, SIGKILL);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        n_partial += faccessat(c.c.dir, FILE_NAME ".tmp", F_OK, 0) == 0;
        if (faccessat(c.c.dir, FILE_NAME, F_OK, 0))
            start(&m, &c, NULL, &c.written, NULL);
        check_cached(&empty, &c, &want, "after a kill");
        unlinkat(c.c.dir, FILE_NAME, 0);
    }
    ck_assert_msg(n_partial > 0, "none was killed while it wrote");
    ck_assert_int_eq(atomic_load(&c.warnings), 0);
    end_cache(&c);
}
END_TEST

/* ---- life ---- */

START_TEST(closed_early)
{
    struct model m;
    struct cache c;
    make_model(&m);
    make_cache(&c);
    for (int i = 0; i < rounds(10); i++) { /* while it is written */
        struct lodge_device *d = open_device(&m, &c, 2, NULL);
        usleep(rnd() % 10000);
        backend->close(d);
        ck_assert_int_le(count_files(&c), 1);
        ck_assert_int_ne(faccessat(c.c.dir, FILE_NAME ".tmp", F_OK, 0), 0);
        unlinkat(c.c.dir, FILE_NAME, 0);
    }
    start(&m, &c, NULL, &c.written, NULL);
    for (int i = 0; i < 10; i++) { /* while it is read */
        struct lodge_device *d = open_device(&m, &c, 1 + rnd() % 4, NULL);
        usleep(rnd() % 4000);
        backend->close(d);
    }
    slow_file_hold(); /* while nothing of it comes */
    struct lodge_device *d = open_device(&m, &c, 2, NULL);
    slow_file_await_reader();
    backend->close(d);
    slow_file_release();
    ck_assert_msg(count_files(&c) == 1 && !atomic_load(&c.warnings), "a sound file is gone");
    flip(&c, file_bytes(&c) / 2); /* while all is packed */
    d = open_device(&m, &c, 2, NULL);
    backend->close(d);
    end_cache(&c);
}
END_TEST

struct dora {
    struct lodge_lora_target target;
    struct lodge_lora lora;
    struct lodge_lora_layout layout;
    size_t n_bytes; /* of an image */
};

/* Of o of the last layer. */
static void make_dora(struct dora *r, const struct model *m)
{
    uint16_t *a = make(8 * D * sizeof *a), *b = make(D * 8 * sizeof *b);
    float *magnitude = make(D * sizeof *magnitude);
    for (uint32_t i = 0; i < 8 * D; i++)
        a[i] = lodge_float_bf16((float)(rnd() % 100) * 0.01f);
    for (uint32_t i = 0; i < D; i++)
        magnitude[i] = 1 + (float)(rnd() % 100) * 0.01f;
    r->target = (struct lodge_lora_target){
        .linear = N_LINEARS - 5, .rank = 8, .scale = 1, .a = a, .b = b, .magnitude = magnitude};
    r->lora = (struct lodge_lora){&r->target, 1};
    ck_assert_int_eq(lodge_lora_layout_init(&r->layout, &m->plan, &r->lora, NULL), 0);
    r->n_bytes = (size_t)r->layout.n_cells * LODGE_CELL_BYTES;
}

static int pack_dora(struct lodge_device *d, const struct dora *r, uint8_t *image)
{
    memset(image, 0, r->n_bytes);
    return backend->adapter_pack(d, &r->lora, &r->layout, 0, image, NULL);
}

/* What reads weights is refused until all are there: a step, and DoRA's gains, which are made of
 * them. */
START_TEST(refused_before_ready)
{
    struct model m, empty;
    struct cache c;
    struct dora r;
    uint64_t ticket;
    make_model(&m);
    make_empty(&empty, &m);
    make_cache(&c);
    make_dora(&r, &m);
    uint8_t *want = make(r.n_bytes), *got = make(r.n_bytes);
    const struct answer answer = plain_answer(&m);
    struct lodge_device *d = open_device(&m, &c, 2, NULL);
    ck_assert_msg(atomic_load(&c.ready) == 1, "what is packed is there");
    ck_assert_int_eq(pack_dora(d, &r, want), 0);
    await(&c.written, 1);
    backend->close(d);
    slow_file_hold();
    d = open_device(&empty, &c, 2, NULL);
    slow_file_await_reader();
    ck_assert_int_eq(submit(d, &ticket), LODGE_ERR_AGAIN);
    ck_assert_int_eq(pack_dora(d, &r, got), LODGE_ERR_AGAIN);
    ck_assert_int_eq(atomic_load(&c.ready), 1);
    slow_file_release();
    await(&c.ready, 2);
    check_answer(d, &answer, "as soon as it is ready");
    ck_assert_int_eq(pack_dora(d, &r, got), 0);
    ck_assert_mem_eq(got, want, r.n_bytes);
    backend->close(d);
    lodge_lora_layout_finish(&r.layout);
    end_cache(&c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("weights cache");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 400);
    tcase_add_test(t, checksums);
    tcase_add_test(t, order_is_known);
    tcase_add_test(t, same_bits);
    tcase_add_test(t, damaged);
    tcase_add_test(t, cut_short);
    tcase_add_test(t, cut_while_read);
    tcase_add_test(t, another_key);
    tcase_add_test(t, model_changes_meanwhile);
    tcase_add_test(t, full_disk);
    tcase_add_test(t, read_only);
    tcase_add_test(t, two_at_once);
    tcase_add_test(t, killed_while_writing);
    tcase_add_test(t, closed_early);
    tcase_add_test(t, refused_before_ready);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
