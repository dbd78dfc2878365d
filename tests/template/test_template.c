/* The interpreter against Jinja2 (golden files of make_templates.py and make_chats.py), its marks
 * of user text, and its limits. */
#include "base/json.h"
#include "engine/template/chat.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *golden, *chats;

static int render(const char *source, const json_t *vars,
                  const struct lodge_template_limits *limits, struct lodge_rendered *out,
                  struct lodge_error *e)
{
    struct lodge_template *t = NULL;
    int err = lodge_template_parse(source, strlen(source), &t, e);
    if (!err)
        err = lodge_template_render(t, vars, limits, 0, out, e);
    lodge_template_destroy(t);
    return err;
}

START_TEST(equals_jinja)
{
    size_t i;
    json_t *c;
    int wrong = 0;
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        const char *source = json_string_value(json_object_get(c, "template"));
        const char *want = json_string_value(json_object_get(c, "text"));
        struct lodge_rendered out = {0};
        struct lodge_error e = {0};
        int err = render(source, json_object_get(golden, "vars"), &lodge_template_default_limits,
                         &out, &e);
        if (want ? err || strcmp(out.text, want) != 0 : !err) {
            printf("%s\nwant: %s\n got: %s\n", source, want ? want : "an error",
                   err ? e.text : out.text);
            wrong++;
        }
        lodge_rendered_finish(&out);
    }
    ck_assert_int_eq(wrong, 0);
}
END_TEST

/* The parts cover the text, and what the user wrote lies in the user's. */
static void check_marks(const struct lodge_rendered *r, const char *user)
{
    size_t at = 0;
    for (size_t i = 0; i < r->n_parts; i++) {
        ck_assert_uint_eq(r->parts[i].begin, at);
        ck_assert_uint_gt(r->parts[i].end, at);
        at = r->parts[i].end;
    }
    ck_assert_uint_eq(at, r->n);
    const char *found = user ? strstr(r->text, user) : NULL;
    for (size_t i = 0; found && i < r->n_parts; i++) {
        size_t begin = (size_t)(found - r->text), end = begin + strlen(user);
        if (r->parts[i].begin < end && r->parts[i].end > begin)
            ck_assert_msg(r->parts[i].user, "'%s' is not marked as the user's", user);
    }
}

static int render_chat(const struct lodge_template *t, const json_t *chat,
                       struct lodge_rendered *out, struct lodge_error *e)
{
    json_t *special = json_pack("{s:s,s:s}", "bos_token", "<s>", "eos_token", "</s>");
    struct lodge_chat_prompt p = {
        .messages = json_object_get(chat, "messages"),
        .tools = json_object_get(chat, "tools"),
        .kwargs = json_object_get(chat, "kwargs"),
        .special = special,
        .add_generation_prompt = !json_is_false(json_object_get(chat, "add_generation_prompt")),
        .continue_final_message = json_is_true(json_object_get(chat, "continue")),
        .now = (time_t)json_integer_value(json_object_get(chats, "now"))};
    int err = lodge_chat_render(t, &p, out, e);
    json_decref(special);
    return err;
}

static int check_chat(const struct lodge_template *t, const char *shape, const char *name,
                      const json_t *chat)
{
    const json_t *result =
        json_object_get(json_object_get(json_object_get(chats, "results"), shape), name);
    const char *want = json_string_value(json_object_get(result, "text"));
    const char *error = json_string_value(json_object_get(result, "error"));
    struct lodge_rendered out = {0};
    struct lodge_error e = {0};
    int err = render_chat(t, chat, &out, &e);
    bool ok = want ? !err && strcmp(out.text, want) == 0 : err == LODGE_ERR_INVALID;
    /* What the template raised reaches the client as it is. */
    if (ok && !want && json_is_true(json_object_get(result, "raised")))
        ok = strstr(e.text, error) != NULL;
    if (!ok)
        printf("%s, %s:\n--- want %s\n%s\n--- got\n%s\n", shape, name, want ? "" : "an error",
               want ? want : error, err ? e.text : out.text);
    if (ok && want)
        check_marks(&out,
                    strcmp(name, "hostile text") == 0 ? "{{ 7 * 7 }} {% raw %} <|im_end|>" : NULL);
    lodge_rendered_finish(&out);
    return !ok;
}

START_TEST(real_shapes_equal_jinja)
{
    const char *shape, *name;
    json_t *source, *chat;
    int wrong = 0;
    json_object_foreach(json_object_get(chats, "templates"), shape, source)
    {
        struct lodge_template *t = NULL;
        struct lodge_error e = {0};
        ck_assert_msg(
            !lodge_template_parse(json_string_value(source), json_string_length(source), &t, &e),
            "%s: %s", shape, e.text);
        json_object_foreach(json_object_get(chats, "chats"), name, chat) wrong +=
            check_chat(t, shape, name, chat);
        lodge_template_destroy(t);
    }
    ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(user_text_is_marked)
{
    struct lodge_rendered out = {0};
    struct lodge_error e = {0};
    int err = render("<{{ (messages[1].content | upper)[:2] ~ '!' }}>{{ messages[0].role }}",
                     json_object_get(golden, "vars"), &lodge_template_default_limits, &out, &e);
    ck_assert_msg(!err, "%s", e.text);
    ck_assert_str_eq(out.text, "<HI!>system");
    ck_assert_uint_eq(out.n_parts, 3);
    ck_assert(!out.parts[0].user && out.parts[1].user && !out.parts[2].user);
    ck_assert(out.parts[1].begin == 1 && out.parts[1].end == 3);
    lodge_rendered_finish(&out);
}
END_TEST

static const char *const hostile[] = {
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x * 2 %}{% endfor %}"
    "{{ ns.x }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller }}{% call m() %}x{% endcall %}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall "
    "%}"
    "{% endmacro %}{{ n() }}",
    "{{ 'a' * 1000000000000 }}",
    "{{ range(100000000000) }}",
    "{% set l = [1] %}{% for i in range(90) %}{% set _ = l.append(l) %}{% endfor %}{{ l }}",
    "{% set l = [1] %}{% set _ = l.append(l) %}{{ l | tojson }}",
    "{% set l = [1] %}{% set _ = l.append(l) %}{{ l == [1, l] }}{{ l | tojson }}",
    "{% for i in range(90000) %}{{ a * 99 }}"
    "{% endfor %}",
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor "
    "%}",
    /* short: TSan looks at all of what memmem is given, for every letter found */
    "{% set a = 'x' * 1000 %}{% for i in range(100000) %}{% set b = a.replace('x', 'yy') %}"
    "{% endfor %}",
    "{% set a = 'x' * 3000000 %}{% for i in range(10000) %}{{ 'y' in a }}{% endfor %}",
    "{% set l = range(3000) | list %}{% for i in range(100000) %}{{ l | sort | first }}{% endfor "
    "%}",
};

START_TEST(limits_hold)
{
    const char *text = hostile[_i];
    struct lodge_rendered out = {0};
    struct lodge_error e = {0};
    int err =
        render(text, json_object_get(golden, "vars"), &lodge_template_default_limits, &out, &e);
    ck_assert_msg(err == LODGE_ERR_LIMIT && strstr(e.text, "too "), "%s: %s", text, e.text);
    ck_assert(strstr(e.text, "template line"));
}
END_TEST

/* What Jinja2 knows and this server does not is refused by name, with its line. */
static const struct {
    const char *source, *named;
} refused[] = {
    {"a\n{% include 'x' %}", "line 2: the statement 'include' is not supported"},
    {"{% import 'x' as y %}", "'import'"},
    {"{% block a %}x{% endblock %}", "'block'"},
    {"{% autoescape true %}x{% endautoescape %}", "'autoescape'"},
    {"\n\n{{ 'x' | urlize }}", "line 3: no filter named 'urlize'"},
    {"{{ [1] | random }}", "no filter named 'random'"},
    {"{{ 'x' | wordwrap(3) }}", "no filter named 'wordwrap'"},
    {"{{ 1 is nosuch }}", "line 1: no test named 'nosuch'"},
    {"{{ '\\N{BULLET}' }}", "the escape '\\N'"},
    {"\n{{ cycler('a') }}", "line 2: 'cycler' is undefined"},
    {"\n{{ 'x'.casefold() }}", "line 2: 'casefold' is undefined"},
    {"{% if true %}\n{{ 'x' | urlize }}{% endif %}", "line 2: no filter named 'urlize'"},
    {"{{ x[1, 2] }}", "subscripts"},
};

START_TEST(refuses_by_name_and_line)
{
    struct lodge_rendered out = {0};
    struct lodge_error e = {0};
    int err = render(refused[_i].source, json_object_get(golden, "vars"),
                     &lodge_template_default_limits, &out, &e);
    ck_assert(err == LODGE_ERR_FORMAT || err == LODGE_ERR_INVALID);
    ck_assert_msg(strstr(e.text, refused[_i].named), "%s: %s", refused[_i].source, e.text);
}
END_TEST

/* `depth` times what opens, and nothing that closes. */
START_TEST(nesting_is_limited)
{
    static const char *const open[] = {"(",    "[",  "{1:",          "not ", "-",
                                       "a.b[", "f(", "x if y else ", "x|f(", "1**"};
    for (size_t i = 0; i <= sizeof open / sizeof *open; i++) {
        bool blocks = i == sizeof open / sizeof *open;
        const char *unit = blocks ? "{% if a %}" : open[i];
        size_t n = strlen(unit), depth = 100000;
        char *text = malloc(n * depth + 3);
        memcpy(text, blocks ? "  " : "{{", 2);
        for (size_t k = 0; k < depth; k++)
            memcpy(text + 2 + k * n, unit, n);
        struct lodge_template *t = NULL;
        struct lodge_error e = {0};
        int err = lodge_template_parse(text, n * depth + 2, &t, &e);
        ck_assert_msg(err == LODGE_ERR_LIMIT || err == LODGE_ERR_FORMAT, "%s", unit);
        ck_assert_msg(strstr(e.text, "line"), "%s: %s", unit, e.text);
        free(text);
    }
}
END_TEST

int main(int argc, char **argv)
{
    struct lodge_error e = {0};
    setvbuf(stdout, NULL, _IOLBF, 0); /* a failing test does not flush */
    setenv("TZ", "UTC", 1);
    if (argc < 3 || lodge_json_load_file(argv[1], &golden, &e) ||
        lodge_json_load_file(argv[2], &chats, &e)) {
        printf("no golden file: %s\n", e.text);
        return 1;
    }
    Suite *s = suite_create("template");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, equals_jinja);
    tcase_add_test(t, real_shapes_equal_jinja);
    tcase_add_test(t, user_text_is_marked);
    tcase_add_loop_test(t, limits_hold, 0, sizeof hostile / sizeof *hostile);
    tcase_add_loop_test(t, refuses_by_name_and_line, 0, sizeof refused / sizeof *refused);
    tcase_add_test(t, nesting_is_limited);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    json_decref(golden);
    json_decref(chats);
    return failed ? 1 : 0;
}
