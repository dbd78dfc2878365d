#include "base/json.h"

#include "base/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct lodge_json_limits lodge_json_body_limits = {
    .max_bytes = (size_t)1 << 30, .max_depth = 64, .max_values = (size_t)1 << 20};
const struct lodge_json_limits lodge_json_file_limits = {
    .max_bytes = (size_t)512 << 20, .max_depth = 64, .max_values = (size_t)1 << 26};

/* Index just past the closing quote of the string that starts at `i`. */
static size_t skip_string(const char *s, size_t n, size_t i)
{
    for (i++; i < n && s[i] != '"'; i++)
        if (s[i] == '\\')
            i++;
    return i;
}

/* One pass over the bytes: jansson allocates per value and recurses per level, so both are
 * counted first. Strings are skipped; anything malformed is left for jansson to name. */
static int check_shape(const char *s, size_t n, const struct lodge_json_limits *limits,
                       const char *where, struct lodge_error *e)
{
    uint32_t depth = 0;
    size_t values = 1;
    for (size_t i = 0; i < n; i++) {
        switch (s[i]) {
        case '"':
            i = skip_string(s, n, i);
            break;
        case '{':
        case '[':
            values++;
            if (++depth > limits->max_depth)
                return lodge_fail(e, LODGE_ERR_LIMIT,
                                  "%s: JSON nested deeper than %u levels; flatten it", where,
                                  limits->max_depth);
            break;
        case '}':
        case ']':
            depth -= depth > 0;
            break;
        case ',':
        case ':':
            values++;
            break;
        default:
            break;
        }
    }
    if (values > limits->max_values)
        return lodge_fail(e, LODGE_ERR_LIMIT, "%s: JSON has more than %zu values", where,
                          limits->max_values);
    return 0;
}

int lodge_json_load(const char *bytes, size_t n, const struct lodge_json_limits *limits,
                    const char *where, json_t **out, struct lodge_error *e)
{
    if (n > limits->max_bytes)
        return lodge_fail(e, LODGE_ERR_LIMIT, "%s: %zu bytes of JSON, more than the %zu allowed",
                          where, n, limits->max_bytes);
    int err = check_shape(bytes, n, limits, where, e);
    if (err)
        return err;
    json_error_t je;
    json_t *v = json_loadb(bytes, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
    if (!v) {
        enum json_error_code why = json_error_code(&je);
        bool null = why == json_error_null_character || why == json_error_null_byte_in_key;
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: invalid JSON at line %d column %d: %s", where,
                          je.line, je.column,
                          null ? "\\u0000 in a string, which is not accepted" : je.text);
    }
    *out = v;
    return 0;
}

int lodge_json_load_file(const char *path, json_t **out, struct lodge_error *e)
{
    char *text = NULL;
    size_t n = 0;
    int err = lodge_file_read(path, lodge_json_file_limits.max_bytes, &text, &n, e);
    if (err)
        return err;
    err = lodge_json_load(text, n, &lodge_json_file_limits, path, out, e);
    free(text);
    return err;
}

json_t *lodge_json_member(const json_t *obj, const char *key)
{
    json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

int lodge_json_get_bool(const json_t *obj, const char *key, bool *out, struct lodge_error *e)
{
    const json_t *v = lodge_json_member(obj, key);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return lodge_fail(e, LODGE_ERR_INVALID, "'%s' must be true or false", key);
    *out = json_is_true(v);
    return 0;
}

int lodge_json_get_int(const json_t *obj, const char *key, int64_t min, int64_t max, int64_t *out,
                       struct lodge_error *e)
{
    const json_t *v = lodge_json_member(obj, key);
    if (!v)
        return 0;
    int64_t n = 0;
    if (json_is_integer(v)) {
        n = json_integer_value(v);
    } else {
        double d = json_is_real(v) ? json_real_value(v) : NAN;
        if (!(fabs(d) < 9.2e18) || d != floor(d))
            return lodge_fail(e, LODGE_ERR_INVALID, "'%s' must be an integer", key);
        n = (int64_t)d;
    }
    if (n < min || n > max)
        return lodge_fail(e, LODGE_ERR_INVALID, "'%s' must be between %lld and %lld, not %lld", key,
                          (long long)min, (long long)max, (long long)n);
    *out = n;
    return 0;
}

int lodge_json_get_double(const json_t *obj, const char *key, double min, double max, double *out,
                          struct lodge_error *e)
{
    const json_t *v = lodge_json_member(obj, key);
    if (!v)
        return 0;
    if (!json_is_number(v))
        return lodge_fail(e, LODGE_ERR_INVALID, "'%s' must be a number", key);
    double d = json_number_value(v);
    if (!(d >= min && d <= max))
        return lodge_fail(e, LODGE_ERR_INVALID, "'%s' must be between %g and %g, not %g", key, min,
                          max, d);
    *out = d;
    return 0;
}

int lodge_json_get_string(const json_t *obj, const char *key, const char **out,
                          struct lodge_error *e)
{
    const json_t *v = lodge_json_member(obj, key);
    if (!v)
        return 0;
    if (!json_is_string(v))
        return lodge_fail(e, LODGE_ERR_INVALID, "'%s' must be a string", key);
    *out = json_string_value(v);
    return 0;
}
