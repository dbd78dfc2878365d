/* A small HTTP client for lodgectl: JSON requests and server-sent events, over libcurl. */
#ifndef LODGE_CLIENTS_HTTP_H
#define LODGE_CLIENTS_HTTP_H

#include "base/error.h"
#include "clients/sse.h"

#include <jansson.h>
#include <signal.h>

/* "http://host:port/v1/" to "http://host:port" in `out`; a URL without a scheme gets http://.
 * CONFIG for an empty or overlong one, or another scheme than http and https. */
int http_base_url(const char *given, char *out, size_t room, struct lodge_error *e);

/* The key as given, else LODGE_API_KEY or OPENAI_API_KEY of the environment, else NULL. */
const char *http_api_key(const char *given);

struct http_client {
    const char *url; /* http://host:port, without a path */
    const char *api_key;
    const char *key_from; /* flags and variables that say it, for errors (401); may be NULL */
    const volatile sig_atomic_t *interrupted; /* a request ends when this becomes non-zero */
};

/* GET path; the parsed body in *out (new reference). RESOURCE when nobody answers. */
int http_get(const struct http_client *c, const char *path, json_t **out, struct lodge_error *e);
int http_delete(const struct http_client *c, const char *path, json_t **out, struct lodge_error *e);
/* POST a body; the parsed reply in *out (new reference). Errors as http_stream. */
int http_post(const struct http_client *c, const char *path, const json_t *body, json_t **out,
              struct lodge_error *e);
/* "Name: value" headers of a JSON request with this key, which may be NULL. NULL without memory. */
struct curl_slist *http_headers(const char *api_key);
/* POST a body and feed the event stream of the reply to `sse`. CANCELLED when interrupted; RESOURCE
 * when nobody answers or the server is busy (503); IO when a reply breaks off; INVALID with the
 * server's own message for other statuses than 200. */
int http_stream(const struct http_client *c, const char *path, const json_t *body,
                struct sse_parser *sse, struct lodge_error *e);

#endif
