/* Model files that lie: mutations of the tiny models of tests/data/models, each refused with an
 * error that names the file, what is wrong with it, and (the words of the table) what or where.
 * Besides the table, every file is cut at many places and hit by random bytes: it opens or is
 * refused, and nothing else (run under AddressSanitizer, that is the point). */
#include "base/file.h"
#include "base/span.h"
#include "engine/engine.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *data_dir;

#define GGUF "pairs-q8_0.gguf"
#define FP8 "../types/fp8-block"
/* Its entry in the tensor table: name, two dimensions of 64 and 32, then the type. */
#define ATTN_K "blk.0.attn_k.weight\2\0\0\0"
#define EMBED                                                                                      \
    "token_embd.weight\2\0\0\0\x40\0\0\0\0\0\0\0\3\1\0\0\0\0\0\0\10\0\0\0" /* offset follows */
#define ATTN_DIMS "\x40\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0"

struct bytes {
    char *p;
    size_t n;
};

/* ---- a private copy of a model ---- */

struct copy {
    char dir[64];
    char path[128]; /* what is opened */
};

static struct bytes read_file(const char *dir, const char *name)
{
    struct bytes b = {0};
    struct lodge_error e = {0};
    char *path = lodge_path_join(dir, name);
    ck_assert_msg(!lodge_file_read(path, 1 << 20, &b.p, &b.n, &e), "%s", e.text);
    free(path);
    return b;
}

static void write_file(const char *dir, const char *name, const char *p, size_t n)
{
    char *path = lodge_path_join(dir, name);
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(p, 1, n, f) == n && fclose(f) == 0);
    free(path);
}

static void each_file(const char *dir, const char *to)
{
    DIR *d = opendir(dir);
    ck_assert_ptr_nonnull(d);
    for (struct dirent *f; (f = readdir(d));) {
        if (f->d_name[0] == '.')
            continue;
        if (to) {
            struct bytes b = read_file(dir, f->d_name);
            write_file(to, f->d_name, b.p, b.n);
            free(b.p);
        } else {
            char *path = lodge_path_join(dir, f->d_name);
            unlink(path);
            free(path);
        }
    }
    closedir(d);
}

/* model: a .gguf file or a directory of data_dir. */
static void copy_model(const char *model, struct copy *c)
{
    snprintf(c->dir, sizeof c->dir, "/tmp/lodge-bad-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(c->dir));
    char *from = lodge_path_join(data_dir, model);
    if (lodge_dir_exists(from)) {
        each_file(from, c->dir);
        snprintf(c->path, sizeof c->path, "%s", c->dir);
    } else {
        struct bytes b = read_file(data_dir, model);
        write_file(c->dir, model, b.p, b.n);
        snprintf(c->path, sizeof c->path, "%s/%s", c->dir, model);
        free(b.p);
    }
    free(from);
}

static void remove_copy(struct copy *c)
{
    each_file(c->dir, NULL);
    rmdir(c->dir);
}

/* Opens model and text side through the engine. */
static int open_model(const char *path, struct lodge_error *e)
{
    struct lodge_engine_config cfg = {.model_path = path,
                                      .cpu_isa = "ref",
                                      .n_threads = 1,
                                      .max_seqs = 1,
                                      .max_step_tokens = 32,
                                      .pool_bytes = 1 << 20};
    struct lodge_engine *en = NULL;
    *e = (struct lodge_error){0};
    int err = lodge_engine_open(&cfg, &en, e);
    if (!err)
        lodge_engine_close(en);
    return err;
}

/* ---- mutations ---- */

#define S(text)                                                                                    \
    {                                                                                              \
        text, sizeof text - 1                                                                      \
    } /* may hold zero bytes */

/* Replaces the first `from` of the file by `to`; without `from` the whole file; without both the
 * file goes. */
struct edit {
    const char *file;
    struct lodge_span from, to;
};

static void apply(const char *dir, const struct edit *edit)
{
    if (!edit->from.data) {
        char *path = lodge_path_join(dir, edit->file);
        unlink(path);
        free(path);
        if (edit->to.data)
            write_file(dir, edit->file, edit->to.data, edit->to.n);
        return;
    }
    struct bytes b = read_file(dir, edit->file);
    char *at = memmem(b.p, b.n, edit->from.data, edit->from.n);
    ck_assert_msg(at != NULL, "'%s' is not in %s", edit->from.data, edit->file);
    size_t head = (size_t)(at - b.p), tail = b.n - head - edit->from.n;
    char *out = malloc(head + edit->to.n + tail);
    memcpy(out, b.p, head);
    memcpy(out + head, edit->to.data, edit->to.n);
    memcpy(out + head + edit->to.n, at + edit->from.n, tail);
    write_file(dir, edit->file, out, head + edit->to.n + tail);
    free(out);
    free(b.p);
}

static const struct {
    const char *model;
    struct edit edit;
    const char *words[3]; /* of the error, besides the path */
    struct edit also;     /* a second edit, or none */
} cases[] = {
    {"llama2-f32", {"config.json", {NULL, 0}, {NULL, 0}}, {"config.json", "directory"}},
    {"llama2-f32", {"config.json", {NULL, 0}, S("{")}, {"invalid JSON", "line"}},
    {"llama2-f32", {"config.json", {NULL, 0}, S("[]")}, {"JSON object", ""}},
    {"llama2-f32",
     {"config.json", S("LlamaForCausalLM"), S("PoemForCausalLM")},
     {"PoemForCausalLM", "LlamaForCausalLM"}},
    {"llama2-f32", {"config.json", S("\"silu\""), S("\"sine\"")}, {"activation 'sine'", ""}},
    {"llama2-f32",
     {"config.json", S("\"hidden_size\": 36"), S("\"hidden_size\": 37")},
     {"model.embed_tokens.weight", "expected"}},
    {"llama2-f32",
     {"config.json", S("\"hidden_size\": 36"), S("\"hidden_size\": -1")},
     {"hidden_size", ""}},
    {"llama2-f32",
     {"config.json", S("\"hidden_size\": 36"), S("\"hidden_size\": 1e99")},
     {"hidden_size", ""}},
    {"llama2-f32",
     {"config.json", S("\"hidden_size\": 36"), S("\"hidden_size\": \"big\"")},
     {"hidden_size", ""}},
    {"llama2-f32",
     {"config.json", S("\"num_hidden_layers\": 2"), S("\"num_hidden_layers\": 2000000000")},
     {"layers", ""}},
    {"llama2-f32",
     {"config.json", S("\"num_hidden_layers\": 2"), S("\"num_hidden_layers\": 3")},
     {"model.layers.2.", "missing"}},
    {"llama2-f32",
     {"config.json", S("\"num_key_value_heads\": 3"), S("\"num_key_value_heads\": 2")},
     {"heads", "2"}},
    {"llama2-f32",
     {"config.json", S("\"num_attention_heads\": 3"), S("\"num_attention_heads\": 0")},
     {"heads", ""}},
    {"llama2-f32",
     {"config.json", S("\"rope_theta\": 10000.0"), S("\"rope_theta\": 0")},
     {"theta", ""}},
    {"llama2-f32",
     {"config.json", S("\"rms_norm_eps\": 1e-06"), S("\"rms_norm_eps\": -3")},
     {"epsilon", ""}},
    {"llama2-f32",
     {"config.json", S("\"vocab_size\": 259"),
      S("\"vocab_size\": 259, \"quantization_config\": "
        "{\"quant_method\": \"awq\"}")},
     {"awq", "GGUF"}},
    {"llama2-f32",
     {"config.json", S("\"vocab_size\": 259"),
      S("\"vocab_size\": 259, \"rope_scaling\": "
        "{\"rope_type\": \"wavy\"}")},
     {"wavy", ""}},
    {"llama2-f32",
     {"config.json", S("\"vocab_size\": 259"),
      S("\"vocab_size\": 259, \"rope_scaling\": "
        "{\"rope_type\": \"linear\"}")},
     {"factor", ""}},
    {"llama2-f32",
     {"config.json", S("\"vocab_size\": 259"), S("\"vocab_size\": 259, \"layer_types\": [1]")},
     {"layer_types", "2"}},
    {"llama2-f32", {"tokenizer.json", {NULL, 0}, {NULL, 0}}, {"tokenizer.json", "copy it"}},
    {"llama2-f32", {"tokenizer.json", {NULL, 0}, S("{}")}, {"tokenizer.json", "vocabulary"}},
    {"llama2-f32",
     {"tokenizer.json", S("\"ByteLevel\""), S("\"ByteLeaf\"")},
     {"ByteLeaf", "pre-tokenizer"}},
    {"llama2-f32",
     {"tokenizer.json", S("\"BPE\""), S("\"WordLevel\"")},
     {"WordLevel", "tokenizer model"}},
    {"llama2-f32",
     {"tokenizer.json", S("\"merges\":[]"), S("\"merges\":[\"a xyzzy\"]")},
     {"merge 0", "vocabulary"}},
    {"llama2-f32", {"tokenizer.json", S("\"id\":256"), S("\"id\":-5")}, {"id", ""}},
    {"llama2-f32", {"tokenizer.json", S("\"id\":256"), S("\"id\":999999999999")}, {"id", ""}},
    {"llama2-f32", {"model.safetensors", {NULL, 0}, {NULL, 0}}, {"model.safetensors", "fetch"}},
    {"llama2-f32", {"model.safetensors", {NULL, 0}, S("")}, {"safetensors", "truncated"}},
    {"llama2-f32",
     {"model.safetensors", S("model.norm.weight"), S("model.nrom.weight")},
     {"model.norm.weight", "missing"}},
    {"llama2-f32",
     {"model.safetensors", S("\"dtype\":\"F32\""), S("\"dtype\":\"I32\"")},
     {"weight type I32", "Q5_K"}},
    {"llama2-f32",
     {"model.safetensors", S("\"dtype\":\"F32\""), S("\"dtype\":\"F23\"")},
     {"dtype", ""}},
    {"llama2-f32",
     {"model.safetensors", S("\"shape\":[259,36]"), S("\"shape\":[258,36]")},
     {"bytes", "shape"}},
    {"llama2-f32",
     {"model.safetensors", S("\"shape\":[259,36]"), S("\"shape\":[36,259]")},
     {"[36, 259]", "expected"}},
    {"llama2-f32",
     {"model.safetensors", S("\"data_offsets\":[0,"), S("\"data_offsets\":[4,")},
     {"bytes", ""}},
    {"llama2-f32",
     {"model.safetensors", S("\"data_offsets\":[0,3"), S("\"data_offsets\":[0,9")},
     {"bytes", "shape"}},
    {"llama3-f16",
     {"model.safetensors.index.json", S("model-00001-of"), S("../../01-of")},
     {"file name", ""}},
    {"llama3-f16",
     {"model.safetensors.index.json", S("model-00001-of"), S("model-00009-of")},
     {"model-00009", "cannot open"}},
    {"llama3-f16",
     {"model.safetensors.index.json", S("\"weight_map\""), S("\"weight_mop\"")},
     {"weight_map", ""}},
    {"llama3-f16",
     {"model.safetensors.index.json", S("\"model.norm.weight\""), S("\"model.norm.wait\"")},
     {"model.norm.wait", "index"}},
    {GGUF, {GGUF, {NULL, 0}, S("")}, {"GGUF", "truncated"}},
    {GGUF, {GGUF, S("GGUF"), S("GGML")}, {"not a GGUF file", ""}},
    {GGUF, {GGUF, S("GGUF\3"), S("GGUF\1")}, {"version 1", "convert"}},
    {GGUF, {GGUF, S("GGUF\3"), S("GGUF\7")}, {"version 7", ""}},
    {GGUF,
     {GGUF, S("general.architecture"), S("general.architectura")},
     {"architecture", "convert"}},
    {GGUF, {GGUF, S("llama.embedding_length"), S("llama.embedding_lengtn")}, {"hidden size", ""}},
    {GGUF,
     {GGUF, S("tokenizer.ggml.tokens"), S("tokenizer.ggml.tokenz")},
     {"tokenizer", "convert"}},
    {GGUF, {GGUF, S("gpt-2"), S("gpt-9")}, {"gpt-9", "pre-tokenizer"}},
    {GGUF, {GGUF, S("gpt2"), S("bert")}, {"bert", "tokenizer model"}},
    {GGUF,
     {GGUF, S("blk.1.ffn_up.weight"), S("blk.1.ffn_op.weight")},
     {"blk.1.ffn_up.weight", "missing"}},
    {GGUF,
     {GGUF, S("blk.1.ffn_up.weight"), S("blk.0.ffn_up.weight")},
     {"blk.0.ffn_up.weight", "twice"}},
    /* counts, lengths, types and offsets */
    {GGUF, {GGUF, S("GGUF\3\0\0\0\25"), S("GGUF\3\0\0\0\26")}, {"GGUF", ""}},
    {GGUF, {GGUF, S("GGUF\3\0\0\0\25"), S("GGUF\3\0\0\0\24")}, {"padding", "count"}},
    {GGUF, {GGUF, S("GGUF\3\0\0\0\25\0\0\0"), S("GGUF\3\0\0\0\25\0\0\x7f")}, {"tensors", "size"}},
    {GGUF,
     {GGUF, S("\24\0\0\0\0\0\0\0general.arch"), S("\24\0\0\0\0\0\0\x40general.arch")},
     {"metadata key", "bytes"}},
    {GGUF,
     {GGUF, S("general.architecture\10"), S("general.architecture\77")},
     {"unknown type", ""}},
    {GGUF, {GGUF, S("general.architecture\10"), S("general.architecture\4")}, {"", ""}},
    {GGUF, {GGUF, S("\5\0\0\0\0\0\0\0llama"), S("\5\0\0\0\0\0\0\0krill")}, {"krill", "llama"}},
    {GGUF,
     {GGUF, S("llama.block_count\4\0\0\0\2"), S("llama.block_count\4\0\0\0\3")},
     {"blk.2.", "missing"}},
    {GGUF,
     {GGUF, S("llama.block_count\4\0\0\0\2\0\0\0"), S("llama.block_count\4\0\0\0\2\0\0\x70")},
     {"layers", ""}},
    {GGUF,
     {GGUF, S("llama.block_count\4\0\0\0\2"), S("llama.block_count\6\0\0\0\2")},
     {"block_count", "integer"}},
    {GGUF, {GGUF, S("head_count_kv\4\0\0\0\2"), S("head_count_kv\4\0\0\0\3")}, {"heads", "3"}},
    {GGUF,
     {GGUF, S("output_norm.weight\1\0\0\0\x40"), S("output_norm.weight\1\0\0\0\x3f")},
     {"", ""}},
    {GGUF,
     {GGUF, S("output_norm.weight\1\0\0\0"), S("output_norm.weight\5\0\0\0")},
     {"dimensions", "1 to 4"}},
    {GGUF,
     {GGUF, S("output_norm.weight\1\0\0\0"), S("output_norm.weight\0\0\0\0")},
     {"dimensions", "1 to 4"}},
    {GGUF, {GGUF, S(ATTN_K "\x40"), S(ATTN_K "\x20")}, {"", ""}},
    {GGUF,
     {GGUF, S(ATTN_K "\x40\0\0\0\0\0\0\0"), S(ATTN_K "\x40\0\0\0\0\0\0\x70")},
     {"attn_k", "elements"}},
    {GGUF, {GGUF, S(ATTN_K ATTN_DIMS "\10"), S(ATTN_K ATTN_DIMS "\14")}, {"attn_k", "Q4_K"}},
    {GGUF,
     {GGUF, S(ATTN_K ATTN_DIMS "\10"), S(ATTN_K ATTN_DIMS "\4")},
     {"attn_k", "weight type 4"}},
    {GGUF,
     {GGUF, S(ATTN_K ATTN_DIMS "\10"), S(ATTN_K ATTN_DIMS "\x7f")},
     {"weight type 127", "convert"}},
    {GGUF, {GGUF, S(EMBED "\0"), S(EMBED "\x20")}, {"token_embd", "offset 32"}},
    /* what no family here does: named, not passed over */
    {"llama2-f32",
     {"config.json", S("\"LlamaForCausalLM\"\n ]"), S("\"PoemForCausalLM\"\n ], \"rhyme\": 2")},
     {"PoemForCausalLM", "not understood of the configuration: rhyme", "'model.nrom.weight'"},
     {"model.safetensors", S("model.norm.weight"), S("model.nrom.weight")}},
    {"gemma3vision-bf16",
     {"config.json", S("gemma3_text"), S("gemma9_text")},
     {"Gemma3ForOtherGeneration", "Gemma3ForCausalLM"},
     {"config.json", S("Gemma3ForConditionalGeneration"), S("Gemma3ForOtherGeneration")}},
    {GGUF,
     {GGUF, S("\5\0\0\0\0\0\0\0llama"), S("\5\0\0\0\0\0\0\0krill")},
     {"krill", "olmo2", "'blk.1.ffn_op.weight'"},
     {GGUF, S("blk.1.ffn_up.weight"), S("blk.1.ffn_op.weight")}},
    {"llama2-f32",
     {"config.json", S("\"vocab_size\""), S("\"num_local_experts\": 8, \"vocab_size\"")},
     {"num_local_experts", "is 8"}},
    {"llama2-f32",
     {"config.json", S("\"vocab_size\""), S("\"attention_multiplier\": 0.5, \"vocab_size\"")},
     {"attention_multiplier", "0.5", "llama"}},
    {"qwen3-f16",
     {"config.json", S("\"vocab_size\""), S("\"query_pre_attn_scalar\": 9, \"vocab_size\"")},
     {"query_pre_attn_scalar", "qwen3"}},
    {"qwen2-bf16",
     {"config.json", S("\"vocab_size\""), S("\"mlp_bias\": true, \"vocab_size\"")},
     {"mlp_bias", "qwen2"}},
    {"gemma3-bf16",
     {"config.json", S("\"vocab_size\""), S("\"attn_logit_softcapping\": 5, \"vocab_size\"")},
     {"attn_logit_softcapping", "gemma3"}},
    {"gemma2-bf16",
     {"config.json", S("\"vocab_size\""),
      S("\"use_bidirectional_attention\": true, \"vocab_size\"")},
     {"use_bidirectional_attention", "gemma2"}},
    {"gemma2-bf16",
     {"config.json", S("\"query_pre_attn_scalar\": 10"), S("\"query_pre_attn_scalar\": -10")},
     {"query scalar", "-10"}},
    {"gemma3vision-bf16",
     {"config.json", S("sliding_attention\","), S("chunked_attention\",")},
     {"layer_types", "chunked_attention"}},
    {"gemma3vision-bf16",
     {"config.json", S("\"rope_theta\": 500.0"), S("\"rope_theta\": -500.0")},
     {"theta", "-500"}},
    {"phi3-f16",
     {"config.json", S("\"partial_rotary_factor\": 0.75"), S("\"partial_rotary_factor\": 0.7")},
     {"short_factor", "list of 5"}},
    {"phi3-f16",
     {"config.json", S("\"num_key_value_heads\": 1"), S("\"num_key_value_heads\": 2")},
     {"qkv_proj", "[64, 32]", "expected [96, 32]"}},
    {"granite-f16",
     {"config.json", S("\"logits_scaling\": 0.6"), S("\"logits_scaling\": 0")},
     {"logits", "positive"}},
    /* weights that the configuration says nothing of */
    {"biased-f32",
     {"config.json", S("\"attention_bias\": true"), S("\"attention_bias\": false")},
     {"llama", "have no tensors", "self_attn.k_proj.bias"}},
    {"starcoder2-f16",
     {"config.json", S("\"use_bias\": true"), S("\"use_bias\": false")},
     {"starcoder2", "mlp.c_fc.bias"}},
    {"olmo2-bf16",
     {"config.json", S("\"num_hidden_layers\": 2"), S("\"num_hidden_layers\": 1")},
     {"model.layers.1.", "more"}},
    {"gemma2-bf16",
     {"model.safetensors", S("0.post_feedforward_layernorm"), S("0.post_feedforward_layermorn")},
     {"layers.0.post_feedforward_layernorm.weight", "missing"}},
    {"granite-f16.gguf",
     {"granite-f16.gguf", S("granite.logit_scale\6\0\0\0\x9a\x99\x19\x3f"),
      S("granite.logit_scale\6\0\0\0\0\0\0\0")},
     {"logits", "positive"}},
    {"granite-f16.gguf",
     {"granite-f16.gguf", S("\7\0\0\0\0\0\0\0granite"), S("\7\0\0\0\0\0\0\0granole")},
     {"granole", "granite"}},
    {"phi3gguf-q8_0.gguf",
     {"phi3gguf-q8_0.gguf", S("\4\0\0\0\0\0\0\0phi3"), S("\4\0\0\0\0\0\0\0phi9")},
     {"phi9", "not understood of the metadata: block_numbr"},
     {"phi3gguf-q8_0.gguf", S("\20\0\0\0\0\0\0\0phi3.block_count"),
      S("\20\0\0\0\0\0\0\0phi9.block_numbr")}},
    {"phi3gguf-q8_0.gguf",
     {"phi3gguf-q8_0.gguf", S("rope_factors_long.weight"), S("rope_factors_lung.weight")},
     {"rope_factors_long", "rope_factors_short"}},
    {"phi3gguf-q8_0.gguf",
     {"phi3gguf-q8_0.gguf", S("blk.1.attn_qkv.weight"), S("blk.1.attn_qvk.weight")},
     {"blk.1.attn_qkv.weight", "missing"}},
    {"gemma2gguf-f16.gguf",
     {"gemma2gguf-f16.gguf", S("gemma2.attn_logit_softcapping\6\0\0\0\0\0\xa0\x3f"),
      S("gemma2.attn_logit_softcapping\6\0\0\0\0\0\xc0\x7f")},
     {"attn_logit_softcapping", "finite"}},
    {FP8, {"config.json", S("128,\n   128"), S("128,\n   64")}, {"'fp8'", "[128, 128]"}},
    {FP8, {"config.json", S("\"fp8\","), S("\"fp8\", \"fmt\": \"e5m2\",")}, {"'fp8'", "e4m3"}},
    {FP8, {"config.json", S("\"fp8\","), S("\"gptq\",")}, {"'gptq'", "GGUF"}},
    {FP8,
     {"model.safetensors", S("down_proj.weight_scale_inv"), S("down_proj.weight_scale_vni")},
     {"down_proj.weight_scale_inv", "missing"}},
    {FP8,
     {"model.safetensors", S("\"dtype\":\"F32\",\"shape\":[2,2]"),
      S("\"dtype\":\"F32\",\"shape\":[4,1]")},
     {"down_proj", "[4, 1]"}},
    {FP8,
     {"model.safetensors", S("\"dtype\":\"F32\",\"shape\":[2,2]"),
      S("\"dtype\":\"I32\",\"shape\":[2,2]")},
     {"down_proj", "must be F32"}},
    {"../types/fp8-channel",
     {"config.json", S("\"num_bits\": 8"), S("\"num_bits\": 4")},
     {"compressed-tensors", "float-quantized"}},
    {"../types/fp8-channel",
     {"config.json", S("\"float-quantized\""), S("\"pack-quantized\"")},
     {"pack-quantized", "float-quantized"}},
};

/* Numbers that are none: where in the data of FP8, and what the text must have. */
static const struct {
    size_t at;
    char byte;
    const char *words[2];
} no_numbers[] = {
    {3, 0x7F, {"scale 0", "down_proj"}}, /* with the scale's low bytes a NaN, else infinity */
    {83936, 0x7F, {"down of layer 0", "0x7F"}},
    {105695, (char)0xFF, {"down of layer 0", "0xFF"}},
};

START_TEST(numbers_that_are_none_are_refused)
{
    struct copy c;
    struct lodge_error e;
    copy_model(FP8, &c);
    struct bytes b = read_file(c.dir, "model.safetensors");
    uint64_t head;
    memcpy(&head, b.p, sizeof head);
    char *data = b.p + 8 + head;
    ck_assert_uint_lt(8 + head + no_numbers[_i].at, b.n);
    data[no_numbers[_i].at] = no_numbers[_i].byte;
    if (no_numbers[_i].at == 3)
        data[2] = (char)0x80;
    write_file(c.dir, "model.safetensors", b.p, b.n);
    ck_assert_int_eq(open_model(c.path, &e), LODGE_ERR_FORMAT);
    ck_assert_msg(strstr(e.text, c.dir) != NULL, "the file is not named: %s", e.text);
    for (int i = 0; i < 2; i++)
        ck_assert_msg(strstr(e.text, no_numbers[_i].words[i]) != NULL, "'%s' is not in: %s",
                      no_numbers[_i].words[i], e.text);
    free(b.p);
    remove_copy(&c);
}
END_TEST

START_TEST(lies_are_refused)
{
    struct copy c;
    struct lodge_error e;
    copy_model(cases[_i].model, &c);
    apply(c.dir, &cases[_i].edit);
    if (cases[_i].also.file)
        apply(c.dir, &cases[_i].also);
    int err = open_model(c.path, &e);
    remove_copy(&c);
    ck_assert_msg(err, "case %d: %s with '%s' was opened", _i, cases[_i].model,
                  cases[_i].edit.to.data);
    ck_assert_msg(err == LODGE_ERR_FORMAT || err == LODGE_ERR_UNSUPPORTED ||
                      err == LODGE_ERR_NOT_FOUND,
                  "%s: %s", lodge_error_name(err), e.text);
    ck_assert_msg(strstr(e.text, c.dir) != NULL, "the file is not named: %s", e.text);
    for (int i = 0; i < 3 && cases[_i].words[i]; i++)
        ck_assert_msg(strstr(e.text, cases[_i].words[i]) != NULL, "'%s' is not in: %s",
                      cases[_i].words[i], e.text);
    printf("%s\n", e.text + strlen(c.dir));
}
END_TEST

static const char *const whole[] = {"llama2-f32",         "llama3-f16", GGUF,
                                    "tied-q4_0.gguf",     "wide-f16",   "gemma3vision-bf16",
                                    "phi3gguf-q8_0.gguf", FP8,          "../types/k4.gguf"};

START_TEST(untouched_models_open)
{
    struct lodge_error e;
    char *path = lodge_path_join(data_dir, whole[_i]);
    ck_assert_msg(!open_model(path, &e), "%s", e.text);
    free(path);
}
END_TEST

START_TEST(missing_paths_are_refused)
{
    struct lodge_error e;
    ck_assert_int_eq(open_model("/nonexistent/model.gguf", &e), LODGE_ERR_NOT_FOUND);
    ck_assert(strstr(e.text, "/nonexistent/model.gguf"));
    ck_assert(open_model("/dev/null", &e));
    ck_assert(open_model("/tmp", &e));
    ck_assert_msg(strstr(e.text, "config.json"), "%s", e.text);
}
END_TEST

/* A file that was cut short anywhere is refused (the last 32 bytes may be padding). */
START_TEST(cut_files_are_refused)
{
    static const char *const files[] = {GGUF, "model.safetensors"};
    struct copy c;
    struct lodge_error e;
    copy_model(_i ? "llama2-f32" : GGUF, &c);
    struct bytes b = read_file(c.dir, files[_i]);
    for (size_t k = 0; k < 120; k++) {
        size_t n = k < 60 ? k * 37 % b.n : b.n - 33 - (k - 60) * (b.n - 33) / 61;
        write_file(c.dir, files[_i], b.p, n);
        ck_assert_msg(open_model(c.path, &e), "%zu of %zu bytes were opened", n, b.n);
        ck_assert_msg(strstr(e.text, c.dir) != NULL, "the file is not named: %s", e.text);
    }
    free(b.p);
    remove_copy(&c);
}
END_TEST

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static const struct {
    const char *model, *file;
} damaged_files[] = {
    {GGUF, GGUF},
    {"llama2-f32", "model.safetensors"},
    {"llama2-f32", "config.json"},
    {"llama2-f32", "tokenizer.json"},
    {"gemma3vision-bf16", "config.json"},
    {"phi3-f16", "config.json"},
    {"phi3gguf-q8_0.gguf", "phi3gguf-q8_0.gguf"},
    {"gemma2gguf-f16.gguf", "gemma2gguf-f16.gguf"},
};

/* Random damage to heads and side files: opens or is refused with a text. Shapes and tables only,
 * so that many can be tried. */
START_TEST(damage_does_no_harm)
{
    struct copy c;
    struct lodge_error e;
    uint32_t state = 12345u + (uint32_t)_i;
    copy_model(damaged_files[_i].model, &c);
    struct bytes b = read_file(c.dir, damaged_files[_i].file);
    char *damaged = malloc(b.n);
    size_t head = b.n < 12000 ? b.n : 12000;
    for (int round = 0; round < (getenv("LODGE_TEST_SHORT") ? 60 : 250); round++) {
        memcpy(damaged, b.p, b.n);
        for (uint32_t k = 1 + next_random(&state) % 4; k > 0; k--)
            damaged[next_random(&state) % head] = (char)next_random(&state);
        write_file(c.dir, damaged_files[_i].file, damaged, b.n);
        e.text[0] = 0;
        ck_assert(!open_model(c.path, &e) || e.text[0]);
    }
    free(damaged);
    free(b.p);
    remove_copy(&c);
}
END_TEST

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a failing test does not flush */
    data_dir = argc > 1 ? argv[1] : "";
    Suite *s = suite_create("bad files");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, lies_are_refused, 0, sizeof cases / sizeof *cases);
    tcase_add_loop_test(t, untouched_models_open, 0, sizeof whole / sizeof *whole);
    tcase_add_loop_test(t, numbers_that_are_none_are_refused, 0,
                        sizeof no_numbers / sizeof *no_numbers);
    tcase_add_test(t, missing_paths_are_refused);
    tcase_add_loop_test(t, cut_files_are_refused, 0, 2);
    tcase_add_loop_test(t, damage_does_no_harm, 0, sizeof damaged_files / sizeof *damaged_files);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
