/* Problem documents (RFC 9457). */
#include "agent/api/api_request.h"
#include "common/json.h"

void api_problem_write(struct buf *out, int status, const char *code, const char *detail,
                       const char *instance, const char *request_id, const struct api_field *fields,
                       size_t fields_len)
{
    struct json_w w;
    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "type", "about:blank");
    json_kv_cstr(&w, "title", http1_reason(status));
    json_kv_int(&w, "status", status);
    json_kv_cstr(&w, "detail", detail);
    if (instance != NULL) {
        json_kv_cstr(&w, "instance", instance);
    }
    json_kv_cstr(&w, "code", code);
    if (fields_len > 0) {
        json_w_key(&w, "errors");
        json_w_arr(&w);
        for (size_t i = 0; i < fields_len; i++) {
            json_w_obj(&w);
            json_kv_cstr(&w, "field", fields[i].field);
            json_kv_cstr(&w, "detail", fields[i].detail);
            json_w_end(&w);
        }
        json_w_end(&w);
    }
    if (request_id != NULL) {
        json_kv_cstr(&w, "request_id", request_id);
    }
    json_w_end(&w);
    (void)buf_addc(out, '\n');
}
