#include "engine/text/internal.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

void lodge_tokens_finish(struct lodge_tokens *t)
{
    free(t->ids);
    *t = (struct lodge_tokens){0};
}

bool lodge_tokens_push(struct lodge_tokens *t, uint32_t id)
{
    if (t->n == t->_room) {
        size_t room = t->_room ? t->_room * 2 : 64;
        uint32_t *ids = realloc(t->ids, room * sizeof *ids);
        if (!ids)
            return false;
        t->ids = ids;
        t->_room = room;
    }
    t->ids[t->n++] = id;
    return true;
}

/* One encoding in progress. */
struct job {
    const struct lodge_tokenizer *t;
    struct merger *merger;
    struct lattice *lattice;
    struct lodge_buf norm; /* scratch: a normalised run */
    struct lodge_buf run;  /* scratch: what is pre-tokenised */
    size_t max_tokens;
    bool at_start; /* nothing of the input was encoded yet */
    struct lodge_tokens *out;
};

static int encode_piece(struct job *j, const char *s, size_t n)
{
    return j->t->unigram ? unigram_piece(j->t, j->lattice, s, n, j->out)
                         : merge_piece(j->t, j->merger, s, n, j->out);
}

/* Text without added tokens, already normalised. */
static int encode_run(struct job *j, const char *s, size_t n)
{
    if (!n)
        return 0;
    lodge_buf_clear(&j->run);
    if (lodge_buf_append(&j->run, s, n))
        return LODGE_ERR_NOMEM;
    struct pieces pieces;
    int err = split(j->t, &j->run, j->at_start, &pieces);
    j->at_start = false;
    for (size_t i = 0; i < pieces.n && !err; i++) {
        err = encode_piece(j, j->run.data + pieces.list[i].begin,
                           pieces.list[i].end - pieces.list[i].begin);
        if (!err && j->out->n > j->max_tokens)
            err = LODGE_ERR_LIMIT;
    }
    free(pieces.list);
    return err;
}

static int push_added(struct job *j, const struct added_token *a)
{
    j->at_start = false;
    return lodge_tokens_push(j->out, a->id) ? 0 : LODGE_ERR_NOMEM;
}

/* Second pass: normalise, then cut out the added tokens that are compared in normal form. */
static int encode_raw_run(struct job *j, const char *s, size_t n, bool special)
{
    if (!n)
        return 0;
    int err = normalize(j->t, s, n, &j->norm);
    size_t at = 0;
    struct added_match m = {0};
    const char *norm = lodge_buf_text(&j->norm);
    while (!err && next_added(j->t, norm, j->norm.n, true, special, &m)) {
        if (m.begin > at)
            err = encode_run(j, norm + at, m.begin - at);
        if (!err)
            err = push_added(j, m.token);
        at = m.end;
    }
    return err ? err : encode_run(j, norm + at, j->norm.n - at);
}

/* First pass: added tokens that are compared as written. */
static int encode_text(struct job *j, const char *s, size_t n, bool special)
{
    size_t at = 0;
    struct added_match m = {0};
    int err = 0;
    while (!err && next_added(j->t, s, n, false, special, &m)) {
        if (m.begin > at)
            err = encode_raw_run(j, s + at, m.begin - at, special);
        if (!err)
            err = push_added(j, m.token);
        at = m.end;
    }
    return err ? err : encode_raw_run(j, s + at, n - at, special);
}

static int job_start(struct job *j, const struct lodge_tokenizer *t, size_t n, size_t max_tokens,
                     struct lodge_tokens *out)
{
    *j = (struct job){.t = t, .max_tokens = max_tokens, .at_start = true, .out = out};
    /* Normal forms may grow a text up to 18-fold. */
    lodge_buf_init(&j->norm, n * 20 + 4096);
    lodge_buf_init(&j->run, n * 60 + 8192);
    j->merger = merger_create();
    j->lattice = lattice_create();
    return j->merger && j->lattice ? 0 : LODGE_ERR_NOMEM;
}

static void job_finish(struct job *j)
{
    lodge_buf_finish(&j->norm);
    lodge_buf_finish(&j->run);
    merger_destroy(j->merger);
    lattice_destroy(j->lattice);
}

static int explain(int err, size_t max_tokens, struct lodge_error *e)
{
    if (err == LODGE_ERR_LIMIT)
        return lodge_fail(e, err,
                          "the text has more than %zu tokens, or a part that cannot be "
                          "tokenized within limits",
                          max_tokens);
    return err ? lodge_fail(e, err, "no memory to tokenize") : 0;
}

/* Copy with broken sequences replaced, or NULL (with *copy NULL) when it is valid as it is. */
static int repair(const char *text, size_t n, struct lodge_buf *copy)
{
    lodge_buf_init(copy, n * 3 + 16);
    if (lodge_utf8_valid((const uint8_t *)text, n))
        return 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = lodge_utf8_decode((const uint8_t *)text + i, n - i, &cp);
        if (len > 0)
            lodge_buf_append(copy, text + i, (size_t)len);
        else
            lodge_buf_append(copy, "\xEF\xBF\xBD", 3);
        i += len > 0 ? (size_t)len : len < 0 ? (size_t)-len : n - i;
    }
    return copy->failed ? LODGE_ERR_NOMEM : 0;
}

int lodge_tokenizer_encode(const struct lodge_tokenizer *t, const char *text, size_t n,
                           unsigned flags, size_t max_tokens, struct lodge_tokens *out,
                           struct lodge_error *e)
{
    struct job j;
    struct lodge_buf copy;
    int err = job_start(&j, t, n, max_tokens, out);
    int bad = repair(text, n, &copy);
    err = err ? err : bad;
    if (copy.n) {
        text = copy.data;
        n = copy.n;
    }
    bool ok = true;
    for (uint32_t i = 0; i < t->n_prefix && (flags & LODGE_ENCODE_ADD); i++)
        ok = ok && lodge_tokens_push(out, t->prefix[i]);
    if (!err)
        err = ok ? encode_text(&j, text, n, flags & LODGE_ENCODE_SPECIAL) : LODGE_ERR_NOMEM;
    for (uint32_t i = 0; i < t->n_suffix && (flags & LODGE_ENCODE_ADD) && !err; i++)
        err = lodge_tokens_push(out, t->suffix[i]) ? 0 : LODGE_ERR_NOMEM;
    if (!err && out->n > max_tokens)
        err = LODGE_ERR_LIMIT;
    lodge_buf_finish(&copy);
    job_finish(&j);
    return explain(err, max_tokens, e);
}

/* Does a control token of the whole text lie, in part at least, in a user part? The white space it
 * swallows may. */
static bool user_has_special(const struct lodge_tokenizer *t, const char *text,
                             const struct lodge_text_part *parts, size_t n_parts, size_t n)
{
    size_t k = 0;
    struct added_match m = {0};
    while (next_added(t, text, n, false, true, &m)) {
        size_t end = m.text + m.token->text.n;
        while (k < n_parts && parts[k].end <= m.text)
            k++;
        for (size_t i = k; m.token->special && i < n_parts && parts[i].begin < end; i++)
            if (parts[i].user)
                return true;
    }
    return false;
}

int lodge_tokenizer_encode_parts(const struct lodge_tokenizer *t, const char *text,
                                 const struct lodge_text_part *parts, size_t n_parts,
                                 size_t max_tokens, struct lodge_tokens *out, struct lodge_error *e)
{
    size_t n = n_parts ? parts[n_parts - 1].end : 0;
    if (!user_has_special(t, text, parts, n_parts, n))
        return lodge_tokenizer_encode(t, text, n, LODGE_ENCODE_SPECIAL, max_tokens, out, e);
    struct job j;
    int err = job_start(&j, t, n, max_tokens, out);
    for (size_t i = 0; i < n_parts && !err; i++) {
        struct lodge_buf copy;
        const char *s = text + parts[i].begin;
        size_t len = parts[i].end - parts[i].begin;
        err = repair(s, len, &copy);
        if (!err)
            err = encode_text(&j, copy.n ? copy.data : s, copy.n ? copy.n : len, !parts[i].user);
        lodge_buf_finish(&copy);
    }
    job_finish(&j);
    return explain(err, max_tokens, e);
}
