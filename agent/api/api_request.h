/*
 * api_request - the pure half of the API: the table of routes, and what requests say in paths,
 * queries and headers. No I/O; every input is from outside.
 */
#ifndef AGENT_API_REQUEST_H
#define AGENT_API_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/http1.h"
#include "common/ids.h"
#include "common/token.h"

/* -- routes -- */

enum api_op {
    API_DASHBOARD,
    API_HEALTH,
    API_READY,
    API_METRICS,
    API_OPENAPI,
    API_STATUS,
    API_EVENTS,
    API_JOB_LIST,
    API_JOB_GET,
    API_JOB_PUT,
    API_JOB_DELETE,
    API_JOB_SUBMIT,
    API_RUN_LIST,
    API_RUN_SUBMIT,
    API_RUN_GET,
    API_RUN_OUTPUT,
    API_RUN_LOGS,
    API_RUN_SAMPLES,
    API_RUN_PLACEMENT,
    API_RUN_CANCEL,
    API_RUN_RETRY,
    API_JOB_PLACEMENT,
    API_PROFILE_LIST,
    API_PROFILE_GET,
    API_NODE_LIST,
    API_NODE_GET,
    API_NODE_DRAIN,
    API_NODE_LEAVE,
    API_MEMBER_LIST,
    API_TABLE_LIST,
    API_HOOK,
    API_HOOK_SIGN,
    API_EVENT_POST,
    API_TRIGGER_LIST,
    API_TRIGGER_TEST,
    API_TRIGGER_FIRE,
    API_TRIGGER_PAUSE,
    API_TRIGGER_RESUME,
    API_CALLBACK_LIST,
    API_CALLBACK_RETRY,
    API_SECRET_LIST,
    API_SECRET_PUT,
    API_SECRET_DELETE,
    API_IMAGE_LIST,
    API_IMAGE_DELETE,
    API_IMAGE_PRUNE,
    API_TOKEN_LIST,
    API_TOKEN_CREATE,
    API_TOKEN_REVOKE,
    API_OPS
};

/* What a route touches: how a token's prefix is held against it. */
enum api_reach {
    API_REACH_ANY,   /* nothing of a job's */
    API_REACH_ALL,   /* everybody's: refused to a token with a prefix */
    API_REACH_JOB,   /* the parameter is a job's name */
    API_REACH_RUN,   /* the parameter is a run's id: the run's job counts */
    API_REACH_IMAGE, /* the parameter is a repository's name */
    API_REACH_QUERY, /* the job in the query, job= */
};

/* A pattern's segments are literal, "{name}" (one segment), or, at the end, "{name...}" (one or
 * more segments). openapi.json has exactly these routes; a unit test compares both ways. */
struct api_route {
    const char *method;
    const char *pattern;
    enum api_op op;
    unsigned scopes; /* enum token_scope: one of these is needed; 0: open to everybody */
    enum api_reach reach;
    const char *summary;
};
extern const struct api_route api_routes[];
extern const size_t api_routes_len;

enum { API_PARAM_CAP = 512, API_ALLOW_CAP = 64 };

enum api_found { API_FOUND, API_NO_PATH, API_NO_METHOD, API_BAD_PATH };

struct api_match {
    const struct api_route *route;
    char param[API_PARAM_CAP]; /* decoded; "" when the route has none. No route has two. */
    char allow[API_ALLOW_CAP]; /* for API_NO_METHOD and OPTIONS: "GET, HEAD, OPTIONS" */
};

/* path is percent-encoded, as sent. HEAD finds GET's route. A "." or ".." segment, an empty one, a
 * bad escape or an encoded '/' in a one-segment parameter is API_BAD_PATH. */
enum api_found api_route_find(struct str method, struct str path, struct api_match *ret);

/* -- who asks -- */

struct api_hosts {
    char listen[256]; /* host parts, lower case, without brackets */
    char advertise[256];
    bool any_ip; /* listening beyond loopback: an IP literal cannot be a rebound name */
};
/* From "host:port" texts. */
void api_hosts_init(struct api_hosts *h, const char *listen, const char *advertise);
/* May a request for this Host be answered? IP literals of loopback, localhost, and the node's own
 * names: a page whose name was bound to our address later says another one. */
bool api_host_ok(const struct api_hosts *h, struct str host);
/* Origin: http(s)://HOST[:PORT] with the Host of the request. "null" is foreign. */
bool api_origin_ok(struct str origin, struct str host);

/* What a request under /v2 needs (enum token_scope: one of these). */
unsigned api_registry_scopes(struct str method);
/* May a token with this prefix touch the path under /v2? query: a mount names a second repository.
 * The base path is everybody's, the catalogue nobody's who has a prefix. */
bool api_registry_covers(const char *prefix, struct str path, struct str query);

/* -- headers -- */

/* The seconds of "wait=N" in Prefer headers, or -1. Capped at max. */
int64_t api_prefer_wait(const struct http1_head *head, uint64_t max_s);
/* 1 to 255 printable ASCII characters? */
bool api_key_ok(struct str key);
/* 1 to 128 of letters, digits and "._:=+/@-"? */
bool api_request_id_ok(struct str id);
/* If-Match: "12" (quotes optional) gives the revision. -EINVAL. */
int api_if_match(struct str value, uint32_t *ret_revision);
/* Is the type JSON (application/json, any +json), parameters ignored? An absent one counts. */
bool api_type_is_json(struct str type);

enum api_range { API_RANGE_WHOLE, API_RANGE_PART, API_RANGE_BAD };
/* One "bytes=" range of a representation of `total` bytes; several or malformed ones are ignored
 * (WHOLE), as RFC 9110 allows; one past the end is BAD (416). */
enum api_range api_range_parse(struct str value, uint64_t total, uint64_t *ret_from,
                               uint64_t *ret_len);

/* -- queries -- */

/* The names that a query may have, NULL-terminated; an unknown one is -EINVAL with the sentence, so
 * that a misspelt filter is no filter. */
int api_query_check(struct str query, const char *const *names, struct err *e);
/* limit=1..1000; 100 when absent. */
int api_query_limit(struct str query, size_t *ret, struct err *e);
/* true for "1", "true", "yes", "" (present without value); false when absent. */
int api_query_flag(struct str query, const char *name, bool *ret, struct err *e);
/* A number in [min, max], `absent` when it is not there. */
int api_query_u64(struct str query, const char *name, uint64_t min, uint64_t max, uint64_t absent,
                  uint64_t *ret, struct err *e);
/* since=: RFC 3339, or a duration before now ("10m"). 0 when absent. */
int api_query_since(struct str query, int64_t now_us, int64_t *ret_us, struct err *e);

/* -- problem documents (RFC 9457) -- */

struct api_field {
    const char *field;
    const char *detail;
};
/* Appends the document. instance and request_id may be NULL; fields_len may be 0. */
void api_problem_write(struct buf *out, int status, const char *code, const char *detail,
                       const char *instance, const char *request_id, const struct api_field *fields,
                       size_t fields_len);

#endif
