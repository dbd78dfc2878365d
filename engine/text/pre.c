/* Pre-tokenizers by the names of GGUF's tokenizer.ggml.pre. A name stands for the normaliser and
 * patterns of the tokenizer.json of the models that carry it. Names whose patterns are not known
 * for certain are not here. Sources: the names as llama.cpp's loader defines them; the patterns as
 * the models' tokenizer files and transformers' tokenizer classes give them. */
#include "engine/text/internal.h"

#include <string.h>
#include <utf8proc.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(tail)                                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" tail "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER    \
    "*" tail

const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* The word patterns: letters, digits by `digits`, signs. */
#define WORDS(digits)                                                                              \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| "                                     \
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES
#define LLAMA3 WORDS("\\p{N}{1,3}")
#define QWEN2 WORDS("\\p{N}")
#define QWEN35                                                                                     \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"                                  \
                 " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES
#define TEKKEN CASED("") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define GPT4O CASED(CONTRACTIONS "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define SEED_CODER                                                                                 \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES
#define BAILING                                                                                    \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" \
    "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
/* No bracket, bar, blank or punctuation of several scripts. */
#define BLOOM " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
#define HAN_KANA "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
#define HAN_HANGUL "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
/* Letters with case, as a version of Unicode before the models' time had them. */
#define OLD_CASED                                                                                  \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}"                 \
    "\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}"         \
    "\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}"                  \
    "\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}"                       \
    "\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}"                 \
    "\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}"                 \
    "\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}"        \
    "\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}"         \
    "\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}"                 \
    "\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"                  \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}"                   \
    "\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}"        \
    "\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}"         \
    "\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}"                  \
    "\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}"                 \
    "\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}"               \
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"         \
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
#define OLD_SIGNS                                                                                  \
    "!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}"
#define DEEPSEEK3                                                                                  \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"                                       \
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES

#define MOST_PATTERNS 6

static const struct pre {
    const char *names[8];
    const char *patterns[MOST_PATTERNS]; /* one split after another */
    bool digits;                         /* each digit cut out first */
    bool nfc;
    bool ignore_merges;
    bool add_bos;
} pres[] = {
    {{"llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2", "pixtral"},
     {LLAMA3},
     .ignore_merges = true,
     .add_bos = true},
    {{"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"}, {LLAMA3}},
    {{"qwen2", "qwen25", "deepseek-r1-qwen", "megrez"}, {QWEN2}, .nfc = true},
    {{"grok-2"}, {QWEN2}},
    {{"qwen35"}, {QWEN35}, .nfc = true},
    {{"smollm", "starcoder", "refact"}, {gpt2_pattern}, .digits = true},
    {{"command-r"}, {gpt2_pattern}, .digits = true, .nfc = true},
    {{"gpt-2", "gpt2", "phi-2", "roberta-bpe"}, {gpt2_pattern}},
    {{"olmo", "mpt"}, {gpt2_pattern}, .nfc = true},
    {{"tekken"}, {TEKKEN}, .ignore_merges = true, .add_bos = true},
    {{"gpt-4o", "llama4"}, {GPT4O}},
    {{"seed-coder"}, {SEED_CODER}},
    {{"bailingmoe", "bailingmoe2", "llada-moe"}, {BAILING}},
    {{"bloom", "poro-chat", "gpt3-finnish"}, {BLOOM}},
    {{"viking"}, {BLOOM, "\\p{N}"}},
    {{"minicpm5"}, {"\\p{N}{1,3}", WORDS("\\p{N}+")}, .ignore_merges = true},
    {{"deepseek-llm"},
     {"[\\r\\n]", "\\s?[" OLD_CASED "]+", "\\s?[" OLD_SIGNS "]+", "\\s+$", HAN_HANGUL, "\\p{N}"}},
    {{"deepseek-coder"}, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", HAN_HANGUL, "\\p{N}"}},
    {{"deepseek-v3", "hunyuan-dense", "joyai-llm"}, {"\\p{N}{1,3}", HAN_KANA, DEEPSEEK3}},
};

static const struct pre *find_pre(const char *name)
{
    for (size_t i = 0; name && i < sizeof pres / sizeof *pres; i++)
        for (int k = 0; k < 8 && pres[i].names[k]; k++)
            if (strcmp(pres[i].names[k], name) == 0)
                return &pres[i];
    return NULL;
}

static int refuse(const char *name, struct lodge_error *e)
{
    char known[600];
    size_t n = 0;
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++)
        for (int k = 0; k < 8 && pres[i].names[k]; k++) {
            size_t len = strlen(pres[i].names[k]);
            if (n + len + 3 > sizeof known)
                break;
            memcpy(known + n, pres[i].names[k], len);
            memcpy(known + n + len, ", ", 2);
            n += len + 2;
        }
    return lodge_fail(
        e, LODGE_ERR_UNSUPPORTED,
        "the GGUF pre-tokenizer '%.60s' is not known, and guessing would garble text; "
        "a Hugging Face directory of this model carries the pattern itself. Known: "
        "%.*s",
        name ? name : "(none)", (int)(n - 2), known);
}

static struct split_step *add_step(struct lodge_tokenizer *t, enum split_kind kind)
{
    struct split_step *s = &t->splits[t->n_splits++];
    *s = (struct split_step){.kind = kind, .behavior = BEHAVIOR_ISOLATED, .arg = 1};
    return s;
}

int set_pre_tokenizer(struct lodge_tokenizer *t, const char *name, bool *add_bos,
                      struct lodge_error *e)
{
    const struct pre *pre = find_pre(name);
    int err = 0;
    if (!pre)
        return refuse(name, e);
    t->ignore_merges = pre->ignore_merges;
    *add_bos = pre->add_bos;
    if (pre->nfc)
        t->norms[t->n_norms++] =
            (struct norm_step){.kind = NORM_UNICODE, .arg = UTF8PROC_STABLE | UTF8PROC_COMPOSE};
    if (pre->digits)
        add_step(t, SPLIT_DIGITS);
    for (int i = 0; i < MOST_PATTERNS && pre->patterns[i] && !err; i++)
        err = compile_regex(pre->patterns[i], strlen(pre->patterns[i]),
                            &add_step(t, SPLIT_REGEX)->regex, e);
    return err;
}
