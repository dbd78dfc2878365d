/* Unigram: the pieces whose scores sum highest, by Viterbi over byte positions. The time is that of
 * the text times the longest piece. Ties and roundings are those of the two libraries: of equal
 * sums the first found stays; sentencepiece keeps sums in single precision.
 * Source: Kudo, "Subword Regularization" (2018). */
#include "engine/text/internal.h"

#include "base/utf8.h"

#include <stdlib.h>

#define NONE UINT32_MAX
#define UNKNOWN_PENALTY 10.0

/* The best way to a position. */
struct place {
    double score;
    uint32_t from; /* NONE: not reached */
    uint32_t id;   /* NONE: an unknown character */
    uint32_t next; /* the other way, once the best path is known */
};

struct lattice {
    struct place *places;
    size_t room;
};

struct lattice *lattice_create(void)
{
    return calloc(1, sizeof(struct lattice));
}

void lattice_destroy(struct lattice *l)
{
    if (l)
        free(l->places);
    free(l);
}

static bool reserve(struct lattice *l, size_t n)
{
    if (n <= l->room)
        return true;
    size_t room = l->room * 2 > n ? l->room * 2 : n;
    struct place *p = realloc(l->places, room * sizeof *p);
    if (!p)
        return false;
    l->places = p;
    l->room = room;
    return true;
}

static void offer(const struct unigram *u, struct lattice *l, uint32_t from, uint32_t to,
                  uint32_t id)
{
    struct place *p = &l->places[to];
    double score = l->places[from].score + (id == NONE ? u->unknown_score : u->scores[id]);
    if (id == NONE && u->single)
        score = (float)score;
    if (p->from == NONE || score > p->score)
        *p = (struct place){u->single ? (float)score : score, from, id, NONE};
}

/* All pieces that begin at a position; the character itself as unknown where it is no piece. */
static void offer_pieces(const struct unigram *u, struct lattice *l, const char *s, uint32_t n,
                         uint32_t at, uint32_t char_end)
{
    bool whole_char = false;
    uint32_t node = 0;
    for (uint32_t end = at; end < n;) {
        node = trie_step(&u->trie, node, (uint8_t)s[end++]);
        if (!node)
            break;
        if (u->trie.nodes[node].id == TRIE_NONE)
            continue;
        offer(u, l, at, end, u->trie.nodes[node].id);
        whole_char |= end == char_end;
    }
    if (!whole_char)
        offer(u, l, at, char_end, NONE);
}

/* Tokens of the best path; a run of unknown characters is one. */
static bool emit_path(const struct lodge_tokenizer *t, struct lattice *l, const char *s, uint32_t n,
                      struct lodge_tokens *out)
{
    for (uint32_t at = n; at; at = l->places[at].from)
        l->places[l->places[at].from].next = at;
    for (uint32_t at = 0; at < n;) {
        uint32_t end = l->places[at].next, id = l->places[end].id;
        while (id == NONE && end < n && l->places[l->places[end].next].id == NONE)
            end = l->places[end].next;
        bool was_unknown = false;
        if (id == NONE ? !emit_unknown(t, s + at, end - at, &was_unknown, out)
                       : !lodge_tokens_push(out, id))
            return false;
        at = end;
    }
    return true;
}

int unigram_piece(const struct lodge_tokenizer *t, struct lattice *l, const char *s, size_t n,
                  struct lodge_tokens *out)
{
    if (!n)
        return 0;
    if (n >= NONE)
        return LODGE_ERR_LIMIT;
    if (!reserve(l, n + 1))
        return LODGE_ERR_NOMEM;
    for (size_t i = 0; i <= n; i++)
        l->places[i] = (struct place){0, NONE, NONE, NONE};
    for (uint32_t at = 0; at < n;) {
        uint32_t cp;
        int len = lodge_utf8_decode((const uint8_t *)s + at, n - at, &cp);
        uint32_t end = at + (len > 0 ? (uint32_t)len : 1);
        offer_pieces(t->unigram, l, s, (uint32_t)n, at, end);
        at = end;
    }
    return emit_path(t, l, s, (uint32_t)n, out) ? 0 : LODGE_ERR_NOMEM;
}

int index_unigram(struct lodge_tokenizer *t, const double *scores, const bool *usable, bool single,
                  struct lodge_error *e)
{
    struct unigram *u = lodge_arena_alloc(&t->arena, sizeof *u);
    double *own = lodge_arena_array(&t->arena, t->n_tokens + 1, sizeof *own);
    struct trie_key *keys = malloc(((size_t)t->n_tokens + 1) * sizeof *keys);
    double least = 0;
    uint32_t n = 0;
    bool any = false;
    for (uint32_t i = 0; u && own && keys && i < t->n_tokens; i++) {
        own[i] = scores[i];
        if (usable[i] && (!any || scores[i] < least))
            least = scores[i];
        any |= usable[i];
        /* Text that spells a control token is text. */
        if (usable[i] && t->tokens[i].text.n && !t->tokens[i].special && i != t->unk)
            keys[n++] = (struct trie_key){t->tokens[i].text, i};
    }
    bool ok = u && own && keys && trie_build(&u->trie, &t->arena, keys, n);
    free(keys);
    if (!ok)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
    u->scores = own;
    u->single = single;
    u->unknown_score = least - UNKNOWN_PENALTY;
    t->unigram = u;
    t->fuse_unk = true;
    return 0;
}
