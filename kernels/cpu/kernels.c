#include "kernels/cpu/kernels.h"

#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

static size_t padded(uint32_t n)
{
    return ((size_t)n + 31) / 32 * 32;
}

enum lodge_act_form lodge_act_form(enum lodge_format f)
{
    return f <= LODGE_FMT_F16                              ? LODGE_ACT_F32
           : f == LODGE_FMT_BF16 || f == LODGE_FMT_F8_E4M3 ? LODGE_ACT_BF16
                                                           : LODGE_ACT_Q8;
}

size_t lodge_act_tile_bytes(enum lodge_act_form form, uint32_t n_cols)
{
    size_t kp = padded(n_cols);
    /* Q8: what belongs to a block, scale and sums, takes no more room than its codes. */
    size_t row = form == LODGE_ACT_Q8 ? kp / 32 * 64 : kp * 4;
    return row * LODGE_TILE_ROWS_MAX;
}

/* Most for bf16 numbers with a scale per 128 columns. */
size_t lodge_wide_bytes(uint32_t n_cols)
{
    size_t kp = padded(n_cols);
    return LODGE_PANEL_ROWS * (kp * 2 + (kp + LODGE_SCALE_COLS - 1) / LODGE_SCALE_COLS * 4);
}

size_t lodge_kv_query_bytes(enum lodge_kv_dtype kv, uint32_t dim)
{
    return dim * sizeof(uint16_t) + (kv == LODGE_KV_INT8 ? 16 : 0);
}

#if defined(__x86_64__)

unsigned lodge_cpu_flush_denormals(void)
{
    unsigned old = _mm_getcsr();
    _mm_setcsr(old | 0x8040u); /* FTZ and DAZ */
    return old;
}

void lodge_cpu_restore_denormals(unsigned state)
{
    _mm_setcsr(state);
}

#ifdef LODGE_HAVE_X86_RUNGS
struct features {
    bool avx2, avx2_vnni, avx512_vnni, avx512;
};

static uint64_t enabled_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* What both the CPU and the operating system allow. */
static struct features detect(void)
{
    struct features f = {0};
    uint32_t a, b, c, d, b7, c7, d7, a71 = 0, skip;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) ||
        !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return f;
    __get_cpuid_count(7, 1, &a71, &skip, &skip, &skip);
    uint64_t state = enabled_state();
    f.avx2 = (state & 6) == 6 && (c & bit_FMA) && (c & bit_F16C) && (b7 & bit_AVX2);
    f.avx512_vnni = f.avx2 && (state & 0xE6) == 0xE6 && (b7 & bit_AVX512F) && (b7 & bit_AVX512BW) &&
                    (b7 & bit_AVX512VL) && (b7 & bit_AVX512DQ) && (c7 & bit_AVX512VNNI);
    f.avx512 = f.avx512_vnni && (a71 & (1u << 5)); /* BF16 */
#ifdef LODGE_EVEX
    f.avx2_vnni = f.avx512_vnni;
#else
    f.avx2_vnni = f.avx2 && (a71 & (1u << 4)); /* AVX-VNNI */
#endif
    return f;
}
#endif

#elif defined(__aarch64__)

#define FLUSH_TO_ZERO (1u << 24) /* of FPCR: operands and results */

static unsigned set_fpcr(uint64_t value)
{
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(value));
    return (unsigned)old;
}

unsigned lodge_cpu_flush_denormals(void)
{
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    return set_fpcr(old | FLUSH_TO_ZERO);
}

void lodge_cpu_restore_denormals(unsigned state)
{
    set_fpcr(state);
}

#else

unsigned lodge_cpu_flush_denormals(void)
{
    return 0;
}

void lodge_cpu_restore_denormals(unsigned state)
{
    (void)state;
}

#endif

/* ---- rungs ---- */

struct rung {
    const char *name;
    void (*fill)(struct lodge_cpu_kernels *);
    bool there;
};

enum { REF, AVX2, AVX2_VNNI, AVX512_VNNI, AVX512, NEON_DOTPROD, NEON_I8MM, N_RUNGS };

static const char *const names[N_RUNGS] = {"ref",    "avx2",         "avx2-vnni", "avx512-vnni",
                                           "avx512", "neon-dotprod", "neon-i8mm"};

/* All known rungs, better ones later. */
static void list_rungs(struct rung out[N_RUNGS])
{
    for (int i = 0; i < N_RUNGS; i++)
        out[i] = (struct rung){.name = names[i]};
    out[REF] = (struct rung){names[REF], lodge_kernels_fill_ref, true};
#ifdef LODGE_HAVE_X86_RUNGS
    struct features f = detect();
    out[AVX2] = (struct rung){names[AVX2], lodge_kernels_fill_avx2, f.avx2};
    out[AVX2_VNNI] = (struct rung){names[AVX2_VNNI], lodge_kernels_fill_avx2_vnni, f.avx2_vnni};
    out[AVX512_VNNI] =
        (struct rung){names[AVX512_VNNI], lodge_kernels_fill_avx512_vnni, f.avx512_vnni};
    out[AVX512] = (struct rung){names[AVX512], lodge_kernels_fill_avx512, f.avx512};
#endif
#ifdef LODGE_HAVE_ARM_RUNGS
    const bool dotprod = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    const unsigned long i8mm = HWCAP2_I8MM | HWCAP2_BF16;
    out[NEON_DOTPROD] =
        (struct rung){names[NEON_DOTPROD], lodge_kernels_fill_neon_dotprod, dotprod};
    out[NEON_I8MM] = (struct rung){names[NEON_I8MM], lodge_kernels_fill_neon_i8mm,
                                   dotprod && (getauxval(AT_HWCAP2) & i8mm) == i8mm};
#endif
}

const char *lodge_cpu_rung_name(unsigned i)
{
    return i < N_RUNGS ? names[i] : NULL;
}

static int unknown_rung(const char *rung, struct lodge_error *e)
{
    char known[200] = "";
    for (int i = 0; i < N_RUNGS; i++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 names[i]);
    return lodge_fail(e, LODGE_ERR_INVALID, "unknown instruction-set level '%s'; known: %s", rung,
                      known);
}

int lodge_cpu_kernels_init(struct lodge_cpu_kernels *k, const char *rung, struct lodge_error *e)
{
    struct rung rungs[N_RUNGS];
    int want = N_RUNGS;
    list_rungs(rungs);
    for (int i = 0; i < N_RUNGS; i++)
        if (rung ? strcmp(rungs[i].name, rung) == 0 : rungs[i].there)
            want = i;
    if (want == N_RUNGS)
        return unknown_rung(rung, e);
    if (!rungs[want].there)
        return lodge_fail(e, LODGE_ERR_RESOURCE,
                          "this CPU or build does not have the instruction-set level '%s'; leave "
                          "--cpu-isa out to use the best there is",
                          rung);
    /* The reference first: a rung overwrites what it has. */
    *k = (struct lodge_cpu_kernels){0};
    lodge_kernels_fill_ref(k);
    rungs[want].fill(k);
    return 0;
}
