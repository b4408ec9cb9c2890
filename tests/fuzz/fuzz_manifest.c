/*
 * Manifests, configs and archive documents. The first byte says under which type it comes.
 */
#include <stdint.h>
#include <string.h>

#include "agent/image/image.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_manifest(struct str text, struct str type)
{
    struct image_manifest m;
    struct image_platform host;
    struct err e = { 0 };
    size_t i = 0;
    int r = image_manifest_parse(text, type, &m, &e);
    if (r < 0) {
        INSIST(e.text[0] != '\0');
        return;
    }
    image_platform_host(&host);
    if (m.index && image_index_select(&m, &host, &i, NULL) == 0) {
        INSIST(i < m.entries_len && !m.entries[i].has_artifact_type);
    }
    for (i = 0; i < m.entries_len; i++) {
        INSIST(m.entries[i].digest.algo != DIGEST_NONE);
        (void)image_layer_is_foreign(&m.entries[i]);
        (void)image_layer_type_ok(str_of(m.entries[i].media_type));
    }
    INSIST(m.index || m.config.digest.algo != DIGEST_NONE);
    image_manifest_release(&m);
}

static void fuzz_config(struct str text)
{
    struct image_config c;
    struct image_strv out;
    if (image_config_parse(text, &c, NULL) < 0) {
        return;
    }
    INSIST(c.diff_ids_len <= IMAGE_LAYERS_MAX && c.workdir[0] != '\0');
    if (image_argv(&c, NULL, NULL, &out, NULL) == 0) {
        INSIST(out.n > 0 && out.v[0][0] != '\0' && out.v[out.n] == NULL);
        image_strv_release(&out);
    }
    if (image_env(&c, NULL, &out, NULL) == 0) {
        for (size_t i = 0; i < out.n; i++) {
            INSIST(strchr(out.v[i], '=') > out.v[i]);
        }
        image_strv_release(&out);
    }
    image_config_release(&c);
}

static void fuzz_saved(struct str text)
{
    struct image_saved_list l;
    char name[IMAGE_PATH_MAX];
    (void)image_layout_check(text, NULL);
    if (image_archive_name(text, name) == 0) {
        INSIST(name[0] != '/' && strstr(name, "//") == NULL && strcmp(name, "..") != 0);
    }
    if (image_saved_parse(text, &l, NULL) == 0) {
        for (size_t i = 0; i < l.n; i++) {
            INSIST(l.v[i].config[0] != '/' && strncmp(l.v[i].config, "../", 3) != 0);
        }
        image_saved_release(&l);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const types[] = { "", IMAGE_TYPE_OCI_MANIFEST, IMAGE_TYPE_OCI_INDEX,
                                         IMAGE_TYPE_DOCKER_MANIFEST, IMAGE_TYPE_DOCKER_LIST };
    if (size == 0) {
        return 0;
    }
    struct str text = { (const char *)data + 1, size - 1 };
    unsigned what = data[0] % 7;
    if (what < ARRAY_LEN(types)) {
        fuzz_manifest(text, str_of(types[what]));
    } else if (what == 5) {
        fuzz_config(text);
    } else {
        fuzz_saved(text);
    }
    return 0;
}
