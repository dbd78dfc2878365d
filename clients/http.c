#include "clients/http.h"

#include "clients/text.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_REPLY ((size_t)16 << 20)

int http_base_url(const char *given, char *out, size_t room, struct lodge_error *e)
{
    const char *colon = strstr(given, "://"), *scheme = colon ? "" : "http://";
    size_t n = strlen(given);
    if (colon && strncasecmp(given, "http://", 7) != 0 && strncasecmp(given, "https://", 8) != 0)
        n = 0;
    while (n && given[n - 1] == '/')
        n--;
    if (n > 3 && memcmp(given + n - 3, "/v1", 3) == 0)
        n -= 3;
    while (n && given[n - 1] == '/')
        n--;
    if (!n || strlen(scheme) + n >= room)
        return lodge_fail(e, LODGE_ERR_CONFIG, "'%.100s' is no URL such as http://HOST:PORT",
                          given);
    snprintf(out, room, "%s%.*s", scheme, (int)n, given);
    return 0;
}

const char *http_api_key(const char *given)
{
    static const char *const names[] = {"LODGE_API_KEY", "OPENAI_API_KEY"};
    for (int i = 0; i < 2 && !given; i++)
        given = getenv(names[i]);
    return given;
}

/* ---- requests ---- */

struct transfer {
    CURL *curl;
    struct sse_parser *sse; /* NULL: everything goes to `body` */
    struct lodge_buf body;
};

static size_t on_bytes(char *data, size_t size, size_t n, void *cookie)
{
    struct transfer *t = cookie;
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    int err = t->sse && status == 200 ? sse_feed(t->sse, data, size * n)
                                      : lodge_buf_append(&t->body, data, size * n);
    return err ? 0 : size * n;
}

/* The `message` of an error body, or the body itself. */
static int status_error(const struct http_client *c, const struct transfer *t, long status,
                        struct lodge_error *e)
{
    json_t *o = json_loadb(lodge_buf_text(&t->body), t->body.n, 0, NULL);
    const char *message =
        json_string_value(json_object_get(json_object_get(o, "error"), "message"));
    bool no_key = status == 401 && c->key_from;
    int err = lodge_fail(e, status == 503 ? LODGE_ERR_RESOURCE : LODGE_ERR_INVALID,
                         "%s (HTTP %ld)%s%s", message ? message : lodge_buf_text(&t->body), status,
                         no_key ? "; give it by " : "", no_key ? c->key_from : "");
    json_decref(o);
    return err;
}

struct curl_slist *http_headers(const char *api_key)
{
    struct curl_slist *h = curl_slist_append(NULL, "Content-Type: application/json");
    if (api_key && *api_key) {
        size_t n = strlen(api_key) + 32;
        char *line = malloc(n);
        if (line) {
            snprintf(line, n, "Authorization: Bearer %s", api_key);
            h = curl_slist_append(h, line);
        }
        free(line);
    }
    return h;
}

/* As curl_easy_perform, but looks at the interrupt flag ten times a second. */
static CURLcode perform_until(const struct http_client *c, CURL *curl)
{
    CURLM *multi = curl_multi_init();
    CURLcode rc = CURLE_FAILED_INIT;
    int running = 1, left;
    if (!multi || curl_multi_add_handle(multi, curl)) {
        curl_multi_cleanup(multi);
        return rc;
    }
    while (running && !curl_multi_perform(multi, &running) && running) {
        if (c->interrupted && *c->interrupted)
            break;
        curl_multi_poll(multi, NULL, 0, 100, NULL);
    }
    const CURLMsg *m = curl_multi_info_read(multi, &left);
    rc = m ? m->data.result : CURLE_ABORTED_BY_CALLBACK;
    curl_multi_remove_handle(multi, curl);
    curl_multi_cleanup(multi);
    return rc;
}

/* What became of a request: 0 or an error with a text for people. */
static int judge(const struct http_client *c, const struct transfer *t, const char *url,
                 CURLcode rc, struct lodge_error *e)
{
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (rc == CURLE_ABORTED_BY_CALLBACK)
        return lodge_fail(e, LODGE_ERR_CANCELLED, "interrupted");
    if (rc != CURLE_OK && status)
        return lodge_fail(e, LODGE_ERR_IO, "%s: the reply broke off (%s)", url,
                          curl_easy_strerror(rc));
    if (rc != CURLE_OK)
        return lodge_fail(e, LODGE_ERR_RESOURCE, "%s: %s; is the server running?", url,
                          curl_easy_strerror(rc));
    return status == 200 ? 0 : status_error(c, t, status, e);
}

static int perform(const struct http_client *c, const char *method, const char *path,
                   const char *post, struct transfer *t, struct lodge_error *e)
{
    char url[2048];
    snprintf(url, sizeof url, "%s%s", c->url, path);
    t->curl = curl_easy_init();
    struct curl_slist *h = http_headers(c->api_key);
    if (!t->curl || !h) {
        curl_easy_cleanup(t->curl);
        curl_slist_free_all(h);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a request");
    }
    curl_easy_setopt(t->curl, CURLOPT_URL, url);
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, h);
    curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
    if (post)
        curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, post);
    if (method)
        curl_easy_setopt(t->curl, CURLOPT_CUSTOMREQUEST, method);
    int err = judge(c, t, url, perform_until(c, t->curl), e);
    curl_easy_cleanup(t->curl);
    curl_slist_free_all(h);
    return err;
}

/* A request whose reply is one JSON text. A NULL method: GET, or POST with a body. */
static int exchange(const struct http_client *c, const char *method, const char *path,
                    const char *post, json_t **out, struct lodge_error *e)
{
    struct transfer t = {0};
    lodge_buf_init(&t.body, MAX_REPLY);
    int err = perform(c, method, path, post, &t, e);
    if (!err) {
        *out = json_loadb(lodge_buf_text(&t.body), t.body.n, 0, NULL);
        if (!*out)
            err = lodge_fail(e, LODGE_ERR_FORMAT, "%s%s: the reply is no JSON", c->url, path);
    }
    lodge_buf_finish(&t.body);
    return err;
}

int http_get(const struct http_client *c, const char *path, json_t **out, struct lodge_error *e)
{
    return exchange(c, NULL, path, NULL, out, e);
}

int http_delete(const struct http_client *c, const char *path, json_t **out, struct lodge_error *e)
{
    return exchange(c, "DELETE", path, NULL, out, e);
}

int http_post(const struct http_client *c, const char *path, const json_t *body, json_t **out,
              struct lodge_error *e)
{
    char *text = json_dumps(body, JSON_COMPACT);
    int err = text ? exchange(c, NULL, path, text, out, e)
                   : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a request");
    free(text);
    return err;
}

int http_stream(const struct http_client *c, const char *path, const json_t *body,
                struct sse_parser *sse, struct lodge_error *e)
{
    struct transfer t = {.sse = sse};
    lodge_buf_init(&t.body, MAX_REPLY);
    char *text = json_dumps(body, JSON_COMPACT);
    int err = text ? perform(c, NULL, path, text, &t, e)
                   : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a request");
    free(text);
    lodge_buf_finish(&t.body);
    return err;
}
