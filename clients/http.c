#include "clients/http.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINE ((size_t)16 << 20)

/* ---- events
 * ------------------------------------------------------------------------------------------------
 */

void sse_init(struct sse_parser *p, void (*on_data)(void *, const char *, size_t), void *cookie)
{
    *p = (struct sse_parser){.on_data = on_data, .cookie = cookie};
    lodge_buf_init(&p->line, MAX_LINE);
}

void sse_finish(struct sse_parser *p)
{
    lodge_buf_finish(&p->line);
}

static void take_line(struct sse_parser *p)
{
    const char *s = lodge_buf_text(&p->line);
    size_t n = p->line.n;
    if (n && s[n - 1] == '\r')
        n--;
    if (n >= 5 && memcmp(s, "data:", 5) == 0) {
        size_t skip = n > 5 && s[5] == ' ' ? 6 : 5;
        p->on_data(p->cookie, s + skip, n - skip);
    }
    lodge_buf_clear(&p->line);
}

int sse_feed(struct sse_parser *p, const char *bytes, size_t n)
{
    while (n) {
        const char *end = memchr(bytes, '\n', n);
        size_t len = end ? (size_t)(end - bytes) : n;
        if (lodge_buf_append(&p->line, bytes, len))
            return LODGE_ERR_LIMIT;
        if (end)
            take_line(p);
        len += end != NULL;
        bytes += len;
        n -= len;
    }
    return 0;
}

/* ---- requests
 * -------------------------------------------------------------------------------------------------
 */

struct transfer {
    const struct http_client *client;
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

static int on_progress(void *cookie, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    const struct transfer *t = cookie;
    return t->client->interrupted && *t->client->interrupted;
}

/* The `message` of an error body, or the body itself. */
static int status_error(const struct transfer *t, long status, struct lodge_error *e)
{
    json_t *o = json_loadb(lodge_buf_text(&t->body), t->body.n, 0, NULL);
    const char *message =
        json_string_value(json_object_get(json_object_get(o, "error"), "message"));
    lodge_fail(e, status == 503 ? LODGE_ERR_RESOURCE : LODGE_ERR_INVALID, "%s (HTTP %ld)",
               message ? message : lodge_buf_text(&t->body), status);
    json_decref(o);
    return e ? e->code : LODGE_ERR_INVALID;
}

static struct curl_slist *headers(const struct http_client *c)
{
    struct curl_slist *h = curl_slist_append(NULL, "Content-Type: application/json");
    if (c->api_key) {
        size_t n = strlen(c->api_key) + 32;
        char *line = malloc(n);
        if (line) {
            snprintf(line, n, "Authorization: Bearer %s", c->api_key);
            h = curl_slist_append(h, line);
        }
        free(line);
    }
    return h;
}

static int perform(const struct http_client *c, const char *path, const char *post,
                   struct transfer *t, struct lodge_error *e)
{
    char url[2048];
    snprintf(url, sizeof url, "%s%s", c->url, path);
    t->client = c;
    t->curl = curl_easy_init();
    struct curl_slist *h = headers(c);
    if (!t->curl || !h) {
        curl_easy_cleanup(t->curl);
        curl_slist_free_all(h);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a request");
    }
    curl_easy_setopt(t->curl, CURLOPT_URL, url);
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, h);
    curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(t->curl, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(t->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
    if (post)
        curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, post);
    CURLcode rc = curl_easy_perform(t->curl);
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    int err = 0;
    if (rc == CURLE_ABORTED_BY_CALLBACK)
        err = lodge_fail(e, LODGE_ERR_CANCELLED, "interrupted");
    else if (rc != CURLE_OK)
        err = lodge_fail(e, LODGE_ERR_RESOURCE, "%s: %s; is the server running?", url,
                         curl_easy_strerror(rc));
    else if (status != 200)
        err = status_error(t, status, e);
    curl_easy_cleanup(t->curl);
    curl_slist_free_all(h);
    return err;
}

int http_get(const struct http_client *c, const char *path, json_t **out, struct lodge_error *e)
{
    struct transfer t = {0};
    lodge_buf_init(&t.body, MAX_LINE);
    int err = perform(c, path, NULL, &t, e);
    if (!err) {
        *out = json_loadb(lodge_buf_text(&t.body), t.body.n, 0, NULL);
        if (!*out)
            err = lodge_fail(e, LODGE_ERR_FORMAT, "%s%s: the reply is no JSON", c->url, path);
    }
    lodge_buf_finish(&t.body);
    return err;
}

int http_stream(const struct http_client *c, const char *path, const json_t *body,
                struct sse_parser *sse, struct lodge_error *e)
{
    struct transfer t = {.sse = sse};
    lodge_buf_init(&t.body, MAX_LINE);
    char *text = json_dumps(body, JSON_COMPACT);
    int err = text ? perform(c, path, text, &t, e)
                   : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a request");
    free(text);
    lodge_buf_finish(&t.body);
    return err;
}
