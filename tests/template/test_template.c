/* The interpreter against Jinja2 (golden file), its marks of user text, and its limits. */
#include "base/json.h"
#include "engine/template/chat.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

static json_t *golden;

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
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        const char *source = json_string_value(json_object_get(c, "template"));
        const char *want = json_string_value(json_object_get(c, "text"));
        struct lodge_rendered out = {0};
        struct lodge_error e = {0};
        int err = render(source, json_object_get(golden, "vars"), &lodge_template_default_limits,
                         &out, &e);
        if (want)
            ck_assert_msg(!err && strcmp(out.text, want) == 0, "%s\nwant: %s\n got: %s", source,
                          want, err ? e.text : out.text);
        else
            ck_assert_msg(err, "%s\nwant an error, got: %s", source, err ? "" : out.text);
        lodge_rendered_finish(&out);
    }
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

START_TEST(limits_hold)
{
    static const char *const hostile[] = {
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        ("{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x * 2 %}{% "
         "endfor "
         "%}{{ ns.x }}"),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'a' * 1000000000000 }}",
        "{{ range(100000000000) }}",
        "{% set l = [1] %}{% for i in range(90) %}{% set _ = l.append(l) %}{% endfor %}{{ l }}",
    };
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        struct lodge_rendered out = {0};
        struct lodge_error e = {0};
        ck_assert_msg(render(hostile[i], json_object_get(golden, "vars"),
                             &lodge_template_default_limits, &out, &e) == LODGE_ERR_LIMIT,
                      "%s: %s", hostile[i], e.text);
    }
    char deep[4001];
    memset(deep, '(', 4000);
    memcpy(deep, "{{", 2);
    deep[4000] = 0;
    struct lodge_template *t = NULL;
    ck_assert_int_ne(lodge_template_parse(deep, 4000, &t, NULL), 0);
}
END_TEST

int main(int argc, char **argv)
{
    struct lodge_error e = {0};
    if (argc < 2 || lodge_json_load_file(argv[1], &golden, &e)) {
        printf("no golden file: %s\n", e.text);
        return 1;
    }
    Suite *s = suite_create("template");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, equals_jinja);
    tcase_add_test(t, user_text_is_marked);
    tcase_add_test(t, limits_hold);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    json_decref(golden);
    return failed ? 1 : 0;
}
