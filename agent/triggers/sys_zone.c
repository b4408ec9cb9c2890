#include "agent/triggers/sys_zone.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <zstd.h>

#include "common/insist.h"
#include "common/map.h"
#include "common/mem.h"
#include "common/sys/sys_fd.h"
#include "common/sys/sys_file.h"

enum { ZONES_MAX = 1024, PACK_MAX = 4 * 1024 * 1024, NEAR_MAX = 5, VERSION_CAP = 48 };

/* What packaging/gen-zoneinfo.c made; its format is described there. */
extern const uint8_t zoneinfo_pack[];
extern const size_t zoneinfo_pack_len;

static const char *const directories[] = { "/usr/share/zoneinfo", "/usr/lib/zoneinfo",
                                           "/usr/share/lib/zoneinfo" };

/* Loaded once, kept to the end. */
static struct map zones = { .max = ZONES_MAX };
static char version[VERSION_CAP];

static int unpack(char **ret, size_t *ret_n)
{
    unsigned long long n = ZSTD_getFrameContentSize(zoneinfo_pack, zoneinfo_pack_len);

    if (n > PACK_MAX) {
        return -EBADMSG;
    }
    char *all = mem_alloc((size_t)n);
    if (all == NULL) {
        return -ENOMEM;
    }
    size_t got = ZSTD_decompress(all, (size_t)n, zoneinfo_pack, zoneinfo_pack_len);
    if (ZSTD_isError(got) || got != n) {
        mem_free(all);
        return -EBADMSG;
    }
    *ret = all;
    *ret_n = (size_t)n;
    return 0;
}

/* The next zone of the pack; false at its end. */
static bool pack_next(struct str *rest, struct str *ret_name, struct str *ret_bytes)
{
    struct str line;
    uint64_t n;

    if (!str_split(rest, '\n', &line)) {
        return false;
    }
    ptrdiff_t space = str_rfind(line, ' ');
    if (space < 1 || str_u64_in(str_slice(line, (size_t)space + 1, line.n), 1, rest->n, &n) != 0) {
        return false;
    }
    *ret_name = str_slice(line, 0, (size_t)space);
    *ret_bytes = str_slice(*rest, 0, (size_t)n);
    *rest = str_slice(*rest, (size_t)n, rest->n);
    return true;
}

/* The names most like the one that is not there. */
static void near_names(struct str name, struct str pack, struct err *e)
{
    struct {
        unsigned distance;
        char name[TRIGGER_ZONE_NAME_MAX + 1];
    } best[NEAR_MAX] = { 0 };
    size_t n = 0;
    struct str other;
    struct str bytes;
    char text[NEAR_MAX * (TRIGGER_ZONE_NAME_MAX + 3)] = "";
    size_t len = 0;
    ptrdiff_t slash = str_rfind(name, '/');
    struct str city = str_slice(name, (size_t)(slash + 1), name.n);

    while (pack_next(&pack, &other, &bytes)) {
        ptrdiff_t at = str_rfind(other, '/');
        unsigned whole = str_distance(name, other);
        unsigned part = str_distance(city, str_slice(other, (size_t)(at + 1), other.n));
        unsigned d = part < whole ? part : whole;
        if (d > 3 || other.n > TRIGGER_ZONE_NAME_MAX) {
            continue;
        }
        size_t i = n < NEAR_MAX ? n++ : NEAR_MAX;
        for (; i > 0 && best[i - 1].distance > d; i--) {
            if (i < NEAR_MAX) {
                best[i] = best[i - 1];
            }
        }
        if (i < NEAR_MAX) {
            best[i].distance = d;
            (void)str_copy(best[i].name, sizeof best[i].name, other);
        }
    }
    for (size_t i = 0; i < n; i++) {
        int k = snprintf(text + len, sizeof text - len, "%s%s", i == 0 ? "; did you mean " : ", ",
                         best[i].name);
        len += k > 0 ? (size_t)k : 0;
    }
    (void)err_say(e, -ENOENT, "there is no time zone '%.*s'%s", STR_ARG(name), text);
}

static int from_pack(struct str name, struct trigger_zone **ret, struct err *e)
{
    char AUTO_MEM *all = NULL;
    size_t n = 0;
    struct str line;
    struct str other;
    struct str bytes;
    int rc = unpack(&all, &n);

    if (rc != 0) {
        return err_set(e, rc, "built-in time zones");
    }
    struct str rest = { all, n };
    if (str_split(&rest, '\n', &line)) {
        (void)snprintf(version, sizeof version, "%.*s (built in)", STR_ARG(str_slice(line, 0, 24)));
    }
    struct str walk = rest;
    while (pack_next(&walk, &other, &bytes)) {
        if (str_eq(other, name)) {
            return trigger_zone_parse(name, bytes.p, bytes.n, ret, e);
        }
    }
    near_names(name, rest, e);
    return -ENOENT;
}

/* The version line of tzdata.zi, where the distribution ships it. */
static void host_version(int dirfd)
{
    AUTO_FD int fd = openat(dirfd, "tzdata.zi", O_RDONLY | O_CLOEXEC);
    char head[64] = "";
    ssize_t n = fd >= 0 ? read(fd, head, sizeof head - 1) : 0;
    struct str line = { head, n > 0 ? (size_t)n : 0 };

    if (str_starts(line, "# version ")) {
        line = str_slice(line, 10, line.n);
        ptrdiff_t end = str_find(line, '\n');
        (void)snprintf(version, sizeof version, "%.*s (host)",
                       STR_ARG(str_slice(line, 0, end > 0 && end < 24 ? (size_t)end : 0)));
    } else {
        (void)str_copy(version, sizeof version, STR("unknown (host)"));
    }
}

/* -ENOENT: no host directory has it. */
static int from_host(struct str name, struct trigger_zone **ret, struct err *e)
{
    char path[TRIGGER_ZONE_NAME_MAX + 1];

    (void)str_copy(path, sizeof path, name);
    for (size_t i = 0; i < ARRAY_LEN(directories); i++) {
        AUTO_FD int dirfd = open(directories[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
        AUTO_BUF struct buf bytes = BUF_INIT(TRIGGER_ZONE_FILE_MAX);
        if (dirfd < 0 || sys_read_file(dirfd, path, TRIGGER_ZONE_FILE_MAX, &bytes, NULL) != 0) {
            continue;
        }
        if (version[0] == '\0') {
            host_version(dirfd);
        }
        return trigger_zone_parse(name, bytes.data, bytes.len, ret, e);
    }
    return -ENOENT;
}

int trigger_zone_find(struct str name, const struct trigger_zone **ret, struct err *e)
{
    struct trigger_zone *z = NULL;

    if (str_eqs(name, "UTC")) {
        *ret = trigger_zone_utc();
        return 0;
    }
    if (!trigger_zone_name_ok(name)) {
        return err_say(e, -ENOENT, "'%.*s' is not a time zone's name, such as Europe/Berlin",
                       STR_ARG(str_slice(name, 0, TRIGGER_ZONE_NAME_MAX)));
    }
    const struct trigger_zone *known = map_get(&zones, name);
    if (known != NULL) {
        *ret = known;
        return 0;
    }
    int rc = from_host(name, &z, e);
    /* A broken file of the host is no reason to be without the zone. */
    if (rc == -ENOENT || rc == -EBADMSG || rc == -E2BIG) {
        rc = from_pack(name, &z, e);
    }
    if (rc != 0) {
        return rc;
    }
    rc = map_add(&zones, str_of(trigger_zone_name(z)), z);
    if (rc != 0) {
        trigger_zone_free(z);
        return err_set(e, rc, "time zone '%.*s'", STR_ARG(name));
    }
    *ret = z;
    return 0;
}

const char *trigger_zone_version(void)
{
    return version[0] != '\0' ? version : "none in use";
}
