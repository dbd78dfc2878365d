/* The CPU kernel table: one pointer per operation, filled by each instruction-set rung.
 *
 * Private to the CPU backend. `kernels/ref` fills it with plain C, which defines the bits;
 * `kernels/vec`, over the vectors of `kernels/x86` and `kernels/arm`, overwrites entries. Every
 * rung gives the same bits as `ref` in every entry here (checks test equality), so a result does
 * not depend on the rung, the number of rows, tiles or threads. All run with denormals flushed to
 * zero (lodge_cpu_flush_denormals), as the bf16 dot product instructions do by definition.
 *
 * Shapes. A weight matrix (N, K) is cut into panels of 32 rows, the last padded with zero rows;
 * K is padded with zeros to Kp = round_up(K, 32). Activations come in row tiles of m <= mr rows
 * in one of three forms that follows from the weight format:
 *
 *   F32  weights F32, F16      x as it is
 *   BF16 weights BF16, F8_E4M3 x rounded to nearest even bf16
 *   Q8   all formats of blocks (kernels/block.h)   blocks of 32 along K: dx = amax / 127 (fp32),
 *                              qx = rint(x * (127 / amax)) in [-127, 127]; amax 0: dx = 0, qx = 0
 *
 * Arithmetic of one output (fp32, fma = one rounding), in rising k:
 *   F32, F16  acc = fma(w[k], x[k], acc)
 *   BF16      for each pair: acc = fma(w[2i+1], x[2i+1], acc); acc = fma(w[2i], x[2i], acc)
 *   F8_E4M3   for each 128 columns: p as BF16 from 0 over the codes' values / 256, which are bf16
 *             numbers; acc = fma(256 * scale, p, acc)
 *   blocks    for each group of 16 or 32 columns: p = fma(dw, (float)sum(q * qx), 0);
 *             acc = fma(p, dx, acc); with a minimum: acc = fma(-mw, dx * (float)sum(qx), acc)
 *   with the group's exact fp32 scale dw = d * s and minimum mw = m * t, and q the codes' values,
 * as kernels/block.h defines them. The sums are exact in int32.
 *
 * Layouts of panels and tiles belong to the rung, their sizes are bounded by the functions below,
 * so one allocation fits all rungs. Threads: all entries are pure functions of their arguments.
 */
#ifndef LODGE_KERNELS_CPU_KERNELS_H
#define LODGE_KERNELS_CPU_KERNELS_H

#include "kernels/format.h"
#include "kernels/plan.h"
#include "kernels/sample.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LODGE_PANEL_ROWS 32u
#define LODGE_TILE_ROWS_MAX 12u
#define LODGE_PAGE_TOKENS 32u
#define LODGE_RANGE_PAGES 8u   /* attention: tokens of a range = 256 */
#define LODGE_ATTN_QUERIES 12u /* most queries of one attention call */
#define LODGE_RUN_QUERIES 32u  /* and of the kv heads that a worker takes together, if several */
#define LODGE_RUN_HEADS 4u

enum lodge_act_form { LODGE_ACT_F32, LODGE_ACT_BF16, LODGE_ACT_Q8, LODGE_ACT_FORM_COUNT };

/* Form that a weight format multiplies with. */
enum lodge_act_form lodge_act_form(enum lodge_format f);
/* Bytes of a packed activation tile of up to 12 rows, a multiple of 64; layout inside by rung,
 * for m rows contiguous with stride m (no gap up to mr). */
size_t lodge_act_tile_bytes(enum lodge_act_form form, uint32_t n_cols);
/* Bytes of a packed panel, a multiple of 64 (kernels/cpu/panel.h). */
size_t lodge_panel_bytes(enum lodge_format f, uint32_t n_cols);

/* Columns of one scale of F8_E4M3 in panels. */
#define LODGE_SCALE_COLS 128u

/* Stored rows of a panel. */
struct lodge_panel_rows {
    const uint8_t *data[LODGE_PANEL_ROWS]; /* any alignment; NULL: padding */
    const float *scales[LODGE_PANEL_ROWS]; /* F8_E4M3: of the row; others: unused */
    uint32_t scale_cols;                   /* columns of one of them: 128, or all for UINT32_MAX */
};

/* out[i * ld + r] = product of tile row i and panel row r, i < m, r < 32.
 * `next`: memory that will be read soon (may be NULL); the kernel prefetches `next_bytes` of it
 * while it computes. */
typedef void lodge_tile_fn(const void *panel, uint32_t n_cols, const void *tile, unsigned m,
                           float *out, size_t ld, const void *next, size_t next_bytes);

struct lodge_gemm {
    unsigned mr; /* most rows of a tile, <= LODGE_TILE_ROWS_MAX */
    void (*pack)(const struct lodge_panel_rows *rows, uint32_t n_cols, void *panel);
    lodge_tile_fn *tile;
    /* Row r of a panel back to fp32, exactly (embedding lookup in the packed table); F8_E4M3: the
     * code's value times its scale, rounded once. */
    void (*gather)(const void *panel, uint32_t n_cols, uint32_t r, float *out);
    /* For panels that meet many tiles: `widen` unpacks one into lodge_wide_bytes (aligned to 64),
     * and wide_tile multiplies with that, to the same bits as tile. NULL: nothing is won. */
    void (*widen)(const void *panel, uint32_t n_cols, void *wide);
    lodge_tile_fn *wide_tile;
};

/* Bytes of a widened panel of any format, on any rung. */
size_t lodge_wide_bytes(uint32_t n_cols);
/* Tiles from which widening pays. */
#define LODGE_WIDE_TILES 4u

/* Keys and values of one (page, layer, kv head), lodge_kv_head_bytes long, of 32 tokens t and dims
 * d < dim, padded with zeros to a multiple of 16. Keys stand as dot products over dims want them,
 * with tokens as lanes; values as sums over tokens do, with dims as lanes.
 *
 *   bf16  K [dim / 2][32 t][2 d], then V, in each block of dims [16 t pairs][block][2 t]: nearest
 *         even bf16
 *   int8  scales of K [32 t], then of V: bf16; codes of K [dim / 4][32 t][4 d], then of V, in each
 *         block of dims [8 t quads][block][4 t]: signed bytes
 *
 * A block of values is 32 dims, or the 16 that are left: as many as kernels take up at a time, so
 * that they read memory as it stands.
 *
 * Codes, for the key, rotated as below, and for the value of a token, finite: scale = amax / 127
 * rounded up to bf16, code[d] = rint(x[d] * (1 / scale)) in -127 .. 127; amax / 127 below the least
 * normal number: both are 0. Stored once, with the token: what comes later changes neither. (A bf16
 * scale is half of an fp32 one and has the same range; that it is rounded does not matter, as codes
 * are taken by it as it stands.)
 *
 * Rotated: H x in each block of n dims, n the greatest power of two that divides dim, H the
 * Hadamard matrix: for h = 1, 2, 4 .. n / 2, pairs i, i + h with bit h of i clear become (x[i] +
 * x[i + h], x[i] - x[i + h]) in fp32. It spreads the few large dims that keys tend to have over
 * all, so that they do not make the codes of the others coarse. (SmolLM2: 0.017 for 0.029.) Queries
 * are rotated too, which multiplies the dot product by n.
 */

#define LODGE_KV_VALUE_DIMS 32u
/* Dims of the block of values in which dim d of `dim`, padded, stands. */
static inline uint32_t lodge_kv_value_width(uint32_t dim, uint32_t d)
{
    uint32_t left = dim - d / LODGE_KV_VALUE_DIMS * LODGE_KV_VALUE_DIMS;
    return left < LODGE_KV_VALUE_DIMS ? left : LODGE_KV_VALUE_DIMS;
}

/* Where dim d of token t's value stands in V, in elements; `group`: tokens side by side, 2 or 4. */
static inline size_t lodge_kv_value_at(uint32_t dim, uint32_t d, uint32_t t, uint32_t group)
{
    uint32_t in_block = d % LODGE_KV_VALUE_DIMS;
    size_t block = (size_t)(d - in_block) * LODGE_PAGE_TOKENS;
    return block + (t / group * lodge_kv_value_width(dim, d) + in_block) * group + t % group;
}

/* What queries saw so far. */
struct lodge_attn_state {
    float max[12], sum[12];
    float *acc; /* (n_queries, dim), not normalised */
};

/* One attention call: n_queries <= 12 query vectors (of one kv head and one sequence; a query is
 * a (position, head of the group) pair) against pages [from_page, n_pages) of up to 8 of that kv
 * head. The state of each query is (max, a, sum, acc) as below. From page 0 a call starts from an
 * empty state, else it goes on with what calls for the pages before left in `lanes` and `out`.
 *
 * Per page, in order, for each query (all lanes t < 32 of the page at once):
 *   s[t] = chain over pairs of dims as BF16 above (q, in bf16, first operand)
 *   s *= scale (in fp32)
 *   softcap c > 0: s = c * tanh(s / c), tanh(x) = 1 - 2 / (exp(2x) + 1) with exp below
 *   masked lanes (token < first[i] or >= last[i]): -inf; a page without lanes is skipped
 *   pm = max of lanes; if pm > max: r = exp(max - pm), a[j] *= r, acc *= r, max = pm
 *   p[t] = exp(s[t] - max), 0 where masked; a[j] += p[j] + p[j + 16], in 16 lanes
 *   p rounded to bf16; acc[d] = chain over pairs of tokens as BF16 above (p first operand)
 * and in the end sum = tree(a), which a call that goes on does not need.
 *
 * Int8 differs in both products: they are integer sums of the stored codes with 15-bit codes of the
 * queries and of the weights. inverse15(x) = 16383 / x in fp32, or 0 where x < 2^-100.
 *   q rotated; amax = max of |q[d]|;   c[d] = rint(q[d] * inverse15(amax))
 *   s[t] = ((float)sum of c[d] k[t][d] * key scale[t]) * (amax / 16383 / n * scale)
 *   top = max of value scale[t] over the lanes that the query sees
 *   c[t] = rint(p[t] * (value scale[t] * inverse15(top))), 0 where masked
 *   acc[d] = fma((float)sum of c[t] v[t][d], top / 16383, acc[d])
 * The sums are exact in int32: 512 * 16383 * 127 < 2^31. A weight is thus rounded to 1 / 16383 of
 * the greatest in its range, so less than 1 % of a range's weight can be lost. p and sum are as
 * above.
 *
 * tree(a): halves: a[j] + a[j + 8], + 4, + 2, + 1.
 * exp(x): lodge_ref_exp in kernels/ref/math.h.
 * Keys or values of masked lanes may be anything (NaN too): they must not reach acc or sum.
 */
struct lodge_attn_call {
    const uint8_t *q; /* n_queries as lodge_kv_ops.query made them, lodge_kv_query_bytes apart */
    uint32_t n_queries;
    uint32_t dim;            /* padded */
    const uint8_t *pages[8]; /* keys and values of this kv head in each page, as above */
    uint32_t from_page, n_pages;
    const uint8_t *next; /* what the caller reads after these pages, to be fetched; or NULL */
    uint32_t first[12], last[12]; /* token range per query, relative to pages[0]; may be empty */
    float scale, softcap;
    _Alignas(64) float lanes[12][16]; /* a */
    struct lodge_attn_state out;
};

/* Bytes of a query; dim is padded. */
size_t lodge_kv_query_bytes(enum lodge_kv_dtype kv, uint32_t dim);

/* What is done with keys and values of one dtype. */
struct lodge_kv_ops {
    /* A query as this rung's attn wants it: in bf16, or codes with their scale; aligned to 16. */
    void (*query)(const float *q, uint32_t dim, uint8_t *out);
    /* Stores key and value of token t (< 32) of one kv head. */
    void (*store)(uint8_t *kv_head, uint32_t t, const float *k, const float *v, uint32_t dim);
    void (*attn)(struct lodge_attn_call *c);
};

/* Adapters (kernels/adapter.h). Cells on every rung and the reference:
 *
 *   A: 64 lines of 4 columns; element (rank j, column 4l + 2h + i) at ((l * 8 + j) * 2 + h) * 2 + i
 *   B: 8 blocks of 32 outputs, LODGE_LORA_BLOCK_BYTES each; element (rank j, output 32b + 16i + o)
 * at
 *      ((b * 8 + j) * 16 + o) * 2 + i
 *
 * Shrink, t = A x with x in bf16: each rank sums in 8 chains c[q][h], q = line % 4, over the pairs
 * of columns of half h, in rising line, as BF16 above; then s[h] = (c[0][h] + c[1][h]) + (c[2][h] +
 * c[3][h]), t = s[0] + s[1]. Expand: acc = fma(b[j], t[j], acc) in rising j from the offset or 0.
 */
#define LODGE_LORA_ROWS 6u /* most rows of one shrink call */
#define LODGE_LORA_BLOCK_BYTES 512u
#define LODGE_LORA_BLOCKS 32u /* most blocks of one expand call */
#define LODGE_LORA_CELLS 64u  /* most cells of one shrink call */

/* B t of m <= LODGE_TILE_ROWS_MAX rows by 32 outputs, over 8 ranks of each of n blocks; what lies
 * after each block is fetched. With `acc` (row i at acc + i * 32) the sums go on there; without,
 * they begin at 0 and end as y = fma(scale, sum, y) in the first n_cols columns of y. */
struct lodge_lora_expand {
    const uint8_t *const *blocks;
    unsigned n, m;
    const float *t; /* row i at t + i * ldt */
    size_t ldt;
    float *acc;
    float *y;
    size_t ld;
    uint32_t n_cols;
    float scale;
};

/* The state of a shrink: chains[row][granule][q][2 * rank + h]. */
typedef float lodge_lora_chains[LODGE_LORA_ROWS][2][2][16];

struct lodge_cpu_kernels {
    const char *name; /* rung */
    struct lodge_gemm gemm[LODGE_FMT_COUNT];
    /* Packs columns [k0, k1) of m rows (x + i * ld, index 0 = column k0) into a tile whose rows
     * have n_cols columns. k0 is a multiple of 32; k1 is one too, or n_cols, and then the columns
     * up to Kp are filled with zeros. */
    void (*act_pack[LODGE_ACT_FORM_COUNT])(const float *x, size_t ld, unsigned m, uint32_t k0,
                                           uint32_t k1, uint32_t n_cols, void *tile);
    /* out = x * rsqrt(mean(x^2) + eps) * w; w NULL: ones. Sum of squares: 16 lanes
     * l[i % 16] = fma(x[i], x[i], l[i % 16]) in rising i, then tree as in attention from 16 lanes;
     * factor = 1 / sqrt(sum / n + eps) in fp32; out = (x * factor) * w. out may be x. */
    void (*rms_norm)(const float *x, const float *w, uint32_t n, float eps, float *out);
    /* out = ((x - mean) * factor) * w + b, each operation rounded by itself; w NULL: ones, b NULL:
     * nothing is added. Sums in 16 lanes and a tree as above: mean = sum of x / n, factor =
     * 1 / sqrt(sum of (x - mean)^2 by fma / n + eps). out may be x. */
    void (*layer_norm)(const float *x, const float *w, const float *b, uint32_t n, float eps,
                       float *out);
    /* g[i] = act(g[i]) * u[i]; silu(x) = x / (1 + exp(-x)). u NULL: ones. */
    void (*glu)(enum lodge_activation act, float *g, const float *u, size_t n);
    /* x[i ldx + j] += mult * (y[i ldy + j] + b[j]) for i < m, j < n, each operation rounded by
     * itself; b NULL: nothing is added to y. */
    void (*add_block)(float *x, size_t ldx, const float *y, size_t ldy, const float *b, float mult,
                      unsigned m, uint32_t n);
    /* x[i ld + j] = cap(mult * x[i ld + j]) for i < m, j < n; c > 0: cap(s) = c * tanh(s / c) as in
     * attention, else s. */
    void (*cap)(float *x, size_t ld, float mult, float c, unsigned m, uint32_t n);
    /* a' = a c - b s, b' = b c + a s for the pair (i, i + n), each product and sum rounded by
     * itself. */
    void (*rope)(float *head, const float *cos, const float *sin, uint32_t n);
    /* Rounds dim values to bf16 (nearest even), zero-pads to dim_padded. */
    void (*to_bf16)(const float *x, uint32_t dim, uint32_t dim_padded, uint16_t *out);
    struct lodge_kv_ops kv[LODGE_KV_DTYPE_COUNT];
    /* Adds what n queries saw elsewhere to their states, each operation rounded by itself: m =
     * the greater max, a = exp(max - m), b = exp(other's - m); sum = sum a + other's b, acc
     * likewise, max = m. */
    void (*attn_merge)(struct lodge_attn_state *to, const struct lodge_attn_state *other,
                       uint32_t n, uint32_t dim);
    /* What n queries from `first` on saw: out[i * head_dim + j] = acc of query first + i times
     * (1 / sum), 0 for one that saw nothing; acc has rows of `dim`, head_dim padded. */
    void (*attn_end)(const struct lodge_attn_state *s, uint32_t first, uint32_t n, uint32_t dim,
                     uint32_t head_dim, float *out);
    /* Goes on with the chains, or begins them if `first`, over n_lines (even) of the rows of cells
     * of `granules` (1 or 2) times 8 ranks of A; x is row 0's number for the first column, rows ldx
     * apart. */
    void (*lora_shrink)(const uint8_t *const *const cells[2], unsigned granules, uint32_t n_lines,
                        const uint16_t *x, size_t ldx, unsigned m, bool first,
                        lodge_lora_chains chains);
    /* t of 8 ranks a granule, row i at t + i * ldt. */
    void (*lora_sum)(const lodge_lora_chains chains, unsigned granules, unsigned m, float *t,
                     size_t ldt);
    void (*lora_expand)(const struct lodge_lora_expand *e);
    /* gain NULL: y = fma(scale, acc, y), as lora_expand; else y = fma(g, scale * acc, fma(g - 1,
     * base, y)), where base (stride 32, as acc) holds W x. For i < m, j < n <= 32. */
    void (*lora_add)(float *y, size_t ld, const float *acc, const float *base, const float *gain,
                     float scale, unsigned m, uint32_t n);
    struct lodge_row_ops row; /* over logits */
};

/* Name of rung i of all that Lodge knows, better ones of an architecture later; NULL behind the
 * last. */
const char *lodge_cpu_rung_name(unsigned i);

/* Fills the table for a rung by name, or NULL for the best that the CPU and the operating system
 * allow. RESOURCE names what is missing; INVALID lists the known rungs. */
int lodge_cpu_kernels_init(struct lodge_cpu_kernels *k, const char *rung, struct lodge_error *e);

/* The rungs' own fill functions; each overwrites what it has. Call only on a CPU that has it. */
void lodge_kernels_fill_ref(struct lodge_cpu_kernels *k);
void lodge_kernels_fill_avx2(struct lodge_cpu_kernels *k);
void lodge_kernels_fill_avx2_vnni(struct lodge_cpu_kernels *k);
void lodge_kernels_fill_avx512_vnni(struct lodge_cpu_kernels *k);
void lodge_kernels_fill_avx512(struct lodge_cpu_kernels *k);
void lodge_kernels_fill_neon_dotprod(struct lodge_cpu_kernels *k);
void lodge_kernels_fill_neon_i8mm(struct lodge_cpu_kernels *k);

/* Flush-to-zero and denormals-are-zero for the calling thread; returns the former state. */
unsigned lodge_cpu_flush_denormals(void);
void lodge_cpu_restore_denormals(unsigned state);

#endif
