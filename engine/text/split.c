/* Pre-tokenisation: a list of pieces, refined by one step after another. */
#include "engine/text/internal.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static bool add(struct pieces *p, size_t begin, size_t end)
{
    if (begin == end)
        return true;
    if (p->n == p->room) {
        size_t room = p->room ? p->room * 2 : 64;
        struct piece *list = realloc(p->list, room * sizeof *list);
        if (!list)
            return false;
        p->list = list;
        p->room = room;
    }
    p->list[p->n++] = (struct piece){begin, end};
    return true;
}

/* Emits matches and the gaps between them as the behaviour wants. `pending` begins the piece that
 * is still growing. */
struct cutter {
    enum split_behavior behavior;
    bool invert;
    struct pieces *out;
    size_t pending;  /* begin of what has not been emitted */
    bool last_match; /* kind of the last span, for CONTIGUOUS */
    bool any;
    bool ok;
};

static void cut(struct cutter *c, size_t at)
{
    c->ok = c->ok && add(c->out, c->pending, at);
    c->pending = at;
}

static void span(struct cutter *c, size_t begin, size_t end, bool match)
{
    if (begin == end) {
        if (match) /* an empty match: what is beside it stays apart */
            cut(c, begin);
        return;
    }
    match = match != c->invert;
    bool gaps = c->any && !c->last_match && !match; /* two in a row: matches, inverted */
    switch (c->behavior) {
    case BEHAVIOR_REMOVED:
        c->pending = begin;
        if (!match)
            cut(c, end);
        c->pending = end;
        break;
    case BEHAVIOR_ISOLATED:
        cut(c, begin);
        cut(c, end);
        break;
    case BEHAVIOR_PREVIOUS:
        if (gaps)
            cut(c, begin);
        if (match)
            cut(c, end);
        break;
    case BEHAVIOR_NEXT:
        if (match || gaps)
            cut(c, begin);
        break;
    case BEHAVIOR_CONTIGUOUS:
        if (c->any && match != c->last_match)
            cut(c, begin);
        break;
    }
    c->last_match = match;
    c->any = true;
}

static struct cutter cutter_for(const struct split_step *step, struct pieces *out, size_t begin)
{
    return (struct cutter){.behavior = step->behavior,
                           .invert = step->invert,
                           .out = out,
                           .pending = begin,
                           .ok = true};
}

static int split_regex(const struct split_step *step, const char *s, struct piece p,
                       pcre2_match_data *md, pcre2_match_context *limits, struct pieces *out)
{
    struct cutter c = cutter_for(step, out, p.begin);
    size_t gap = p.begin, at = p.begin;
    bool matched = false; /* up to `gap` */
    /* Each piece is matched as a text of its own: lookarounds end at its bounds. */
    const char *base = s + p.begin;
    size_t n = p.end - p.begin;
    while (at < p.end) {
        int rc = pcre2_match(step->regex, (PCRE2_SPTR)base, n, at - p.begin, PCRE2_NO_UTF_CHECK, md,
                             limits);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return rc == PCRE2_ERROR_NOMEMORY ? LODGE_ERR_NOMEM : LODGE_ERR_LIMIT;
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(md);
        size_t begin = p.begin + v[0], end = p.begin + v[1];
        if (begin > gap || end > begin || !matched) {
            span(&c, gap, begin, false);
            span(&c, begin, end, true);
            gap = end;
        }
        at = end > begin ? end : next_char(s, end, p.end);
        matched = true;
    }
    span(&c, gap, p.end, false);
    if (c.behavior != BEHAVIOR_REMOVED)
        cut(&c, p.end);
    return c.ok ? 0 : LODGE_ERR_NOMEM;
}

static bool is_digit(uint32_t cp)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)cp);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

/* Runs of characters of one class; `each`: every character of the class by itself. */
static int split_class(const struct split_step *step, const char *s, struct piece p,
                       bool (*in_class)(uint32_t), bool each, struct pieces *out)
{
    struct cutter c = cutter_for(step, out, p.begin);
    size_t run = p.begin;
    bool inside = false;
    for (size_t i = p.begin; i < p.end;) {
        uint32_t cp = 0;
        int len = lodge_utf8_decode((const uint8_t *)s + i, p.end - i, &cp);
        bool now = len > 0 && in_class(cp);
        len = len > 0 ? len : 1;
        if (i > run && (now != inside || (now && each))) {
            span(&c, run, i, inside);
            run = i;
        }
        inside = now;
        i += (size_t)len;
    }
    span(&c, run, p.end, inside);
    if (c.behavior != BEHAVIOR_REMOVED)
        cut(&c, p.end);
    return c.ok ? 0 : LODGE_ERR_NOMEM;
}

/* Cuts before each replacement character (a space that was rewritten). */
static int split_metaspace(const struct split_step *step, const char *s, struct piece p,
                           struct pieces *out)
{
    size_t begin = p.begin, k = step->replacement.n;
    bool ok = true;
    for (size_t i = p.begin; step->split && i + k <= p.end; i++)
        if (memcmp(s + i, step->replacement.data, k) == 0) {
            ok = ok && add(out, begin, i);
            begin = i;
        }
    return ok && add(out, begin, p.end) ? 0 : LODGE_ERR_NOMEM;
}

static bool begins_with(const char *s, size_t n, struct lodge_span with)
{
    return n >= with.n && memcmp(s, with.data, with.n) == 0;
}

/* A piece with its blanks replaced, and one in front where the step wants it. origin: the piece
 * begins the whole input. */
static void rewrite_piece(const struct split_step *step, const char *s, size_t n, bool origin,
                          struct lodge_buf *out)
{
    if (step->kind == SPLIT_PREFIX_SPACE) {
        if (s[0] != ' ')
            lodge_buf_append(out, " ", 1);
        lodge_buf_append(out, s, n);
        return;
    }
    const struct lodge_span *r = &step->replacement;
    bool has = s[0] == ' ' || begins_with(s, n, *r);
    if (!has && (step->scheme == PREPEND_ALWAYS || (step->scheme == PREPEND_FIRST && origin)))
        lodge_buf_append(out, r->data, r->n);
    for (size_t i = 0; i < n; i++)
        if (s[i] == ' ')
            lodge_buf_append(out, r->data, r->n);
        else
            lodge_buf_append(out, s + i, 1);
}

/* A step that changes the text of the pieces: the text becomes that of all pieces in a row. */
static int rewrite(const struct split_step *step, struct lodge_buf *text, bool at_start,
                   struct pieces *now)
{
    struct lodge_buf next;
    lodge_buf_init(&next, text->cap_bytes);
    for (size_t k = 0; k < now->n; k++) {
        struct piece *p = &now->list[k];
        size_t begin = next.n;
        rewrite_piece(step, text->data + p->begin, p->end - p->begin, at_start && p->begin == 0,
                      &next);
        *p = (struct piece){begin, next.n};
    }
    lodge_buf_finish(text);
    *text = next;
    return text->failed ? LODGE_ERR_LIMIT : 0;
}

static int split_piece(const struct split_step *step, const char *s, struct piece p,
                       pcre2_match_data *md, pcre2_match_context *limits, struct pieces *out)
{
    switch (step->kind) {
    case SPLIT_REGEX:
        return split_regex(step, s, p, md, limits, out);
    case SPLIT_DIGITS:
        return split_class(step, s, p, is_digit, step->arg, out);
    case SPLIT_WHITESPACE:
        return split_class(step, s, p, is_space, false, out);
    case SPLIT_METASPACE:
        return split_metaspace(step, s, p, out);
    case SPLIT_PREFIX_SPACE:
        return add(out, p.begin, p.end) ? 0 : LODGE_ERR_NOMEM;
    }
    return LODGE_ERR_INTERNAL;
}

static int run_step(const struct split_step *step, const char *s, pcre2_match_data *md,
                    pcre2_match_context *limits, struct pieces *now)
{
    int err = 0;
    struct pieces next = {0};
    for (size_t k = 0; k < now->n && !err; k++)
        err = split_piece(step, s, now->list[k], md, limits, &next);
    free(now->list);
    *now = next;
    return err;
}

static int run_steps(const struct lodge_tokenizer *t, struct lodge_buf *text, bool at_start,
                     pcre2_match_data *md, pcre2_match_context *limits, struct pieces *now)
{
    int err = 0;
    for (uint32_t i = 0; i < t->n_splits && now->n && !err; i++) {
        const struct split_step *step = &t->splits[i];
        bool changes = step->kind == SPLIT_METASPACE || step->kind == SPLIT_PREFIX_SPACE;
        at_start = at_start && now->list[0].begin == 0;
        if (changes)
            err = rewrite(step, text, at_start, now);
        if (!err)
            err = run_step(step, lodge_buf_text(text), md, limits, now);
    }
    return err;
}

int split(const struct lodge_tokenizer *t, struct lodge_buf *text, bool at_start,
          struct pieces *out)
{
    *out = (struct pieces){0};
    pcre2_match_data *md = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    if (limits)
        pcre2_set_match_limit(limits, match_limit(text->n));
    bool ok = md && limits && add(out, 0, text->n);
    int err = ok ? run_steps(t, text, at_start, md, limits, out) : LODGE_ERR_NOMEM;
    pcre2_match_context_free(limits);
    pcre2_match_data_free(md);
    if (err) {
        free(out->list);
        *out = (struct pieces){0};
    }
    return err;
}
